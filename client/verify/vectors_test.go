package verify_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
)

var update = flag.Bool("update", false, "rewrite the vectors from the cases in the tests")

// vector is one file to verify and the verdict. It has either a receipt or a bundle with
// an earlier checkpoint; Because is the kind of tampering or the reason. Where Now and
// MaxAge are given, the age is demanded too.
type vector struct {
	Description string   `json:"description"`
	Policy      string   `json:"policy"`
	Receipt     string   `json:"receipt,omitempty"`
	Bundle      string   `json:"bundle,omitempty"`
	Earlier     string   `json:"earlier_checkpoint,omitempty"`
	Now         string   `json:"now,omitempty"`
	MaxAge      string   `json:"max_age,omitempty"`
	Verdict     string   `json:"verdict"`
	Because     string   `json:"because,omitempty"`
	Missing     []string `json:"missing_log_keys,omitempty"`
}

func vectors(t *testing.T) map[string]vector {
	l := newLog(t, origin, 7)
	fork := newLog(t, origin, 4)
	for range 3 {
		r := fork.record(fork.tree.Size())
		r.Producer = "another history"
		fork.append(fork.payload(r))
	}
	w := key(t, "witness.example", checkpoint.TypeMLDSA44, 0x61)
	witnessed := l.policy()
	witnessed.Witnesses = []policy.Witness{{Name: "w", Key: w.VerifierKey()}}
	witnessed.Quorum = "w"
	ofReceipt := func(description, verdict, because string, r *receipt.Receipt) vector {
		return vector{Description: description, Policy: l.policy().String(), Receipt: string(r.Append(nil)), Verdict: verdict, Because: because}
	}
	ofBundle := func(description, verdict, because string, u *consistency.Bundle, earlier []byte) vector {
		return vector{Description: description, Policy: l.policy().String(), Bundle: string(u.Append(nil)), Earlier: string(earlier), Verdict: verdict, Because: because}
	}
	with := func(r *receipt.Receipt, change func(r *receipt.Receipt)) *receipt.Receipt {
		change(r)
		return r
	}
	cases := map[string]vector{
		"receipt":        ofReceipt("A receipt of the fourth of seven entries.", "verified", "", l.receipt(3, 7)),
		"receipt-single": ofReceipt("A receipt of the only entry needs no hash.", "verified", "", l.receipt(0, 1)),
		"altered-record": ofReceipt("One byte of the record changed.", "tampered", "not in the tree", with(l.receipt(3, 7), func(r *receipt.Receipt) { r.Extra[60] ^= 1 })),
		"altered-salt":   ofReceipt("One byte of the salt changed.", "tampered", "not in the tree", with(l.receipt(3, 7), func(r *receipt.Receipt) { r.Extra[0] ^= 1 })),
		"wrong-index":    ofReceipt("The index of another entry.", "tampered", "not in the tree", with(l.receipt(3, 7), func(r *receipt.Receipt) { r.Index = 2 })),
		"index-beyond":   ofReceipt("An index that the tree does not have.", "tampered", "index beyond the tree", with(l.receipt(3, 7), func(r *receipt.Receipt) { r.Index = 7 })),
		"forged":         ofReceipt("A signature with one bit changed.", "tampered", "bad log signature", with(l.receipt(3, 7), func(r *receipt.Receipt) { r.Checkpoint = forge(t, r.Checkpoint, l.ed.VerifierKey()) })),
		"extension": ofReceipt("An extension line that the ML-DSA-44 signature does not cover.", "tampered", "extension line", with(l.receipt(3, 7, l.pq), func(r *receipt.Receipt) {
			r.Checkpoint = bytes.Replace(r.Checkpoint, []byte("\n\n"), []byte("\nevil\n\n"), 1)
		})),
		"no-record":       ofReceipt("A receipt without the record.", "unverifiable", "no record", with(l.receipt(3, 7), func(r *receipt.Receipt) { r.Extra = nil })),
		"another-log":     ofReceipt("A receipt of a log that the policy does not know.", "unverifiable", "unknown log", newLog(t, "other.example/keys", 7).receipt(3, 7)),
		"unknown-key":     ofReceipt("Signed only with a key that the policy does not know.", "unverifiable", "no known signature", l.receipt(3, 7, key(t, origin, checkpoint.TypeEd25519, 0x77))),
		"consistent":      ofBundle("From three entries to seven.", "verified", "", l.bundle(3, 7), l.sign(l.checkpoint(3))),
		"same-tree":       ofBundle("The same tree twice.", "verified", "", l.bundle(7, 7), l.sign(l.checkpoint(7))),
		"from-nothing":    ofBundle("From the empty tree.", "verified", "", l.bundle(0, 7), l.sign(l.checkpoint(0))),
		"fork":            ofBundle("Two trees of seven entries.", "tampered", "fork", fork.bundle(7, 7), l.sign(l.checkpoint(7))),
		"fork-longer":     ofBundle("A tree of seven entries that does not begin with the tree of five.", "tampered", "bad consistency proof", fork.bundle(5, 7), l.sign(l.checkpoint(5))),
		"went-back":       ofBundle("A later tree that is smaller.", "tampered", "went back", l.bundle(3, 3), l.sign(l.checkpoint(7))),
		"other-bundle":    ofBundle("A bundle for another earlier checkpoint.", "unverifiable", "bundle for another checkpoint", l.bundle(4, 7), l.sign(l.checkpoint(3))),
		"empty-old-trick": ofBundle("A bundle from the empty tree, which needs no proof, for a checkpoint that is not empty.", "unverifiable", "bundle for another checkpoint", fork.bundle(0, 7), l.sign(l.checkpoint(5))),
	}
	stripped := ofReceipt("One of the log's two signatures taken away: enough for the policy, and the result says which is missing.", "verified", "", l.receipt(3, 7, l.ed))
	stripped.Missing = []string{l.pq.VerifierKey().String()}
	cases["stripped"] = stripped
	truncated := ofReceipt("A receipt that ends in the middle of a signature.", "unverifiable", "not readable", l.receipt(3, 7))
	truncated.Receipt = truncated.Receipt[:len(truncated.Receipt)-100]
	cases["truncated"] = truncated
	for name, keys := range map[string][]*checkpoint.SignerKey{"quorum-met": {l.ed, l.pq, w}, "quorum-not-met": {l.ed, l.pq}} {
		v := ofReceipt("A policy that demands a witness, and its cosignature.", "verified", "", l.receipt(3, 7, keys...))
		if v.Policy = witnessed.String(); name == "quorum-not-met" {
			v.Description, v.Verdict, v.Because = "A policy that demands a witness, and no cosignature.", "unverifiable", "quorum not met"
		}
		cases[name] = v
	}
	addAges(cases, l, w, witnessed, ofReceipt)
	return cases
}

