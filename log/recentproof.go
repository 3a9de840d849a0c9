package log

import (
	"context"
	"sync"

	"github.com/keytrail/keytrail/log/prove"
)

// recentProof gives consistency proofs to the witnesses, who mostly ask for the same one: that
// between the last two checkpoints.
type recentProof struct {
	prover *prove.Prover

	mu       sync.Mutex
	from, to uint64
	hashes   []prove.Hash
}

// Consistency is that of prove.Prover.
func (r *recentProof) Consistency(ctx context.Context, from, to uint64) ([]prove.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to != to || r.from != from {
		hashes, err := r.prover.Consistency(ctx, from, to)
		if err != nil {
			return nil, err
		}
		r.from, r.to, r.hashes = from, to, hashes
	}
	return r.hashes, nil
}

// keep remembers a proof.
func (r *recentProof) keep(from, to uint64, hashes []prove.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from, r.to, r.hashes = from, to, hashes
}
