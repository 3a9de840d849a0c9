package verify

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/receipt"
)

// The proof checks without signatures, of which a test can make hundreds of thousands.

// VerifyInclusion is the check of a single receipt, held against that of a Verifier.
func VerifyInclusion(index, size uint64, leaf []byte, hashes [][]byte, root [32]byte) error {
	err := verifyInclusion(index, size, leaf, hashes, root)
	var lines receipt.Lines
	for _, h := range hashes {
		if len(h) != 32 {
			return err
		}
		lines = append(base64.StdEncoding.AppendEncode(lines, h), '\n')
	}
	v := NewVerifier(nil)
	s := &Signed{Checkpoint: checkpoint.Checkpoint{Size: size, Root: root}}
	for again := range 3 { // with nothing known, with a table to fill, and with the table
		if same := v.upperOf(s).includes(index, [32]byte(rfc6962.DefaultHasher.HashLeaf(leaf)), lines, new(path)); same != (err == nil) {
			return errors.Join(err, fmt.Errorf("the verifier of many says %v the %d. time", same, again+1))
		}
	}
	return err
}

// Known is how many pairs of upper nodes are remembered.
func (v *Verifier) Known() (n int) {
	u := v.upper.Load()
	if u == nil || u.pairs.Load() == nil {
		return 0
	}
	for i := range u.pairs.Load() {
		if u.pairs.Load()[i].Load() != nil {
			n++
		}
	}
	return n
}

func VerifyConsistency(before, after checkpoint.Checkpoint, hashes [][]byte) error {
	return verifyConsistency(before, after, hashes)
}

func ParseEvidence(data []byte) (*TamperError, error) { return parseEvidence(data) }

// Remembers says whether a checkpoint is remembered.
func (v *Verifier) Remembers() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.good) > 0
}
