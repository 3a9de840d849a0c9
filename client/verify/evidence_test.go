package verify_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
)

// evidenceVector is one file of evidence and what it proves.
type evidenceVector struct {
	Description string         `json:"description"`
	Policy      string         `json:"policy,omitempty"`
	LogKeys     []logKeyVector `json:"log_keys,omitempty"`
	Evidence    string         `json:"evidence"`
	// Verdict is "proven" or "unverifiable"; Because is the kind or the reason.
	Verdict   string   `json:"verdict"`
	Because   string   `json:"because"`
	Log       bool     `json:"log_convicted"`
	Witnesses []string `json:"witnesses_convicted,omitempty"`
}

type logKeyVector struct {
	Origin string `json:"origin"`
	VKey   string `json:"vkey"`
}

// twins returns two logs with the same keys whose histories part after 4 entries.
func twins(t testing.TB, n int) (l, fork *testLog) {
	t.Helper()
	l, fork = newLog(t, origin, n), newLog(t, origin, 4)
	for range n - 4 {
		r := fork.record(fork.tree.Size())
		r.Producer = "another history"
		fork.append(fork.payload(r))
	}
	return l, fork
}

// early returns a history that parts from the twins' before the fourth entry.
func early(t testing.TB) *testLog {
	t.Helper()
	l := newLog(t, origin, 3)
	r := l.record(3)
	r.Producer = "a third history"
	l.append(l.payload(r))
	return l
}

// proof returns the consistency proof of a log as evidence holds it.
func (l *testLog) proof(from, to uint64) [][32]byte { return l.bundle(from, to, l.ed).Hashes }

// prefix returns the log's root at a size, as evidence holds it.
func (l *testLog) prefix(size uint64) *[32]byte {
	root := l.checkpoint(size).Root
	return &root
}

