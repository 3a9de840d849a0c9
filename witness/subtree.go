package witness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
)

// subtreeRequest is a sign-subtree request; nothing in it is verified but that its range is
// one of a subtree of the checkpoint's tree.
type subtreeRequest struct {
	subtree checkpoint.Subtree
	hashes  [][32]byte
	checkpoint.Checkpoint
	sigs []checkpoint.Signature
}

// parseSubtree reads the body of a sign-subtree request of at most MaxRequest bytes.
func parseSubtree(body []byte) (*subtreeRequest, error) {
	if len(body) > MaxRequest {
		return nil, fmt.Errorf("request of %d bytes is larger than %d", len(body), MaxRequest)
	}
	u, err := consistency.ParseSubtree(body)
	if err != nil {
		return nil, err
	}
	c, sigs, err := checkpoint.ParseForeignNote(u.Checkpoint)
	if err != nil {
		return nil, err
	}
	s := checkpoint.Subtree{Origin: c.Origin, Start: u.Start, End: u.End, Hash: u.Hash}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.End > c.Size {
		return nil, fmt.Errorf("the subtree ends at %d, after the tree of size %d", s.End, c.Size)
	}
	return &subtreeRequest{s, u.Hashes, c, sigs}, nil
}

// SignSubtree takes the body of a sign-subtree request and returns the signature lines of
// the witness's ML-DSA-44 keys over the subtree, which state no time. The checkpoint must be
// one that the witness cosigned, at any time before; no state is changed. An answer of
// tlog-witness other than 200 is a *RefusalError.
//
// As in AddCheckpoint the checks come in the order in which tlog-witness states them.
func (w *Witness) SignSubtree(_ context.Context, body []byte) ([]byte, error) {
	if err := w.Err(); err != nil {
		return nil, err
	}
	r, err := parseSubtree(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	// "If the Merkle Consistency Proof doesn't verify … 422".
	if !verifySubtree(r.subtree, r.Size, r.hashes, r.Root) {
		return nil, refuse(http.StatusUnprocessableEntity, "subtree consistency proof does not verify")
	}
	t := w.find(r.Origin)
	if t == nil || t.log.Load() == nil {
		return nil, refuse(http.StatusNotFound, "log is not known here")
	}
	// "The witness MUST verify that the checkpoint includes a valid cosignature from one of
	// its own keys … 403". One with a time: without, it is of a subtree.
	last := t.latest.Load()
	if at, bad := w.ownTime(r.Checkpoint, r.sigs); at == 0 || bad != nil {
		return nil, refuse(http.StatusForbidden, "the checkpoint has no good cosignature of this witness")
	}
	if err := w.remember(last, r.Checkpoint); err != nil {
		return nil, err
	}
	var lines []byte
	for _, k := range w.signers {
		if k.VerifierKey().Type() != checkpoint.TypeMLDSA44 {
			continue
		}
		s, err := k.CosignSubtree(r.subtree)
		if err != nil {
			return nil, fmt.Errorf("cosigning %d to %d of %q: %w", r.subtree.Start, r.subtree.End, r.Origin, err)
		}
		lines = s.Append(lines)
	}
	return lines, nil
}

// signsSubtrees reports whether one of the keys can sign subtrees.
func (w *Witness) signsSubtrees() bool {
	return slices.ContainsFunc(w.signers, func(k *checkpoint.SignerKey) bool {
		return k.VerifierKey().Type() == checkpoint.TypeMLDSA44
	})
}

// remember compares a checkpoint that this witness cosigned with the state: a larger one, or
// another one of the same size, proves that the state was lost. Then the witness stops.
func (w *Witness) remember(last *latest, c checkpoint.Checkpoint) error {
	if c.Size < last.Size || (c.Size == last.Size && last.note != nil && c.Root == last.Root) {
		return nil
	}
	err := fmt.Errorf("%w: this witness cosigned size %d root %x of %q, but its state says size %d root %x",
		ErrWentBack, c.Size, c.Root, c.Origin, last.Size, last.Root)
	w.stop(errors.Join(err, w.counter.condemn()))
	return w.Err()
}

// verifySubtree verifies a subtree consistency proof: that the leaves of a subtree are those
// at the same place of the tree of a size and root (draft-ietf-plants-merkle-tree-certs
// section 4.4.3). It walks up from the subtree's last leaf; the hashes to the left of it
// belong to both trees as long as they are within the subtree.
func verifySubtree(s checkpoint.Subtree, size uint64, hashes [][32]byte, root [32]byte) bool {
	if s.Validate() != nil || s.End > size {
		return false
	}
	// The position of the subtree's first and last leaf and of the tree's last one, on the
	// level that is reached.
	first, last, end := s.Start, s.End-1, size-1
	up := func() { first, last, end = first>>1, last>>1, end>>1 }
	if last == end {
		for first != last {
			up()
		}
	} else {
		for first != last && last&1 == 1 {
			up()
		}
	}
	part, whole := s.Hash[:], s.Hash[:]
	if first != last {
		// The subtree is no node of the tree: the proof begins with the largest node that
		// holds its last leaf and is whole.
		if len(hashes) == 0 {
			return false
		}
		part, whole = hashes[0][:], hashes[0][:]
		hashes = hashes[1:]
	}
	node := rfc6962.DefaultHasher.HashChildren
	for _, h := range hashes {
		if end == 0 {
			return false
		}
		if last&1 == 1 || last == end {
			if first < last {
				part = node(h[:], part)
			}
			whole = node(h[:], whole)
			for last&1 == 0 {
				up()
			}
		} else {
			whole = node(whole, h[:])
		}
		up()
	}
	return end == 0 && [32]byte(part) == s.Hash && [32]byte(whole) == root
}