func TestVectors(t *testing.T) { runVectors(t, "verify", vectors(t), checkVector) }

// runVectors compares the vectors of a format with the cases here and checks each.
func runVectors[V any](t *testing.T, format string, cases map[string]V, check func(*testing.T, V)) {
	t.Helper()
	dir := filepath.Join("..", "..", "testdata", "vectors", format)
	if *update {
		writeVectors(t, dir, cases)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(cases) {
		t.Errorf("%d vectors on disk, %d cases here; see go test -run Vectors -update", len(files), len(cases))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v V
			if err := json.Unmarshal(data, &v); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(cases[name], v); diff != "" {
				t.Errorf("the vector is not the case here; see go test -run Vectors -update: %s", diff)
			}
			check(t, v)
		})
	}
}

func checkVector(t *testing.T, v vector) {
	t.Helper()
	p, err := policy.Parse([]byte(v.Policy))
	if err != nil {
		t.Fatal(err)
	}
	var r *verify.Result
	if v.Receipt != "" {
		r, err = receiptVerdict(t, []byte(v.Receipt), p)
	} else {
		r, err = verify.Consistency([]byte(v.Bundle), []byte(v.Earlier), p)
	}
	if v.Now != "" && err == nil {
		err = r.CheckAge(parseTime(t, v.Now), parseDuration(t, v.MaxAge), p)
	}
	verdict, because := "verified", ""
	if e, ok := errors.AsType[*verify.TamperError](err); ok {
		verdict, because = "tampered", string(e.Kind)
	} else if e, ok := errors.AsType[*verify.UnverifiableError](err); ok {
		verdict, because = "unverifiable", string(e.Reason)
	}
	if verdict != v.Verdict || because != v.Because {
		t.Errorf("%s, %q; want %s, %q: %v", verdict, because, v.Verdict, v.Because, err)
	}
	var missing []string
	if r != nil {
		for _, k := range r.Checkpoint.MissingLogKeys {
			missing = append(missing, k.String())
		}
	}
	if diff := cmp.Diff(v.Missing, missing); diff != "" {
		t.Errorf("missing log keys: %s", diff)
	}
}

func writeVectors[V any](t *testing.T, dir string, cases map[string]V) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, v := range cases {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
