package verify_test

import (
	"bytes"
	"testing"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/receipt"
)

// FuzzReceipt holds that there is one verdict, and that whatever is verified is an entry
// of the log: nothing else can carry its signatures.
func FuzzReceipt(f *testing.F) {
	l := newLog(f, origin, 5)
	p := l.policy()
	warm := verify.NewVerifier(p)
	var good [5][]byte
	for i := range good {
		good[i] = l.receipt(uint64(i), 5).Append(nil)
		f.Add(good[i])
	}
	f.Add(l.receipt(3, 5).Append(nil))
	f.Add(l.receipt(0, 1, l.ed).Append(nil))
	f.Add(l.receipt(4, 5, l.pq).Append(nil))
	f.Add((&receipt.Receipt{Checkpoint: l.sign(l.checkpoint(0))}).Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := receiptVerdict(t, data, p)
		verdict(t, r, err)
		// One that has seen all entries of the tree, and keeps what it learns.
		for range 2 {
			for i := range uint64(5) {
				if _, err := warm.CheckReceipt(good[i]); err != nil {
					t.Fatalf("a good receipt is refused: %v", err)
				}
			}
			sameVerdict(t, warm, p, data)
		}
		if err != nil {
			return
		}
		rec, err := receipt.Parse(data)
		if err != nil {
			t.Fatalf("verified although malformed: %v", err)
		}
		if !bytes.Equal(rec.Extra, l.payloads[rec.Index]) || r.Entry.Index != rec.Index {
			t.Errorf("verified, but the log has no such entry %d: %x", rec.Index, rec.Extra)
		}
		if r.Checkpoint.Checkpoint != l.checkpoint(r.Checkpoint.Size) {
			t.Errorf("verified, but the log has no such tree: %+v", r.Checkpoint.Checkpoint)
		}
	})
}

// FuzzConsistency holds the same of bundles and earlier checkpoints.
func FuzzConsistency(f *testing.F) {
	l := newLog(f, origin, 5)
	p := l.policy()
	f.Add(l.bundle(3, 5).Append(nil), l.sign(l.checkpoint(3)))
	f.Add(l.bundle(0, 5).Append(nil), l.sign(l.checkpoint(0), l.pq))
	f.Add(l.bundle(5, 5).Append(nil), l.sign(l.checkpoint(5), l.ed))
	f.Add(l.bundle(2, 4, l.ed).Append(nil), l.sign(l.checkpoint(5)))
	f.Fuzz(func(t *testing.T, bundle, old []byte) {
		r, err := verify.Consistency(bundle, old, p)
		verdict(t, r, err)
		if err != nil {
			return
		}
		for _, s := range []*verify.Signed{r.Earlier, r.Checkpoint} {
			if s.Checkpoint != l.checkpoint(s.Size) {
				t.Errorf("verified, but the log has no such tree: %+v", s.Checkpoint)
			}
		}
	})
}

func BenchmarkReceipt(b *testing.B) {
	l := newLog(b, origin, 1000)
	p := l.policy()
	data := l.receipt(500, 1000).Append(nil)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := verify.Receipt(data, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConsistency(b *testing.B) {
	l := newLog(b, origin, 1000)
	p := l.policy()
	data, old := l.bundle(500, 1000).Append(nil), l.sign(l.checkpoint(500))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := verify.Consistency(data, old, p); err != nil {
			b.Fatal(err)
		}
	}
}
