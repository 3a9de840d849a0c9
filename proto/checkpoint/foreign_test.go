package checkpoint_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// sumdbOrigin is the origin of sum.golang.org, which is no key name.
const sumdbOrigin = "go.sum database tree"

func TestCheckOrigin(t *testing.T) {
	for _, good := range []string{origin, sumdbOrigin, "a+b", "é", strings.Repeat("o", checkpoint.MaxNameLength)} {
		if err := checkpoint.CheckOrigin(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", " a", "a ", "a\nb", "a\x7f", "a\u0085b", "\u00a0a", "\xff", strings.Repeat("o", checkpoint.MaxNameLength+1)} {
		if checkpoint.CheckOrigin(bad) == nil {
			t.Errorf("%q is an origin", bad)
		}
	}
}

func TestParseForeignNote(t *testing.T) {
	h := base64.StdEncoding.EncodeToString(root[:])
	const sig = "\n— sum.golang.org AAAAAAE=\n"
	for name, c := range map[string]struct {
		note string
		bad  bool
		want error // nil for any error
	}{
		"foreign origin":            {note: sumdbOrigin + "\n7\n" + h + "\n" + sig},
		"size 0 with another root":  {note: "o\n0\n" + h + "\n" + sig},
		"extension":                 {note: "o\n7\n" + h + "\nmore\n" + sig, bad: true, want: checkpoint.ErrExtension},
		"leading zero":              {note: "o\n07\n" + h + "\n" + sig, bad: true},
		"empty origin":              {note: "\n7\n" + h + "\n" + sig, bad: true},
		"no signature":              {note: "o\n7\n" + h + "\n\n", bad: true},
		"signature without newline": {note: strings.TrimSuffix("o\n7\n"+h+"\n"+sig, "\n"), bad: true},
	} {
		got, sigs, err := checkpoint.ParseForeignNote([]byte(c.note))
		if (err != nil) != c.bad || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v, want an error %v, %v", name, err, c.bad, c.want)
		}
		if err == nil && !bytes.Equal(checkpoint.AppendNote(nil, got, sigs), []byte(c.note)) {
			t.Errorf("%s: is written otherwise than it was read", name)
		}
	}
}

func TestCosign(t *testing.T) {
	ed, err := checkpoint.GenerateEd25519Cosigner("w.test/1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pq, err := checkpoint.GenerateMLDSA44("w.test/1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := checkpoint.GenerateEd25519("w.test/1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := checkpoint.Checkpoint{Origin: sumdbOrigin, Size: 7, Root: root}
	for _, k := range []*checkpoint.SignerKey{ed, pq} {
		s, err := k.Cosign(c, 1700000000)
		if err != nil {
			t.Fatal(err)
		}
		if at, err := k.VerifierKey().Verify(c, s); err != nil || at != 1700000000 {
			t.Errorf("%v: %d, %v", k.VerifierKey().Type(), at, err)
		}
		if _, err := k.Cosign(c, 0); err == nil {
			t.Errorf("%v: cosigned without a time", k.VerifierKey().Type())
		}
		if _, err := k.Cosign(checkpoint.Checkpoint{Origin: "o", Root: root}, 1); err == nil {
			t.Errorf("%v: cosigned an empty tree with a root of something", k.VerifierKey().Type())
		}
		if _, err := k.Sign(c, 1); err == nil {
			t.Errorf("%v: a log's signature over an origin that is no name", k.VerifierKey().Type())
		}
	}
	if _, err := plain.Cosign(c, 1); err == nil {
		t.Error("cosigned with a key whose signatures carry no time")
	}
}
