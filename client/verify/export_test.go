package verify

import (
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// The proof checks without signatures, of which a test can make hundreds of thousands.

// VerifyInclusion is the check of a single receipt, held against that of a Verifier.
func VerifyInclusion(index, size uint64, leaf []byte, hashes [][]byte, root [32]byte) error {
	err := verifyInclusion(index, size, leaf, hashes, root)
	arrays := make([][32]byte, len(hashes))
	for i, h := range hashes {
		if len(h) != len(arrays[i]) {
			return err
		}
		arrays[i] = [32]byte(h)
	}
	if same := included(index, size, [32]byte(rfc6962.DefaultHasher.HashLeaf(leaf)), arrays, root); same != (err == nil) {
		return errors.Join(err, fmt.Errorf("the verifier of many says %v", same))
	}
	return err
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
