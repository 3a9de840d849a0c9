package verify_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/event"
	keytrailv1 "github.com/keytrail/keytrail/proto/keytrail/v1"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
	"github.com/keytrail/keytrail/proto/record"
)

// sameKeys compares keys as their text.
var sameKeys = cmp.Transformer("key", func(k checkpoint.VerifierKey) string { return k.String() })

// receiptVerdict is verify.Receipt for all tests of this package. It holds that a Verifier
// says the same, word for word, of a receipt that it sees first and of one that it sees
// again.
func receiptVerdict(t testing.TB, data []byte, p *policy.Policy) (*verify.Result, error) {
	t.Helper()
	want, wantErr := verify.Receipt(bytes.Clone(data), p)
	v := verify.NewVerifier(p)
	for again := true; again; again = again && v.Remembers() {
		again = !v.Remembers()
		got, err := v.Receipt(bytes.Clone(data))
		if !reflect.DeepEqual(wantErr, err) {
			t.Errorf("Verifier.Receipt has another error (-want +got):\n%s", cmp.Diff(wantErr, err))
		}
		if diff := cmp.Diff(want, got, sameKeys, protocmp.Transform()); diff != "" {
			t.Errorf("Verifier.Receipt has another result (-want +got):\n%s", diff)
		}
		for range 2 { // the last time upper nodes are known, if there are any
			if _, err := v.CheckReceipt(bytes.Clone(data)); !reflect.DeepEqual(wantErr, err) {
				t.Errorf("Verifier.CheckReceipt has another error (-want +got):\n%s", cmp.Diff(wantErr, err))
			}
		}
		proof, err := v.CheckReceipt(bytes.Clone(data))
		if !reflect.DeepEqual(wantErr, err) {
			t.Errorf("Verifier.CheckReceipt has another error (-want +got):\n%s", cmp.Diff(wantErr, err))
		}
		if want == nil {
			if proof != (verify.Proof{}) {
				t.Errorf("a proof comes with the error: %+v", proof)
			}
		} else if diff := cmp.Diff(want.Checkpoint, proof.Checkpoint, sameKeys); diff != "" || proof.Index != want.Entry.Index {
			t.Errorf("Verifier.CheckReceipt says entry %d, want %d; checkpoint (-want +got):\n%s", proof.Index, want.Entry.Index, diff)
		}
	}
	return want, wantErr
}

// TestVerifierOfMany mixes good receipts of several checkpoints with bad ones.
func TestVerifierOfMany(t *testing.T) {
	l := newLog(t, origin, 40)
	p := l.policy()
	v := verify.NewVerifier(p)
	var wg sync.WaitGroup
	var files [][]byte
	for size := uint64(36); size <= 40; size++ {
		for index := range size {
			r := l.receipt(index, size)
			files = append(files, r.Append(nil))
			if len(r.Hashes) > 0 && index%5 == 0 {
				r.Hashes[int(index)%len(r.Hashes)][7] ^= 1
				files = append(files, r.Append(nil))
			}
		}
	}
	for range 4 {
		wg.Go(func() {
			for _, n := range rand.Perm(len(files)) {
				want, wantErr := verify.Receipt(files[n], p)
				proof, err := v.CheckReceipt(files[n])
				if !reflect.DeepEqual(wantErr, err) {
					t.Error(cmp.Diff(wantErr, err))
				}
				if err == nil && (proof.Index != want.Entry.Index || proof.Checkpoint.Checkpoint != want.Checkpoint.Checkpoint) {
					t.Errorf("proof of entry %d at size %d, want %d at %d", proof.Index, proof.Checkpoint.Size, want.Entry.Index, want.Checkpoint.Size)
				}
			}
		})
	}
	wg.Wait()
}

// TestVerifierForgets goes past what a Verifier remembers.
func TestVerifierForgets(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of signatures")
	}
	l := newLog(t, origin, 1)
	v := verify.NewVerifier(l.policy())
	r := l.receipt(0, 1, l.ed)
	for n := range 1030 {
		// Signature lines of unknown keys count for nothing and make another note.
		other := key(t, "stranger.example", checkpoint.TypeEd25519, byte(n))
		other2 := key(t, "stranger2.example", checkpoint.TypeEd25519, byte(n>>8))
		r.Checkpoint = l.sign(l.checkpoint(1), l.ed, other, other2)
		if _, err := v.CheckReceipt(r.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.CheckReceipt(l.receipt(0, 1).Append(nil)); err != nil {
		t.Error(err)
	}
}

// manyReceipts returns n receipts of events of 500 bytes, at random places in a tree of
// 2^24 entries of which only these are known.
func manyReceipts(tb testing.TB, l *testLog, n int) [][]byte {
	tb.Helper()
	const height = 24
	type node struct {
		level int
		index uint64
	}
	known := make(map[node][32]byte)
	payloads := make(map[uint64][]byte)
	for i := range n {
		index := uint64(i)<<height/uint64(n) + rand.Uint64N(1<<height/uint64(n))
		ev, err := event.Parse(l.record(index).KeyEvent)
		if err != nil {
			tb.Fatal(err)
		}
		ev.Attributes = []*keytrailv1.Attribute{{Name: "filler", Value: strings.Repeat("r", 370)}}
		rec := l.record(index)
		if rec.KeyEvent, err = event.Append(nil, ev); err != nil {
			tb.Fatal(err)
		}
		payloads[index] = l.payload(rec)
		leaf := record.Leaf(payloads[index])
		known[node{0, index}] = sha256.Sum256(append([]byte{0}, leaf[:]...))
	}
	get := func(n node) [32]byte {
		if h, ok := known[n]; ok {
			return h
		}
		return sha256.Sum256(binary.BigEndian.AppendUint64([]byte{byte(n.level)}, n.index))
	}
	level := make(map[uint64]bool)
	for index := range payloads {
		level[index] = true
	}
	for h := range height {
		up := make(map[uint64]bool)
		for index := range level {
			left, right := get(node{h, index &^ 1}), get(node{h, index | 1})
			known[node{h + 1, index / 2}] = sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
			up[index/2] = true
		}
		level = up
	}
	note := l.sign(checkpoint.Checkpoint{Origin: l.origin, Size: 1 << height, Root: known[node{height, 0}]})
	var out [][]byte
	for index, payload := range payloads {
		r := receipt.Receipt{Index: index, Extra: payload, Checkpoint: note}
		for h := range height {
			r.Hashes = append(r.Hashes, get(node{h, index>>h ^ 1}))
		}
		out = append(out, r.Append(nil))
	}
	return out
}

// BenchmarkVerifyMany verifies receipts of one checkpoint: 24 hashes, events of 500 bytes,
// two signatures.
func BenchmarkVerifyMany(b *testing.B) {
	l := newLog(b, origin, 1)
	p := l.policy()
	files := manyReceipts(b, l, 2000)
	v := verify.NewVerifier(p)
	for name, check := range map[string]func(data []byte) error{
		"one by one":   func(data []byte) error { _, err := verify.Receipt(data, p); return err },
		"Receipt":      func(data []byte) error { _, err := v.Receipt(data); return err },
		"CheckReceipt": func(data []byte) error { _, err := v.CheckReceipt(data); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began, n := cpu(), 0
			for b.Loop() {
				if err := check(files[n%len(files)]); err != nil {
					b.Fatal(err)
				}
				n++
			}
			each := float64((cpu() - began).Nanoseconds()) / float64(n)
			b.ReportMetric(each, "cpu-ns/op")
			b.ReportMetric(1e9/each, "receipts/cpu-s")
		})
	}
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