func evidenceVectors(t *testing.T) map[string]evidenceVector {
	l, fork := twins(t, 7)
	w := key(t, "witness.example", checkpoint.TypeMLDSA44, 0x61)
	v := key(t, "other-witness.example", checkpoint.TypeEd25519Cosignature, 0x62)
	p := l.policy()
	p.Witnesses = []policy.Witness{{Name: "w", Key: w.VerifierKey()}, {Name: "v", Key: v.VerifierKey()}}
	p.Quorum = "w"
	cases := make(map[string]evidenceVector)
	add := func(name, description string, e verify.TamperError) *evidenceVector {
		if e.Origin == "" {
			e.Origin = origin
		}
		cases[name] = evidenceVector{Description: description, Policy: p.String(), Evidence: string(e.Evidence())}
		c := cases[name]
		return &c
	}
	proven := func(name, description string, e verify.TamperError, because verify.Kind, log bool, witnesses ...string) {
		c := add(name, description, e)
		c.Verdict, c.Because, c.Log, c.Witnesses = "proven", string(because), log, witnesses
		cases[name] = *c
	}
	nothing := func(name, description string, e verify.TamperError, because verify.Reason) {
		c := add(name, description, e)
		c.Verdict, c.Because = "unverifiable", string(because)
		cases[name] = *c
	}
	third := early(t)
	const forked = verify.KindFork
	a7, b7 := l.checkpoint(7), fork.checkpoint(7)

	proven("fork", "The log signed two trees of seven entries.",
		verify.TamperError{Kind: forked, Detail: "fork", Old: l.sign(a7), New: fork.sign(b7)}, forked, true)
	proven("fork-different-keys", "One tree is signed with one of the log's keys, one with the other.",
		verify.TamperError{Kind: forked, Old: l.sign(a7, l.ed), New: fork.sign(b7, l.pq)}, forked, true)
	proven("fork-with-witness", "The witness w cosigned both trees; the witness v only one.",
		verify.TamperError{Kind: forked, Old: l.sign(a7, l.ed, l.pq, w, v), New: fork.sign(b7, l.ed, l.pq, w)}, forked, true, "w")
	proven("fork-witness-only", "The log signed one tree; the witness cosigned both.",
		verify.TamperError{Kind: forked, Old: l.sign(a7, l.ed, w), New: fork.sign(b7, w)}, forked, false, "w")
	proven("fork-longer", "A consistency proof leads to the larger tree's root and to another root of five entries than the signed one.",
		verify.TamperError{Kind: verify.KindConsistency, Old: l.sign(l.checkpoint(5)), New: fork.sign(b7), Proof: fork.proof(5, 7)}, forked, true)
	proven("fork-longer-first", "The same with the larger tree first.",
		verify.TamperError{Kind: verify.KindWentBack, Old: fork.sign(b7, l.ed, w), New: l.sign(l.checkpoint(5), l.ed, w), Proof: fork.proof(5, 7)}, forked, true, "w")
	proven("fork-longer-power-of-two", "Of a power of two the proof does not give the root, so the file does.",
		verify.TamperError{Kind: forked, Old: third.sign(third.checkpoint(4)), New: fork.sign(b7), Proof: fork.proof(4, 7), PrefixRoot: fork.prefix(4)}, forked, true)
	proven("claims-less", "The file says that a signature is bad; the signatures are good and show a fork.",
		verify.TamperError{Kind: verify.KindLogSignature, Origin: "someone.else", Old: l.sign(a7), New: fork.sign(b7)}, forked, true)

	nothing("fork-longer-no-prefix", "Of a power of two, and the file does not give the root.",
		verify.TamperError{Kind: forked, Old: third.sign(third.checkpoint(4)), New: fork.sign(b7), Proof: fork.proof(4, 7)}, verify.ReasonNoProof)
	nothing("claims-without-proof", "Trees of different sizes and no proof.",
		verify.TamperError{Kind: verify.KindConsistency, Old: l.sign(l.checkpoint(5)), New: fork.sign(b7)}, verify.ReasonNoProof)
	nothing("claims-with-bad-proof", "Anyone can attach a proof that leads nowhere.",
		verify.TamperError{Kind: verify.KindConsistency, Old: l.sign(l.checkpoint(5)), New: l.sign(a7), Proof: fork.proof(5, 7)}, verify.ReasonNoProof)
	nothing("claims-invented-prefix", "An invented root of the first entries does not lead to the signed root.",
		verify.TamperError{Kind: forked, Old: l.sign(l.checkpoint(4)), New: l.sign(a7), Proof: l.proof(4, 7), PrefixRoot: l.prefix(5)}, verify.ReasonNoProof)
	nothing("consistent", "The proof shows that the larger tree extends the smaller one.",
		verify.TamperError{Kind: verify.KindConsistency, Old: l.sign(l.checkpoint(5)), New: l.sign(a7), Proof: l.proof(5, 7)}, verify.ReasonNoProof)
	nothing("went-back", "The smaller tree may have been signed first.",
		verify.TamperError{Kind: verify.KindWentBack, Old: l.sign(a7), New: l.sign(l.checkpoint(5))}, verify.ReasonNoProof)
	nothing("same-tree", "Both checkpoints are of one tree.",
		verify.TamperError{Kind: forked, Old: l.sign(a7, l.ed), New: l.sign(a7, l.pq)}, verify.ReasonNoProof)
	nothing("from-nothing", "Every tree extends the empty one.",
		verify.TamperError{Kind: forked, Old: l.sign(l.checkpoint(0)), New: l.sign(a7)}, verify.ReasonNoProof)
	nothing("altered-signature", "A signature that does not verify shows that the file was altered.",
		verify.TamperError{Kind: verify.KindLogSignature, New: forge(t, l.sign(a7), l.ed.VerifierKey())}, verify.ReasonAltered)
	nothing("altered-root", "The root of one checkpoint was changed; the signatures are those of the true one.",
		verify.TamperError{Kind: forked, Old: l.sign(a7), New: bytes.Replace(l.sign(a7), a7.Text(), b7.Text(), 1)}, verify.ReasonAltered)
	nothing("unsigned", "The other tree is signed by a key that nobody knows.",
		verify.TamperError{Kind: forked, Old: l.sign(a7), New: fork.sign(b7, key(t, origin, checkpoint.TypeEd25519, 0x77))}, verify.ReasonNoSignature)
	nothing("unsigned-old", "The old tree is signed by a key that nobody knows.",
		verify.TamperError{Kind: forked, Old: l.sign(a7, key(t, origin, checkpoint.TypeEd25519, 0x77)), New: fork.sign(b7)}, verify.ReasonNoSignature)
	nothing("witnesses-differ", "Of the other tree there is one cosignature, of another witness.",
		verify.TamperError{Kind: forked, Old: l.sign(a7, l.ed, w), New: fork.sign(b7, v)}, verify.ReasonNoSignature)
	other := newLog(t, "other.example/keys", 7)
	nothing("unknown-log", "A fork of a log of which no key is known.",
		verify.TamperError{Kind: forked, Origin: other.origin, Old: other.sign(other.checkpoint(7)), New: other.sign(checkpoint.Checkpoint{Origin: other.origin, Size: 7, Root: b7.Root})}, verify.ReasonUnknownLog)
	nothing("no-checkpoint", "There is no new checkpoint.", verify.TamperError{Kind: forked, Old: l.sign(a7)}, verify.ReasonMalformed)
	nothing("extension", "Lines follow the root hash.",
		verify.TamperError{Kind: verify.KindExtension, New: bytes.Replace(l.sign(a7, l.pq), []byte("\n\n"), []byte("\nevil\n\n"), 1)}, verify.ReasonNoProof)

	two := add("two-logs", "One checkpoint is of another log.", verify.TamperError{Kind: forked, Old: l.sign(a7), New: other.sign(other.checkpoint(7))})
	two.Verdict, two.Because = "unverifiable", string(verify.ReasonOtherLog)
	two.LogKeys = []logKeyVector{{other.origin, other.ed.VerifierKey().String()}}
	cases["two-logs"] = *two
	stranger := add("key-of-another-log", "The other tree is signed with a known key, which is of another log.",
		verify.TamperError{Kind: forked, Old: l.sign(a7), New: fork.sign(b7, other.ed)})
	stranger.Verdict, stranger.Because, stranger.LogKeys = "unverifiable", string(verify.ReasonNoSignature), two.LogKeys
	cases["key-of-another-log"] = *stranger

	addForeign(t, cases)
	addRecords(t, l, proven, nothing)
	addMalformed(cases)
	return cases
}

