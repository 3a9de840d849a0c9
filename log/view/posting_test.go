package view

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func (s *set) offsets() []uint16 {
	var out []uint16
	for o, ok := s.next(0); ok; o, ok = s.next(o + 1) {
		out = append(out, uint16(o))
	}
	return out
}

// TestPosting: whatever is put into a posting comes out, in at most the size of a bitmap.
func TestPosting(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		n := rapid.SampledFrom([]int{1, 2, 100, 8000, 8192, 8193, 65536}).Draw(rt, "entries")
		want := make([]uint16, 0, n)
		for _, o := range rng.Perm(segmentSize)[:n] {
			want = append(want, uint16(o))
		}
		slices.Sort(want)
		b := appendPosting(nil, want)
		if len(b) > 1+bitmapSize {
			rt.Fatalf("posting of %d entries has %d bytes", n, len(b))
		}
		var s set
		if err := s.addPosting(b); err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(s.offsets(), want) {
			rt.Fatalf("posting of %d entries came out otherwise", n)
		}
	})
}

// TestSet compares the operations of sets with those on slices.
func TestSet(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		near := rapid.SampledFrom([]uint16{0, 1, 63, 64, 65, 127, 128, 4095, 65471, 65472, 65534, 65535})
		in := slices.Compact(slices.Sorted(slices.Values(rapid.SliceOf(near).Draw(rt, "offsets"))))
		var s set
		for _, o := range in {
			s.add(o)
		}
		at := int(near.Draw(rt, "at"))
		i, _ := slices.BinarySearch(in, uint16(at))
		o, ok := s.next(at)
		if ok != (i < len(in)) || ok && o != int(in[i]) {
			rt.Errorf("next(%d) of %v is %d, %v", at, in, o, ok)
		}
		j := slices.IndexFunc(in, func(o uint16) bool { return int(o) > at })
		if j < 0 {
			j = len(in)
		}
		o, ok = s.prev(at)
		if ok != (j > 0) || ok && o != int(in[j-1]) {
			rt.Errorf("prev(%d) of %v is %d, %v", at, in, o, ok)
		}
		s.truncate(at)
		if got := s.offsets(); !slices.Equal(got, in[:i:i]) && len(got)+i > 0 {
			rt.Errorf("%v truncated to %d is %v", in, at, got)
		}
	})
}

// FuzzPosting: whatever bytes a posting has, reading it ends, and what it reads as a list
// is read again from its own encoding.
func FuzzPosting(f *testing.F) {
	f.Add([]byte{postingList, 1, 1, 0x80, 2})
	f.Add(appendBitmap(nil, []uint16{0, 77, 65535}))
	f.Add([]byte{postingList, 0xff, 0xff, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s set
		if s.addPosting(b) != nil {
			return
		}
		var again set
		if err := again.addPosting(appendPosting(nil, s.offsets())); err != nil || again != s {
			t.Errorf("set of %d bytes came out otherwise: %v", len(b), err)
		}
	})
}
