package checkpoint_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestVerifierKeyExample reads the example of signed-note.
func TestVerifierKeyExample(t *testing.T) {
	const vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
	k, err := checkpoint.ParseVerifierKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if k.Name() != "example.com/foo" || k.ID() != 0x530d903a || k.Type() != checkpoint.TypeEd25519 {
		t.Errorf("name %q, id %08x, type %v", k.Name(), k.ID(), k.Type())
	}
	if k.String() != vkey {
		t.Errorf("String() = %q", k.String())
	}
}

func TestVerifierKeyRoundTrip(t *testing.T) {
	ed, cosigner, pq := signers(t)
	for _, s := range []*checkpoint.SignerKey{ed, cosigner, pq} {
		v := s.VerifierKey()
		got, err := checkpoint.ParseVerifierKey(v.String())
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(v) || !got.SameKey(v) || got.ID() != v.ID() {
			t.Errorf("%v: read back as %v", v, got)
		}
		again, err := checkpoint.ParseSignerKey(s.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if !again.VerifierKey().Equal(v) || again.Encode() != s.Encode() {
			t.Errorf("%v: signer key read back as %v", v, again)
		}
	}
}

func TestSameKey(t *testing.T) {
	public := bytes.Repeat([]byte{9}, 32)
	key := func(name string, typ checkpoint.KeyType, public []byte) checkpoint.VerifierKey {
		k, err := checkpoint.NewVerifierKey(name, typ, public)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	a := key("a", checkpoint.TypeEd25519, public)
	b := key("b", checkpoint.TypeEd25519Cosignature, public)
	c := key("a", checkpoint.TypeEd25519, bytes.Repeat([]byte{8}, 32))
	if !a.SameKey(b) || a.Equal(b) || a.ID() == b.ID() {
		t.Errorf("one key under two names and kinds: same %v, equal %v, ids %08x %08x", a.SameKey(b), a.Equal(b), a.ID(), b.ID())
	}
	if a.SameKey(c) || a.Equal(c) {
		t.Error("different keys are the same")
	}
}

func TestParseKeysRefuse(t *testing.T) {
	const vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
	for name, bad := range map[string]string{
		"nothing":             "",
		"name only":           "example.com/foo",
		"no key":              "example.com/foo+530d903a",
		"empty key":           "example.com/foo+530d903a+",
		"wrong id":            strings.Replace(vkey, "530d903a", "530d903b", 1),
		"id of another name":  strings.Replace(vkey, "foo", "fop", 1),
		"upper-case id":       strings.Replace(vkey, "530d903a", "530D903A", 1),
		"short id":            strings.Replace(vkey, "530d903a", "530d903", 1),
		"signed id":           strings.Replace(vkey, "530d903a", "+30d903a", 1),
		"id with prefix":      strings.Replace(vkey, "530d903a", "0x530d90", 1),
		"space in name":       strings.Replace(vkey, "example", "exa mple", 1),
		"no name":             strings.TrimPrefix(vkey, "example.com/foo"),
		"trailing newline":    vkey + "\n",
		"trailing space":      vkey + " ",
		"loose base64":        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2l=",
		"31 bytes":            "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3Q==",
		"ECDSA":               "example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
		"ML-DSA-44, 32 bytes": "example.com/foo+530d903a+BukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
		"name of 256 bytes":   strings.Repeat("n", 256) + strings.TrimPrefix(vkey, "example.com/foo"),
	} {
		if k, err := checkpoint.ParseVerifierKey(bad); err == nil {
			t.Errorf("verifier key, %s: %v", name, k)
		}
	}
	ed, _, _ := signers(t)
	skey := ed.Encode()
	secret := skey[strings.LastIndex(skey, "+")+1:]
	for name, bad := range map[string]string{
		"nothing":          "",
		"verifier key":     vkey,
		"wrong id":         strings.Replace(skey, fmt.Sprintf("%08x", ed.VerifierKey().ID()), "00000000", 1),
		"other name":       strings.Replace(skey, "log.example", "lag.example", 1),
		"trailing newline": skey + "\n",
		"cut off":          skey[:len(skey)-4],
		"longer":           skey + "AAAA",
		"other type":       strings.Replace(skey, "+AQ", "+BQ", 1),
	} {
		k, err := checkpoint.ParseSignerKey(bad)
		if err == nil {
			t.Errorf("signer key, %s: %v", name, k)
		} else if strings.Contains(err.Error(), secret[4:20]) {
			t.Errorf("signer key, %s: error shows the key: %v", name, err)
		}
	}
}

// TestSignerKeyIsNotPrinted looks for the seed, in whatever spelling, in everything that
// prints a key or something that holds one.
func TestSignerKeyIsNotPrinted(t *testing.T) {
	ed, cosigner, pq := signers(t)
	for i, k := range []*checkpoint.SignerKey{ed, cosigner, pq} {
		holder := struct {
			Key  checkpoint.SignerKey
			Ptr  *checkpoint.SignerKey
			deep checkpoint.SignerKey
			any  any
		}{*k, k, *k, *k}
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			fmt.Fprintf(&out, verb+"\n", k)
			fmt.Fprintf(&out, verb+"\n", *k)
			fmt.Fprintf(&out, verb+"\n", holder)
			fmt.Fprintf(&out, verb+"\n", &holder)
			fmt.Fprintf(&out, verb+"\n", []any{k, *k})
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("started", slog.Any("key", k), slog.Any("value", *k), slog.Any("holder", holder))
		}
		if err := json.NewEncoder(&out).Encode(map[string]any{"k": k, "v": *k, "h": holder}); err != nil {
			t.Fatal(err)
		}
		seed := bytes.Repeat([]byte{byte(i + 1)}, 8)
		skey := k.Encode()
		for _, secret := range []string{
			string(seed), fmt.Sprintf("%x", seed), fmt.Sprintf("%X", seed), strings.Trim(fmt.Sprintf("%d", seed), "[]"),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", seed), "[]byte{"), "}"),
			skey[strings.LastIndex(skey, "+")+4:][:16],
		} {
			if strings.Contains(out.String(), secret) {
				t.Errorf("%v: %q is printed in\n%s", k.VerifierKey().Type(), secret, out.String())
			}
		}
	}
}

func TestGenerate(t *testing.T) {
	for typ, generate := range map[checkpoint.KeyType]func(string) (*checkpoint.SignerKey, error){
		checkpoint.TypeEd25519: func(name string) (*checkpoint.SignerKey, error) {
			return checkpoint.GenerateEd25519(name, bytes.NewReader(make([]byte, 32)))
		},
		checkpoint.TypeEd25519Cosignature: func(name string) (*checkpoint.SignerKey, error) {
			return checkpoint.GenerateEd25519Cosigner(name, bytes.NewReader(make([]byte, 32)))
		},
		checkpoint.TypeMLDSA44: func(name string) (*checkpoint.SignerKey, error) {
			return checkpoint.GenerateMLDSA44(name, bytes.NewReader(make([]byte, 32)))
		},
	} {
		k, err := generate("a.example")
		if err != nil {
			t.Fatal(err)
		}
		if k.VerifierKey().Type() != typ {
			t.Errorf("%v, want %v", k.VerifierKey().Type(), typ)
		}
		if _, err := generate("a example"); err == nil {
			t.Error("name with a space is accepted")
		}
	}
	broken := errors.New("broken")
	if _, err := checkpoint.GenerateEd25519("a", errReader{broken}); !errors.Is(err, broken) {
		t.Errorf("source of randomness that fails: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
