package line_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/internal/line"
)

func TestParseDecimal(t *testing.T) {
	for _, n := range []uint64{0, 1, 9, 10, 1<<63 - 1, 1<<64 - 1} {
		if got, err := line.ParseDecimal(fmt.Append(nil, n)); err != nil || got != n {
			t.Errorf("%d: %d, %v", n, got, err)
		}
	}
	for _, bad := range []string{"", "00", "01", "-1", "+1", " 1", "1 ", "1e3", "0x1", "1_0", "18446744073709551616", "99999999999999999999", "100000000000000000000", "٣"} {
		if got, err := line.ParseDecimal([]byte(bad)); !errors.Is(err, line.ErrDecimal) {
			t.Errorf("%q: %d, %v", bad, got, err)
		}
	}
}

func TestParseBase64(t *testing.T) {
	for _, bad := range []string{"A", "AA", "AA=", "AB==", "AAB=", "AA==AA==", "A A=", "AA\n==", "AA=\r=", "AA==\n", "A-_=", "====", "AAA=="} {
		if got, err := line.ParseBase64([]byte(bad)); !errors.Is(err, line.ErrBase64) {
			t.Errorf("%q: %x, %v", bad, got, err)
		}
	}
	for n := range 70 {
		data := bytes.Repeat([]byte{0xa7}, n)
		got, err := line.ParseBase64([]byte(base64.StdEncoding.EncodeToString(data)))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
	}
}

func TestCutHashes(t *testing.T) {
	var hashes [][line.HashSize]byte
	for n := range line.MaxHashes + 2 {
		text := append(line.AppendHashes(nil, hashes), "\nrest"...)
		got, rest, err := line.CutHashes(text)
		if n > line.MaxHashes {
			if !errors.Is(err, line.ErrTooManyHashes) {
				t.Errorf("%d hashes: %v", n, err)
			}
			break
		}
		if err != nil || len(got) != n || string(rest) != "rest" {
			t.Errorf("%d hashes: %d, %q, %v", n, len(got), rest, err)
		}
		hashes = append(hashes, [line.HashSize]byte{byte(n)})
	}
	good := strings.Repeat("A", 43) + "=\n"
	for text, want := range map[string]error{
		"":                   line.ErrNewline,
		good:                 line.ErrNewline,
		good + good[:44]:     line.ErrNewline,
		good + "x\n\n":       line.ErrHash,
		good + " " + good:    line.ErrHash,
		good[:42] + "B=\n\n": line.ErrHash,
	} {
		if got, _, err := line.CutHashes([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: %d hashes, %v; want %v", text, len(got), err, want)
		}
	}
}

// FuzzParseBase64 compares with encoding/base64, which skips line breaks.
func FuzzParseBase64(f *testing.F) {
	for _, s := range []string{"", "A", "AA==", "AAA=", "AAAA", "AB==", "AAB=", "AA=A", "A===", "====", "AAAA====", "AA==AA==", "AAAAAA==", "+/+/", "-_-_", "AA\n=="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := base64.StdEncoding.Strict().DecodeString(string(b))
		if bytes.ContainsAny(b, "\r\n") {
			wantErr = line.ErrBase64
		}
		got, err := line.ParseBase64(b)
		if (err != nil) != (wantErr != nil) || (err == nil && !bytes.Equal(got, want)) {
			t.Errorf("%q is read as %x, %v; want %x, %v", b, got, err, want, wantErr)
		}
	})
}
