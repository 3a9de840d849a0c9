package interop_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/tessera"
	"golang.org/x/mod/sumdb/note"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// policyDifferences are policies on which ours (o), torchwood v0.9.0 (w) and Tessera v1.0.4
// (t) do not agree whether they are one. accepts lists the letters of those that take it.
// For formats, whose parser is Tessera's, proto/policy has the table. {l1} and {l2} are
// Ed25519 keys of logs, {w1} and {w2} of witnesses; {pq log} and {pq witness} ML-DSA-44.
var policyDifferences = []struct {
	name, text, accepts, why string
}{
	{"all agree", "log {l1}\nwitness a {w1} http://a/\nwitness b {w2} http://b/\ngroup g any a b\nquorum g\n", "owt", ""},
	{"ML-DSA-44 log", "log {l1}\nlog {pq log}\nquorum none\n", "ot", "torchwood knows Ed25519 only; Tessera reads no log lines"},
	{"ML-DSA-44 witness", "log {l1}\nwitness a {pq witness} http://a/\nquorum a\n", "ot", "torchwood knows Ed25519 only"},
	{"no URL", "log {l1}\nwitness a {w1}\nquorum a\n", "ow", "the URL is optional; Tessera parses what it is going to ask"},
	{"threshold 0", "log {l1}\nwitness a {w1} http://a/\ngroup g 0 a\nquorum g\n", "t", "k is at least 1; Tessera is satisfied by nobody"},
	{"threshold with zeros", "log {l1}\nwitness a {w1} http://a/\ngroup g 01 a\nquorum g\n", "wt", "one spelling for each number"},
	{"member twice", "log {l1}\nwitness a {w1} http://a/\ngroup g 2 a a\nquorum g\n", "wt", "a name is a member once; Tessera lets one witness count as two, torchwood can then verify nothing"},
	{"key under two names", "log {l1}\nwitness a {w1} http://a/\nwitness b {w1} http://b/\ngroup g 2 a b\nquorum g\n", "wt", "the same key is the same witness"},
	{"witness in two groups", "log {l1}\nwitness a {w1} http://a/\ngroup g all a\ngroup h all a\nquorum h\n", "wt", "a witness contributes in one way"},
	{"two quorums", "log {l1}\nwitness a {w1} http://a/\nquorum a\nquorum none\n", "t", "exactly one; Tessera takes the last"},
	{"no quorum", "log {l1}\nwitness a {w1} http://a/\n", "", "exactly one"},
	{"quorum before its witness", "log {l1}\nquorum a\nwitness a {w1} http://a/\n", "wt", "references point backward"},
	{"words after the quorum", "log {l1}\nwitness a {w1} http://a/\nquorum a b\n", "w", "a line has no more words than it needs"},
	{"words after the log", "log {l1} http://l/ more\nquorum none\n", "wt", "a line has no more words than it needs"},
	{"plain key as witness", "log {l1}\nwitness a {l2} http://a/\nquorum a\n", "t", "type 0x01 signs no time; Tessera reads it as 0x04"},
	{"comment behind", "log {l1} # comment\nquorum none\n", "wt", "a comment is a line of its own"},
	{"no-break space", "log\u00a0{l1}\nquorum none\n", "wt", "space and tab alone separate"},
	{"carriage returns", "log {l1}\r\nquorum none\r\n", "wt", "the octet is not allowed"},
	{"no last newline", "log {l1}\nquorum none", "wt", "the file may be cut off"},
	{"log twice", "log {l1}\nlog {l1}\nquorum none\n", "wt", "a key stands once"},
	{"rubbish as log", "log rubbish\nquorum none\n", "t", "Tessera reads no log lines"},
	{"no log", "witness a {w1} http://a/\nquorum a\n", "owt", "says nothing about any log: all refuse every checkpoint under it"},
}

func TestPolicyDifferences(t *testing.T) {
	l1, l2 := newSigner(t, "interop.test/l1", checkpoint.TypeEd25519), newSigner(t, "interop.test/l2", checkpoint.TypeEd25519)
	w1, w2 := newSigner(t, "interop.test/w1", checkpoint.TypeEd25519Cosignature), newSigner(t, "interop.test/w2", checkpoint.TypeEd25519Cosignature)
	vkeys := strings.NewReplacer(
		"{l1}", l1.VerifierKey().String(), "{l2}", l2.VerifierKey().String(),
		"{w1}", w1.VerifierKey().String(), "{w2}", w2.VerifierKey().String(),
		"{pq log}", newSigner(t, "interop.test/l1", checkpoint.TypeMLDSA44).VerifierKey().String(),
		"{pq witness}", newSigner(t, "interop.test/w1", checkpoint.TypeMLDSA44).VerifierKey().String(),
	)
	for _, d := range policyDifferences {
		text := []byte(vkeys.Replace(d.text))
		_, ours := policy.Parse(text)
		_, tw := torchwood.ParsePolicy(text)
		_, tess := tessera.NewWitnessGroupFromPolicy(text)
		accepts := ""
		for _, p := range []struct {
			letter string
			err    error
		}{{"o", ours}, {"w", tw}, {"t", tess}} {
			if p.err == nil {
				accepts += p.letter
			}
		}
		if accepts != d.accepts {
			t.Errorf("%s (%s): accepted by %q, want %q\nours: %v\ntorchwood: %v\nTessera: %v", d.name, d.why, accepts, d.accepts, ours, tw, tess)
		}
	}
}

