package checkpoint_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

const origin = "log.example/keys"

// root is a root hash of no meaning.
var root = [32]byte{1, 2, 3, 31: 0xff}

// signers returns one fixed key of each kind, all named origin.
func signers(t testing.TB) (ed, cosigner, pq *checkpoint.SignerKey) {
	t.Helper()
	key := func(typ checkpoint.KeyType, b byte) *checkpoint.SignerKey {
		k, err := checkpoint.NewSignerKey(origin, typ, bytes.Repeat([]byte{b}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return key(checkpoint.TypeEd25519, 1), key(checkpoint.TypeEd25519Cosignature, 2), key(checkpoint.TypeMLDSA44, 3)
}

func TestSignNote(t *testing.T) {
	ed, cosigner, pq := signers(t)
	want := checkpoint.Checkpoint{Origin: origin, Size: 7, Root: root}
	note, err := checkpoint.SignNote(want, time.Unix(1700000000, 999), ed, cosigner, pq)
	if err != nil {
		t.Fatal(err)
	}
	got, sigs, err := checkpoint.ParseNote(note)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(checkpoint.AppendNote(nil, got, sigs), note) {
		t.Error("note is not written as it was read")
	}
	times := []uint64{0, 1700000000, 1700000000}
	for i, k := range []*checkpoint.SignerKey{ed, cosigner, pq} {
		v := k.VerifierKey()
		for j, s := range sigs {
			if v.Made(s) != (i == j) {
				t.Errorf("%v: Made says %v of signature %d", v.Type(), v.Made(s), j)
			}
		}
		ts, err := v.Verify(got, sigs[i])
		if err != nil || ts != times[i] {
			t.Errorf("%v: Verify = %d, %v; want %d", v.Type(), ts, err, times[i])
		}
		checkRefused(t, v, got, sigs[i])
	}
}

// checkRefused changes everything that a signature covers, and its own bytes.
func checkRefused(t *testing.T, v checkpoint.VerifierKey, c checkpoint.Checkpoint, s checkpoint.Signature) {
	t.Helper()
	other := c
	other.Origin += "2"
	bigger := c
	bigger.Size++
	forked := c
	forked.Root[5] ^= 1
	for what, c := range map[string]checkpoint.Checkpoint{"origin": other, "size": bigger, "root": forked} {
		if _, err := v.Verify(c, s); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("%v: other %s: %v", v.Type(), what, err)
		}
	}
	for i := range s.Sig {
		bad := s
		bad.Sig = bytes.Clone(s.Sig)
		bad.Sig[i] ^= 0x10
		if _, err := v.Verify(c, bad); !errors.Is(err, checkpoint.ErrSignature) {
			t.Fatalf("%v: byte %d changed: %v", v.Type(), i, err)
		}
	}
	for _, n := range []int{0, 1, 7, 8, 9, 64, len(s.Sig) - 1} {
		bad := s
		bad.Sig = s.Sig[:n]
		if n == len(s.Sig) {
			continue
		}
		if _, err := v.Verify(c, bad); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("%v: %d bytes of signature: %v", v.Type(), n, err)
		}
	}
	bad := s
	bad.Sig = append(bytes.Clone(s.Sig), 0)
	if _, err := v.Verify(c, bad); !errors.Is(err, checkpoint.ErrSignature) {
		t.Errorf("%v: a byte more: %v", v.Type(), err)
	}
	for _, bad := range []checkpoint.Signature{
		{Name: s.Name, KeyID: s.KeyID ^ 1, Sig: s.Sig},
		{Name: s.Name + "2", KeyID: s.KeyID, Sig: s.Sig},
	} {
		if _, err := v.Verify(c, bad); err == nil || v.Made(bad) {
			t.Errorf("%v: signature of %q %08x verifies", v.Type(), bad.Name, bad.KeyID)
		}
	}
}

// TestTimestampLimit has signatures that are good but for their time, which tlog-cosignature
// forbids; Sign does not make them.
func TestTimestampLimit(t *testing.T) {
	_, cosigner, _ := signers(t)
	c := checkpoint.Checkpoint{Origin: origin, Size: 7, Root: root}
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)) // as in signers
	for timestamp, want := range map[uint64]error{1<<63 - 1: nil, 1 << 63: checkpoint.ErrSignature, 1<<64 - 1: checkpoint.ErrSignature} {
		sig := binary.BigEndian.AppendUint64(nil, timestamp)
		sig = append(sig, ed25519.Sign(private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", timestamp, c.Text()))...)
		s := checkpoint.Signature{Name: origin, KeyID: cosigner.VerifierKey().ID(), Sig: sig}
		if _, err := cosigner.VerifierKey().Verify(c, s); !errors.Is(err, want) {
			t.Errorf("time %d: %v, want %v", timestamp, err, want)
		}
		if _, err := cosigner.Sign(c, timestamp); (err == nil) != (want == nil) {
			t.Errorf("signing with time %d: %v", timestamp, err)
		}
	}
	if _, err := checkpoint.SignNote(c, time.Unix(-1, 0), cosigner); err == nil {
		t.Error("a time before 1970 is signed")
	}
	if _, err := checkpoint.SignNote(c, time.Unix(1, 0)); err == nil {
		t.Error("a note without signer is written")
	}
	for _, bad := range []checkpoint.Checkpoint{
		{Origin: "with space", Size: 7, Root: root}, {Size: 7, Root: root},
		{Origin: origin, Root: root}, {Origin: origin, Size: 1, Root: checkpoint.EmptyRoot()},
	} {
		if _, err := cosigner.Sign(bad, 1); err == nil {
			t.Errorf("%+v is signed", bad)
		}
	}
}

func TestParseTextRefuses(t *testing.T) {
	const h = "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8="
	if _, err := checkpoint.ParseText([]byte("o\n7\n" + h + "\n")); err != nil {
		t.Fatal(err)
	}
	empty := base64.StdEncoding.EncodeToString(func() []byte { r := checkpoint.EmptyRoot(); return r[:] }())
	if _, err := checkpoint.ParseText([]byte("o\n0\n" + empty + "\n")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":              "",
		"one line":             "o\n",
		"two lines":            "o\n7\n",
		"no last newline":      "o\n7\n" + h,
		"no origin":            "\n7\n" + h + "\n",
		"origin with space":    "o o\n7\n" + h + "\n",
		"origin with nbsp":     "o\u00a0o\n7\n" + h + "\n",
		"origin with plus":     "o+o\n7\n" + h + "\n",
		"origin with tab":      "o\to\n7\n" + h + "\n",
		"origin with delete":   "o\x7f\n7\n" + h + "\n",
		"origin not UTF-8":     "o\xff\n7\n" + h + "\n",
		"origin of 256 bytes":  strings.Repeat("o", 256) + "\n7\n" + h + "\n",
		"carriage return":      "o\r\n7\r\n" + h + "\r\n",
		"no size":              "o\n\n" + h + "\n",
		"leading zero":         "o\n07\n" + h + "\n",
		"00":                   "o\n00\n" + empty + "\n",
		"plus sign":            "o\n+7\n" + h + "\n",
		"minus sign":           "o\n-7\n" + h + "\n",
		"hexadecimal":          "o\n0x7\n" + h + "\n",
		"2^64":                 "o\n18446744073709551616\n" + h + "\n",
		"size with space":      "o\n7 \n" + h + "\n",
		"root of 31 bytes":     "o\n7\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n",
		"root of 33 bytes":     "o\n7\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
		"loose base64":         "o\n7\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP9=\n",
		"no padding":           "o\n7\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8\n",
		"URL base64":           "o\n7\nAQID_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=\n",
		"size 0, other root":   "o\n0\n" + h + "\n",
		"empty root, size 1":   "o\n1\n" + empty + "\n",
		"space after the root": "o\n7\n" + h + " \n",
	} {
		c, err := checkpoint.ParseText([]byte(text))
		if err == nil || errors.Is(err, checkpoint.ErrExtension) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	for name, text := range map[string]string{
		"extension":       "o\n7\n" + h + "\nmore\n",
		"empty extension": "o\n7\n" + h + "\n\n",
		"cut extension":   "o\n7\n" + h + "\nmore",
	} {
		c, err := checkpoint.ParseText([]byte(text))
		if !errors.Is(err, checkpoint.ErrExtension) || c.Origin != "o" || c.Size != 7 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestParseNoteRefuses(t *testing.T) {
	ed, _, _ := signers(t)
	note, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: origin, Size: 7, Root: root}, time.Unix(1, 0), ed)
	if err != nil {
		t.Fatal(err)
	}
	text, sig, _ := strings.Cut(string(note), "\n\n")
	text += "\n"
	for name, bad := range map[string]string{
		"nothing":                 "",
		"text only":               text,
		"no signature":            text + "\n",
		"no empty line":           text + sig,
		"no last newline":         strings.TrimSuffix(string(note), "\n"),
		"trailing line":           string(note) + "x\n",
		"trailing empty line":     string(note) + "\n",
		"hyphen for dash":         text + "\n" + strings.Replace(sig, "—", "-", 1),
		"two spaces":              text + "\n" + strings.Replace(sig, "— ", "—  ", 1),
		"space at the end":        text + "\n" + strings.Replace(sig, "\n", " \n", 1),
		"no name":                 text + "\n— AAAAAAAA\n",
		"empty name":              text + "\n—  AAAAAAAA\n",
		"plus in name":            text + "\n— a+b AAAAAAAA\n",
		"key id without more":     text + "\n— a AAAAAA==\n",
		"no base64":               text + "\n— a \n",
		"loose base64":            text + "\n— a AAAAAAB=\n",
		"carriage return":         strings.ReplaceAll(string(note), "\n", "\r\n"),
		"tab":                     strings.Replace(string(note), "log", "log\t", 1),
		"not UTF-8":               strings.Replace(string(note), "log", "log\xc0\x80", 1),
		"101 signatures":          text + "\n" + strings.Repeat(sig, 101),
		"larger than MaxNoteSize": text + "\n— a " + strings.Repeat("AAAA", checkpoint.MaxNoteSize/4) + "\n",
	} {
		if c, _, err := checkpoint.ParseNote([]byte(bad)); err == nil || errors.Is(err, checkpoint.ErrExtension) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, sigs, err := checkpoint.ParseNote([]byte(text + "\n" + strings.Repeat(sig, 100))); err != nil || len(sigs) != 100 {
		t.Errorf("100 signatures: %d, %v", len(sigs), err)
	}
	for name, ext := range map[string]string{
		"extension":                       text + "evil\n\n" + sig,
		"signatures inside the text":      string(note) + "\n" + sig,
		"empty line before the signature": text + "\n\n" + sig,
	} {
		c, sigs, err := checkpoint.ParseNote([]byte(ext))
		if !errors.Is(err, checkpoint.ErrExtension) || c.Origin != origin || len(sigs) != 1 {
			t.Errorf("%s: %+v, %d signatures, %v", name, c, len(sigs), err)
		}
	}
}
