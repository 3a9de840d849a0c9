package verify

import "github.com/keytrail/keytrail/proto/checkpoint"

// The proof checks without signatures, of which a test can make hundreds of thousands.

func VerifyInclusion(index, size uint64, leaf []byte, hashes [][]byte, root [32]byte) error {
	return verifyInclusion(index, size, leaf, hashes, root)
}

func VerifyConsistency(before, after checkpoint.Checkpoint, hashes [][]byte) error {
	return verifyConsistency(before, after, hashes)
}

func ParseEvidence(data []byte) (*TamperError, error) { return parseEvidence(data) }