func addForeign(t *testing.T, cases map[string]evidenceVector) {
	const foreign = "go.sum database tree"
	k := key(t, "sum.example", checkpoint.TypeEd25519, 0x41)
	w := key(t, "witness.example", checkpoint.TypeEd25519Cosignature, 0x42)
	sign := func(n byte) []byte {
		c := checkpoint.Checkpoint{Origin: foreign, Size: 9, Root: [32]byte{n}}
		cosigned, err := w.Cosign(c, uint64(signedAt.Unix()))
		if err != nil {
			t.Fatal(err)
		}
		return checkpoint.AppendNote(nil, c, []checkpoint.Signature{{
			Name: k.Name(), KeyID: k.VerifierKey().ID(),
			// Our signer refuses such an origin; an Ed25519 signature is over the text.
			Sig: ed25519.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x41}, 32)), c.Text()),
		}, cosigned})
	}
	e := &verify.TamperError{Kind: verify.KindFork, Origin: foreign, Old: sign(1), New: sign(2)}
	p := &policy.Policy{Witnesses: []policy.Witness{{Name: "w", Key: w.VerifierKey()}}, Quorum: "w"}
	v := evidenceVector{
		Description: "A log of other people, whose origin is no key name, given with its key; no policy.",
		LogKeys:     []logKeyVector{{foreign, k.VerifierKey().String()}}, Evidence: string(e.Evidence()),
		Verdict: "proven", Because: string(verify.KindFork), Log: true,
	}
	cases["foreign"] = v
	v.Description, v.Policy, v.Witnesses = "The same with a policy that names a witness.", p.String(), []string{"w"}
	cases["foreign-with-witness"] = v
	v.Description, v.LogKeys, v.Log, v.Witnesses = "The key is given under its own name, which is not the origin.", []logKeyVector{{"sum.example", k.VerifierKey().String()}}, false, nil
	v.Verdict, v.Because = "unverifiable", string(verify.ReasonUnknownLog)
	cases["foreign-wrong-origin"] = v
}

