package verify

import (
	"bytes"
	"crypto/sha256"
	"sync"
	"sync/atomic"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/proto/event"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

// maxRemembered bounds the checkpoints that a Verifier remembers; past it, it begins anew.
// They have at most checkpoint.MaxNoteSize bytes, mostly 4 to 20 KiB.
const maxRemembered = 1024

// Verifier verifies many receipts under one policy. It comes to the verdicts of the
// function Receipt, but verifies the signatures of a checkpoint once: receipts of one
// checkpoint hold the same bytes. What it remembers is bounded, and is good checkpoints only.
type Verifier struct {
	policy *policy.Policy
	last   atomic.Pointer[Signed]
	// upper is of the checkpoint of the receipt before.
	upper atomic.Pointer[upper]
	// scratch holds *scratch.
	scratch sync.Pool

	mu   sync.Mutex
	good map[string]*Signed // by the bytes of the note
}

// NewVerifier returns a Verifier under a policy, which must not be changed afterwards.
func NewVerifier(p *policy.Policy) *Verifier {
	return &Verifier{
		policy:  p,
		scratch: sync.Pool{New: func() any { return new(scratch) }},
		good:    make(map[string]*Signed),
	}
}

// scratch is what one check needs and the next can use again.
type scratch struct {
	receipt receipt.Receipt
	record  record.Record
	fields  event.Fields
	path    path
}

// Receipt verifies a receipt as the function Receipt does. Results of one checkpoint share
// their Checkpoint, which must not be changed.
func (v *Verifier) Receipt(data []byte) (*Result, error) {
	return verifyReceipt(data, v.checkpoint)
}

// Proof is what CheckReceipt has verified.
type Proof struct {
	// Index is the entry's place in the log, from 0.
	Index uint64
	// Checkpoint is shared by receipts of one checkpoint and must not be changed.
	Checkpoint *Signed
}

// CheckReceipt is Receipt for whoever needs the verdict alone and has many: the same error,
// or none, without a Result. It costs a fraction of Receipt when a receipt is good and its
// checkpoint is remembered.
func (v *Verifier) CheckReceipt(data []byte) (Proof, error) {
	proof, ok, err := v.surelyGood(data)
	if ok {
		return proof, nil
	}
	checkpoint := v.checkpoint
	if err != nil { // what is wrong with it need not be found twice
		checkpoint = func([]byte) (*Signed, error) { return nil, err }
	}
	res, err := verifyReceipt(data, checkpoint)
	if err != nil {
		return Proof{}, err
	}
	return Proof{Index: res.Entry.Index, Checkpoint: res.Checkpoint}, nil
}

// surelyGood says whether a receipt is one that Receipt verifies. Of everything else, and
// of what it cannot tell, it says false; the error is that of the checkpoint, if it has one.
func (v *Verifier) surelyGood(data []byte) (p Proof, ok bool, err error) {
	x := v.scratch.Get().(*scratch)
	defer v.scratch.Put(x)
	r := &x.receipt
	lines, err := r.ParseLines(data)
	if err != nil {
		return p, false, nil
	}
	s, err := v.checkpoint(r.Checkpoint)
	r.Checkpoint = nil // part of the caller's data
	if err != nil {
		return p, false, err
	}
	if len(r.Extra) == 0 || !v.upperOf(s).includes(r.Index, hashLeaf(record.Leaf(r.Extra)), lines, &x.path) {
		return p, false, nil
	}
	_, b, err := record.Open(r.Extra)
	if err != nil {
		return p, false, nil
	}
	if x.record.Parse(b) != nil || x.record.Index != r.Index || !event.Scan(x.record.KeyEvent, &x.fields) {
		return p, false, nil
	}
	return Proof{Index: r.Index, Checkpoint: s}, true, nil
}

// checkpoint is the function Checkpoint, which remembers.
func (v *Verifier) checkpoint(note []byte) (*Signed, error) {
	if s := v.last.Load(); s != nil && bytes.Equal(s.Note, note) {
		return s, nil
	}
	v.mu.Lock()
	s, ok := v.good[string(note)]
	v.mu.Unlock()
	if !ok {
		var err error
		if s, err = Checkpoint(bytes.Clone(note), v.policy); err != nil {
			return nil, err
		}
		v.mu.Lock()
		if len(v.good) >= maxRemembered {
			clear(v.good)
		}
		v.good[string(s.Note)] = s
		v.mu.Unlock()
	}
	v.last.Store(s)
	return s, nil
}

// hashLeaf is the RFC 9162 hash of a leaf.
func hashLeaf(leaf [record.LeafSize]byte) [32]byte {
	var b [1 + record.LeafSize]byte
	b[0] = rfc6962.RFC6962LeafHashPrefix
	copy(b[1:], leaf[:])
	return sha256.Sum256(b[:])
}
