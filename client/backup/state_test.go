package backup

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

func sample(t testing.TB) *state {
	t.Helper()
	cp := checkpoint.Checkpoint{Origin: "log.test/backup", Root: checkpoint.EmptyRoot()}
	key, err := checkpoint.GenerateEd25519(cp.Origin, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	note, err := checkpoint.SignNote(cp, time.Now(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &state{
		Completed: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Checkpoint: string(note),
		Contents: Contents{Config: "origin: \"x\" # <&>\n", Policy: "log …\n"},
	}
}

// TestState reads what was written, and nothing that differs from it by one bit.
func TestState(t *testing.T) {
	b, err := appendState(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseState(b)
	if err != nil {
		t.Fatal(err)
	}
	if s.Contents != sample(t).Contents || s.checkpoint.Origin != "log.test/backup" || !s.Completed.Equal(sample(t).Completed) {
		t.Errorf("%+v", s)
	}
	for i := range b {
		for bit := range 8 {
			flipped := bytes.Clone(b)
			flipped[i] ^= 1 << bit
			if _, err := parseState(flipped); err == nil {
				t.Errorf("byte %d, bit %d: taken", i, bit)
			}
		}
	}
	for _, cut := range []int{0, 1, len(b) / 2, len(b) - 1} {
		if _, err := parseState(b[:cut]); err == nil {
			t.Errorf("cut to %d bytes: taken", cut)
		}
	}
}

func TestStateRefuses(t *testing.T) {
	for name, c := range map[string]Contents{
		"no text": {Config: "\xff"}, "too large": {Policy: strings.Repeat("x", MaxContent+1)},
	} {
		s := sample(t)
		s.Contents = c
		if _, err := appendState(s); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	good, err := appendState(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	body := good[len(`{"backup":`):bytes.LastIndex(good, []byte(`,"sha256":`))]
	for name, body := range map[string]string{
		"other format":  strings.Replace(string(body), format, "keytrail backup 2", 1),
		"no checkpoint": `{"format":"keytrail backup 1","completed":"2026-11-22T10:00:00Z","checkpoint":"x","config":"","policy":""}`,
		"unknown field": strings.Replace(string(body), `"config"`, `"more":1,"config"`, 1),
	} {
		sum := sha256.Sum256([]byte(body))
		if _, err := parseState([]byte(`{"backup":` + body + `,"sha256":"` + hex.EncodeToString(sum[:]) + "\"}\n")); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzState parses what a stranger left in a backup: without a panic, and what parses is
// what is written.
func FuzzState(f *testing.F) {
	b, err := appendState(sample(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"backup":{},"sha256":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		again, err := appendState(s)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("written as %q, %v", again, err)
		}
	})
}