// addRecords adds receipts that convict the log, or do not.
func addRecords(t *testing.T, l *testLog, proven func(string, string, verify.TamperError, verify.Kind, bool, ...string),
	nothing func(string, string, verify.TamperError, verify.Reason),
) {
	of := func(kind verify.Kind, r *receipt.Receipt) verify.TamperError {
		return verify.TamperError{Kind: kind, New: r.Checkpoint, Proof: r.Hashes, File: r.Append(nil)}
	}
	bad := newLog(t, origin, 3)
	bad.append(bad.payload(bad.record(7)))
	bad.append([]byte("no salt, and no record behind it: the log committed to rubbish"))
	proven("record-index", "The log committed as entry 3 to a record that says it is entry 7.",
		of(verify.KindRecordIndex, bad.receipt(3, 5)), verify.KindRecordIndex, true)
	proven("record", "The log committed as entry 4 to what is no record.",
		of(verify.KindRecord, bad.receipt(4, 5)), verify.KindRecord, true)

	nothing("good-receipt", "Nothing is wrong with the receipt.", of(verify.KindInclusion, l.receipt(3, 7)), verify.ReasonNoProof)
	altered := l.receipt(3, 7)
	altered.Extra[60] ^= 1
	nothing("not-in-the-tree", "Anyone can write a receipt that does not fit.", of(verify.KindInclusion, altered), verify.ReasonNoProof)
	beyond := l.receipt(3, 7)
	beyond.Index = 7
	nothing("index-beyond", "Anyone can write an index.", of(verify.KindIndexBeyondTree, beyond), verify.ReasonNoProof)
	swapped := of(verify.KindRecordIndex, bad.receipt(3, 5))
	swapped.New = l.sign(l.checkpoint(7))
	nothing("other-receipt", "The receipt has another checkpoint than the file.", swapped, verify.ReasonAltered)
	unsigned := bad.receipt(3, 5, key(t, origin, checkpoint.TypeEd25519, 0x77))
	nothing("record-unsigned", "The receipt's tree is not signed with a known key.", of(verify.KindRecordIndex, unsigned), verify.ReasonNoSignature)
	empty := l.receipt(3, 7)
	empty.Extra = nil
	nothing("no-record", "The receipt does not hold the record.", of(verify.KindInclusion, empty), verify.ReasonNoProof)
}

// addMalformed adds files that are not read at all.
func addMalformed(cases map[string]evidenceVector) {
	good := cases["fork"]
	change := func(name, description, old, new string) {
		v := good
		v.Description, v.Evidence = description, strings.Replace(good.Evidence, old, new, 1)
		v.Verdict, v.Because, v.Log = "unverifiable", string(verify.ReasonMalformed), false
		cases[name] = v
	}
	change("unknown-field", "A field that the format does not have.", "{", `{"verdict": "guilty",`)
	change("field-twice", "A field that is there twice.", "{", `{"kind": "fork",`)
	change("field-capitals", "A field's name in other letters.", `"kind"`, `"Kind"`)
	change("other-format", "Another version of the format.", "/v1", "/v2")
	change("trailing", "Something follows the object.", "}\n", "}\n{}\n")
	change("short-hash", "A proof with a hash of 3 bytes.", "{", `{"proof": ["AAAA"],`)
	change("array", "No object.", "{", "[{")
	cut := good
	cut.Description, cut.Evidence = "Cut off.", good.Evidence[:len(good.Evidence)/2]
	cut.Verdict, cut.Because, cut.Log = "unverifiable", string(verify.ReasonMalformed), false
	cases["cut"] = cut
}

func TestEvidenceVectors(t *testing.T) {
	runVectors(t, "evidence", evidenceVectors(t), func(t *testing.T, v evidenceVector) {
		c, err := convictVector(t, v)
		verdict, because := "proven", ""
		if e, ok := errors.AsType[*verify.UnverifiableError](err); ok {
			verdict, because = "unverifiable", string(e.Reason)
			c = &verify.Conviction{}
		} else if err != nil {
			t.Fatal(err)
		} else {
			because = string(c.Kind)
		}
		if verdict != v.Verdict || because != v.Because || c.Log != v.Log {
			t.Errorf("%s, %q, log %v; want %s, %q, %v: %v", verdict, because, c.Log, v.Verdict, v.Because, v.Log, err)
		}
		if diff := cmp.Diff(v.Witnesses, c.Witnesses); diff != "" {
			t.Errorf("witnesses convicted: %s", diff)
		}
	})
}

func convictVector(t *testing.T, v evidenceVector) (*verify.Conviction, error) {
	t.Helper()
	var p *policy.Policy
	if v.Policy != "" {
		var err error
		if p, err = policy.Parse([]byte(v.Policy)); err != nil {
			t.Fatal(err)
		}
	}
	var keys []verify.LogKey
	for _, l := range v.LogKeys {
		k, err := checkpoint.ParseVerifierKey(l.VKey)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, verify.LogKey{Origin: l.Origin, Key: k})
	}
	return verify.Evidence([]byte(v.Evidence), p, keys...)
}

