package checkpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"testing"
)

// TestAppendSignature holds lines of every length of a signature, modulo that of base64's
// groups, against those that are encoded as a whole.
func TestAppendSignature(t *testing.T) {
	for n := range 40 {
		s := Signature{Name: "log.test/a", KeyID: 0xfbeffbef, Sig: bytes.Repeat([]byte{0xff}, n)}
		for i := range s.Sig {
			s.Sig[i] -= byte(i)
		}
		raw := append(binary.BigEndian.AppendUint32(nil, s.KeyID), s.Sig...)
		want := "before— log.test/a " + base64.StdEncoding.EncodeToString(raw) + "\n"
		if got := s.Append([]byte("before")); string(got) != want {
			t.Errorf("signature of %d bytes: %q, want %q", n, got, want)
		}
		if got := s.lineLength(); got != len(want)-len("before") {
			t.Errorf("signature of %d bytes: line of %d bytes, want %d", n, got, len(want)-len("before"))
		}
	}
}

// TestLastEmptyLine tries every string of up to ten newlines and others.
func TestLastEmptyLine(t *testing.T) {
	for length := range 11 {
		for bits := range 1 << length {
			b := bytes.Repeat([]byte("a"), length)
			for i := range b {
				if bits>>i&1 == 1 {
					b[i] = '\n'
				}
			}
			if got, want := lastEmptyLine(b), bytes.LastIndex(b, []byte("\n\n")); got != want {
				t.Fatalf("%q: %d, want %d", b, got, want)
			}
		}
	}
}
