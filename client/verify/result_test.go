package verify_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

func TestProvenByReceipt(t *testing.T) {
	l := newLog(t, origin, 5)
	w := key(t, "witness.example", checkpoint.TypeMLDSA44, 0x61)
	p := l.policy()
	p.Witnesses = []policy.Witness{{Name: "w", Key: w.VerifierKey()}}
	p.Quorum = "w"
	r, err := receiptVerdict(t, l.receipt(3, 5, l.ed, w).Append(nil), p)
	wantVerified(t, r, err)
	want := []string{
		"The record is entry 3 of the log log.example/keys, in its tree of 5 entries with the root da25005ba9d1427fdbf91aaf4807264278f05a12393bab490f4b0df475a68e5e.",
		`It holds the event "event-3" of the tenant "tenant-a": use.decrypt (success) of the key "key-1" at 2026-01-02T02:04:05Z by the source's clock.`,
		`The log states that it took the record at 2026-01-02T03:03:05Z from the producer "kms-1" as number 4 in the history of its key, after entry 2.`,
		"The tree of 5 entries is signed with the log's key log.example/keys dd44d137 (Ed25519).",
		"The tree of 5 entries is cosigned by the witness w with its key witness.example 8bbb2dca (ML-DSA-44) at 2026-01-02T03:04:05Z by the signer's clock.",
		`The tree of 5 entries has the witnesses that the policy's quorum "w" demands.`,
	}
	if diff := cmp.Diff(want, r.Proven()); diff != "" {
		t.Error(diff)
	}
	want = []string{
		"That the log signed the tree of 5 entries with its key log.example/keys 3da3efc3 (ML-DSA-44): that signature is missing.",
		"That the event happened as it says: the log proves what was reported to it, not what is true.",
		"The key's events before this one: each has a receipt of its own.",
	}
	if diff := cmp.Diff(want, r.NotProven()); diff != "" {
		t.Error(diff)
	}
}

func TestProvenByBundle(t *testing.T) {
	l := newLog(t, origin, 5)
	r, err := verify.Consistency(l.bundle(2, 5, l.ed).Append(nil), l.sign(l.checkpoint(2), l.pq), l.policy())
	wantVerified(t, r, err)
	want := []string{
		"The tree of the log log.example/keys with 5 entries (root da25005ba9d1427fdbf91aaf4807264278f05a12393bab490f4b0df475a68e5e) begins with the tree of 2 entries (root ad68e8ba7768708d7ff0c63d2fd957edadc78a7eb178bc85f155027077ae10ad): nothing was changed, dropped or put in between.",
		"The tree of 2 entries is signed with the log's key log.example/keys 3da3efc3 (ML-DSA-44) at 2026-01-02T03:04:05Z by the signer's clock.",
		"The tree of 5 entries is signed with the log's key log.example/keys dd44d137 (Ed25519).",
	}
	if diff := cmp.Diff(want, r.Proven()); diff != "" {
		t.Error(diff)
	}
	want = []string{
		"That the log signed the tree of 2 entries with its key log.example/keys dd44d137 (Ed25519): that signature is missing.",
		"That the log signed the tree of 5 entries with its key log.example/keys 3da3efc3 (ML-DSA-44): that signature is missing.",
		"That the log shows everyone the same tree: the policy demands no witness.",
	}
	if diff := cmp.Diff(want, r.NotProven()); diff != "" {
		t.Error(diff)
	}
}