// TestEvidenceIsSaid reads what a person is told.
func TestEvidenceIsSaid(t *testing.T) {
	cases := evidenceVectors(t)
	for name, want := range map[string][2][]string{
		"fork":              {{"The log " + origin + " signed two trees of 7 entries"}, {"Who did it"}},
		"fork-witness-only": {{"The witness w cosigned both of two contradicting trees"}, {"That the log " + origin + " did anything wrong"}},
		"fork-longer":       {{"whose first 5 entries have the root"}, {`That it is "bad consistency proof"`}},
		"claims-less":       {{"signed two trees"}, {`That it is "bad log signature"`, `Anything about the log "someone.else"`}},
		"record-index":      {{"committed as entry 3 to a record that says it is entry 7"}, {"is a keytrail log"}},
	} {
		c, err := convictVector(t, cases[name])
		if err != nil {
			t.Fatal(err)
		}
		for i, said := range [][]string{c.Proven(), c.NotProven()} {
			for _, w := range want[i] {
				if all := strings.Join(said, " "); !strings.Contains(all, w) {
					t.Errorf("%s: %q is not said in %s", name, w, all)
				}
			}
		}
	}
	_, err := convictVector(t, cases["claims-without-proof"])
	if err == nil || !strings.Contains(err.Error(), "what is missing is a consistency proof") {
		t.Errorf("what is missing is not named: %v", err)
	}
}

// TestEvidenceOfEveryFork takes two histories that part after four entries: for every two
// sizes beyond, the proof of one of them convicts the log; within one history none does.
func TestEvidenceOfEveryFork(t *testing.T) {
	l, fork := twins(t, 12)
	p := l.policy()
	for from := uint64(1); from <= 12; from++ {
		for to := from; to <= 12; to++ {
			e := verify.TamperError{
				Kind: verify.KindFork, Origin: origin, Old: l.sign(l.checkpoint(from), l.ed), New: fork.sign(fork.checkpoint(to), l.ed),
				Proof: fork.proof(from, to), PrefixRoot: fork.prefix(from),
			}
			c, err := verify.Evidence(e.Evidence(), p)
			if from > 4 {
				if err != nil || !c.Log {
					t.Errorf("%d and %d: %+v, %v", from, to, c, err)
				}
			} else {
				wantNothing(t, c, err)
			}
			e.New, e.Proof, e.PrefixRoot = l.sign(l.checkpoint(to), l.ed), l.proof(from, to), nil
			c, err = verify.Evidence(e.Evidence(), p)
			wantNothing(t, c, err)
		}
	}
}

func wantNothing(t *testing.T, c *verify.Conviction, err error) {
	t.Helper()
	if _, ok := errors.AsType[*verify.UnverifiableError](err); !ok || c != nil {
		t.Errorf("got %+v, %v; want unverifiable", c, err)
	}
}

// FuzzEvidence holds that no file convicts a log that signed one history only, whatever
// proofs and claims stand in it.
func FuzzEvidence(f *testing.F) {
	l := newLog(f, origin, 12)
	p := l.policy()
	for _, s := range [][2]uint64{{5, 12}, {7, 7}, {4, 9}, {12, 3}, {0, 5}} {
		e := verify.TamperError{Kind: verify.KindFork, Origin: origin, Old: l.sign(l.checkpoint(s[0]), l.ed), New: l.sign(l.checkpoint(s[1]), l.ed)}
		if s[0] < s[1] {
			e.Proof, e.PrefixRoot = l.proof(s[0], s[1]), l.prefix(s[0])
		}
		f.Add(e.Evidence())
	}
	r := l.receipt(3, 5, l.ed)
	f.Add((&verify.TamperError{Kind: verify.KindRecord, New: r.Checkpoint, Proof: r.Hashes, File: r.Append(nil)}).Evidence())
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := verify.Evidence(data, p)
		wantNothing(t, c, err)
		e, err := verify.ParseEvidence(data)
		if err != nil {
			return
		}
		again, err := verify.ParseEvidence(e.Evidence())
		if err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Error(diff)
		}
	})
}

func ExampleEvidence() {
	_, err := verify.Evidence([]byte("{}"), nil)
	fmt.Println(err)
	// Output: unverifiable: not readable: evidence: format "" is not "keytrail.dev/evidence/v1"
}
