package verify_test

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
)

// sameVerdict holds that a Verifier, whatever it remembers, says of a receipt what the
// function Receipt says, and remembers nothing of a bad one.
func sameVerdict(t *testing.T, v *verify.Verifier, p *policy.Policy, data []byte) {
	t.Helper()
	want, wantErr := verify.Receipt(bytes.Clone(data), p)
	before := v.Known()
	proof, err := v.CheckReceipt(bytes.Clone(data))
	if !reflect.DeepEqual(wantErr, err) {
		t.Fatalf("another error (-want +got):\n%s\nof\n%s", cmp.Diff(wantErr, err), data)
	}
	switch {
	case err == nil && (proof.Index != want.Entry.Index || proof.Checkpoint.Checkpoint != want.Checkpoint.Checkpoint):
		t.Fatalf("entry %d of %v, want %d of %v", proof.Index, proof.Checkpoint, want.Entry.Index, want.Checkpoint)
	case err != nil && v.Known() > before:
		t.Fatalf("%d pairs of nodes were learnt from a bad receipt", v.Known()-before)
	}
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// altered returns receipts that differ from a good one in a hash, in each of its places, and
// in the order and number of hashes.
func altered(t *testing.T, data []byte) (out [][]byte) {
	t.Helper()
	for i := range parsed(t, data).Hashes {
		r := parsed(t, data)
		r.Hashes[i][rand.IntN(32)] ^= 1 << rand.IntN(8)
		out = append(out, r.Append(nil))
		if i > 0 {
			r = parsed(t, data)
			r.Hashes[i-1], r.Hashes[i] = r.Hashes[i], r.Hashes[i-1]
			out = append(out, r.Append(nil))
		}
		r = parsed(t, data)
		line := append(base64.StdEncoding.AppendEncode(nil, r.Hashes[i][:]), '\n')
		// A second spelling of the same hash: an unused bit is set.
		spelt := bytes.Clone(line)
		spelt[42] = alphabet[strings.IndexByte(alphabet, spelt[42])|1]
		out = append(out, bytes.Replace(data, line, spelt, 1), bytes.Replace(data, line, line[:43], 1),
			bytes.Replace(data, line, append(bytes.Clone(line[:44]), '\r', '\n'), 1))
	}
	r := parsed(t, data)
	if n := len(r.Hashes); n > 0 {
		r.Hashes = r.Hashes[:n-1]
		out = append(out, r.Append(nil))
		r.Hashes = append(r.Hashes, [32]byte{1}, [32]byte{2})
		out = append(out, r.Append(nil))
	}
	r = parsed(t, data)
	r.Index ^= 1
	out = append(out, r.Append(nil))
	r = parsed(t, data)
	r.Extra[3] ^= 1
	return append(out, r.Append(nil))
}

func parsed(t *testing.T, data []byte) *receipt.Receipt {
	t.Helper()
	r, err := receipt.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestUpperNodes alters receipts of small trees, full ones and others, and of a high one, at every
// level: with nothing known, while nodes become known, and when all are known that can be.
func TestUpperNodes(t *testing.T) {
	l := newLog(t, origin, 13)
	p := l.policy()
	check := func(v *verify.Verifier, files [][]byte) {
		for range 2 {
			for _, n := range rand.Perm(len(files)) {
				for _, bad := range altered(t, files[n]) {
					sameVerdict(t, v, p, bad)
				}
				sameVerdict(t, v, p, files[n])
			}
		}
	}
	for _, size := range []uint64{1, 2, 3, 5, 7, 8, 13} {
		var files [][]byte
		for index := range size {
			files = append(files, l.receipt(index, size, l.ed).Append(nil))
		}
		v := verify.NewVerifier(p)
		check(v, files)
		// A full tree has a pair for each of its inner nodes, also one that is not full.
		if got := v.Known(); got != int(size-1) {
			t.Errorf("%d pairs are known of a tree of %d entries", got, size)
		}
	}
	v := verify.NewVerifier(p)
	check(v, manyReceipts(t, l, 3))
	if v.Known() == 0 {
		t.Error("no upper nodes of a high tree are known")
	}
}

// TestUpperNodesOfTwoTrees mixes receipts of trees of one size and of neighbouring sizes, of
// one log that shows two histories, and gives each tree the proofs of the others.
func TestUpperNodesOfTwoTrees(t *testing.T) {
	l, fork := newLog(t, origin, 9), newLog(t, origin, 3)
	for i := uint64(3); i < 9; i++ {
		rec := l.record(i)
		rec.Producer = "another"
		fork.append(fork.payload(rec))
	}
	p := l.policy()
	v := verify.NewVerifier(p)
	var files [][]byte
	for _, a := range []*testLog{l, fork} {
		for size := uint64(8); size <= 9; size++ {
			for index := range size {
				files = append(files, a.receipt(index, size, l.ed).Append(nil))
			}
		}
	}
	for range 40 {
		a := files[rand.IntN(len(files))]
		sameVerdict(t, v, p, a)
		sameVerdict(t, v, p, a) // so that there is a table
		mixed := parsed(t, files[rand.IntN(len(files))])
		mixed.Checkpoint = parsed(t, a).Checkpoint
		sameVerdict(t, v, p, mixed.Append(nil))
		mixed = parsed(t, a)
		mixed.Hashes = parsed(t, files[rand.IntN(len(files))]).Hashes
		sameVerdict(t, v, p, mixed.Append(nil))
		sameVerdict(t, v, p, a)
	}
}