// newSigner makes a key; the same for the same name and type.
func newSigner(t testing.TB, name string, typ checkpoint.KeyType) *checkpoint.SignerKey {
	t.Helper()
	seed := bytes.Repeat([]byte{byte(typ)}, 32)
	copy(seed, name[max(0, len(name)-16):])
	k, err := checkpoint.NewSignerKey(name, typ, seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestCheckpointsUnderPolicies compares what ours and torchwood say of checkpoints under
// policies that both read.
func TestCheckpointsUnderPolicies(t *testing.T) {
	const origin = "interop.test/log"
	one, two := newSigner(t, origin, checkpoint.TypeEd25519), newOther(t, origin)
	foreign := newSigner(t, "interop.test/foreign", checkpoint.TypeEd25519)
	w1, w2 := newSigner(t, "interop.test/w1", checkpoint.TypeEd25519Cosignature), newSigner(t, "interop.test/w2", checkpoint.TypeEd25519Cosignature)
	w3 := newSigner(t, "interop.test/w3", checkpoint.TypeEd25519Cosignature)
	vkey := func(k *checkpoint.SignerKey) string { return k.VerifierKey().String() }
	witnesses := fmt.Sprintf("witness a %s\nwitness b %s\nwitness c %s\n", vkey(w1), vkey(w2), vkey(w3))
	group := "log " + vkey(one) + "\n" + witnesses + "group ab any a b\ngroup all all ab c\nquorum all\n"
	single := "log " + vkey(one) + "\nquorum none\n"
	for _, c := range []struct {
		name            string
		policy          string
		signers         []*checkpoint.SignerKey
		ours, torchwood bool
		why             string
	}{
		{"the log's key", single, keys(one), true, true, ""},
		{"another key of that name", single, keys(two), false, false, ""},
		{"both keys, one known", single, keys(one, two), true, true, "unknown keys are ignored"},
		{"first key of two", single + "log " + vkey(two) + "\n", keys(one), true, false, "tlog-policy: signed by any one log; torchwood wants all"},
		{"both keys of two", single + "log " + vkey(two) + "\n", keys(one, two), true, true, ""},
		{"two logs", single + "log " + vkey(foreign) + "\n", keys(one), true, false, "torchwood wants a checkpoint of all logs at once"},
		{"no witness", group, keys(one), false, false, ""},
		{"one of the group", group, keys(one, w1, w3), true, true, ""},
		{"the other of the group", group, keys(one, w2, w3), true, true, ""},
		{"the group alone", group, keys(one, w1, w2), false, false, ""},
		{"all", group, keys(one, w1, w2, w3), true, true, ""},
		{"no log", "quorum none\n", keys(one), false, false, ""},
		{"witnesses without the log", group, keys(w1, w2, w3), false, false, ""},
	} {
		n, err := checkpoint.SignNote(checkpoint.Checkpoint{Origin: origin, Size: 5, Root: [32]byte{5}}, time.Now(), c.signers...)
		if err != nil {
			t.Fatal(err)
		}
		_, ours := verify.Checkpoint(n, wantPolicy(t, c.policy))
		theirs, err := torchwood.ParsePolicy([]byte(c.policy))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, _, tw := torchwood.VerifyCheckpoint(n, theirs)
		if (ours == nil) != c.ours || (tw == nil) != c.torchwood {
			t.Errorf("%s (%s): ours %v, want %v; torchwood %v, want %v", c.name, c.why, ours, c.ours, tw, c.torchwood)
		}
	}
}

func keys(k ...*checkpoint.SignerKey) []*checkpoint.SignerKey { return k }

// newOther makes another Ed25519 key of a name.
func newOther(t testing.TB, name string) *checkpoint.SignerKey {
	t.Helper()
	k, err := checkpoint.NewSignerKey(name, checkpoint.TypeEd25519, bytes.Repeat([]byte{77}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestExtensionLine is about a checkpoint with a fourth line, which a log has signed. The
// specification allows it and warns of it. ML-DSA-44 does not cover it, so ours refuses it
// whoever signed; torchwood takes it under Ed25519, which does cover it.
func TestExtensionLine(t *testing.T) {
	skey, vkey, err := note.GenerateKey(nil, "interop.test/extension")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: "interop.test/extension\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nextension\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	text := "log " + vkey + "\nquorum none\n"
	if _, _, err := torchwood.VerifyCheckpoint(signed, forTorchwood(t, text)); err != nil {
		t.Errorf("torchwood: %v", err)
	}
	_, err = verify.Checkpoint(signed, wantPolicy(t, text))
	var tampered *verify.TamperError
	if !errors.As(err, &tampered) {
		t.Errorf("ours says %v, want tampered", err)
	}
}
