package log_test

import (
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	merkleproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	formatslog "github.com/transparency-dev/formats/log"

	"github.com/keytrail/keytrail/log/logtest"
	"github.com/keytrail/keytrail/proto/record"
	"github.com/keytrail/keytrail/storage/memstore"
)

// TestReceiptsVerifyWithOthersCode takes receipts of a log and verifies them with nothing
// of ours but the leaf: formats' tlog-proof and note verifiers, sumdb's notes, and both
// merkle's and sumdb's inclusion checks.
func TestReceiptsVerifyWithOthersCode(t *testing.T) {
	l := logtest.Open(t, logtest.NewDir(t), memstore.New())
	const entries = 300
	for i := range entries {
		l.Append1(t, logtest.Event(i, "k"))
	}
	if _, err := l.WaitPublished(t.Context(), entries-1); err != nil {
		t.Fatal(err)
	}
	keys := l.VerifierKeys()
	ed25519, err := note.NewVerifier(keys[0].String())
	if err != nil {
		t.Fatal(err)
	}
	mldsa, err := fnote.NewMLDSAVerifier(keys[1].String())
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(0); i < entries; i += 7 {
		b, err := l.Receipt(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		var p proof.TLogProof
		if err := p.Unmarshal(b); err != nil {
			t.Fatalf("receipt %d: %v", i, err)
		}
		cp, _, opened, err := formatslog.ParseCheckpoint(p.Checkpoint, logtest.Origin, ed25519, mldsa)
		if err != nil {
			t.Fatalf("receipt %d: %v", i, err)
		}
		if len(opened.Sigs) != 2 || len(opened.UnverifiedSigs) != 0 {
			t.Fatalf("receipt %d: %d signatures verified, %d not", i, len(opened.Sigs), len(opened.UnverifiedSigs))
		}
		leaf := record.Leaf(p.ExtraData)
		hashes := make([][]byte, len(p.Hashes))
		var path tlog.RecordProof
		for j := range p.Hashes {
			hashes[j] = p.Hashes[j][:]
			path = append(path, tlog.Hash(p.Hashes[j]))
		}
		err = merkleproof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, cp.Size, rfc6962.DefaultHasher.HashLeaf(leaf[:]), hashes, cp.Hash)
		if err != nil {
			t.Errorf("receipt %d: merkle: %v", i, err)
		}
		if err := tlog.CheckRecord(path, int64(cp.Size), tlog.Hash(cp.Hash), int64(p.Index), tlog.RecordHash(leaf[:])); err != nil {
			t.Errorf("receipt %d: sumdb: %v", i, err)
		}
	}
}
