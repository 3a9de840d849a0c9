package feed_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/witness/feed"
)

// FuzzAnswer reads what a witness may answer. Whatever is taken must be a line of the
// answer that verifies, once for each key; a size must be spelled in one way.
func FuzzAnswer(f *testing.F) {
	l, p := newLog(f, ""), newParty(f, "w", "")
	cp := l.at(9)
	now := time.Unix(1_800_000_000, 0)
	witnesses := []policy.Witness{{Name: "w", Key: p.keys[0].VerifierKey()}, {Name: "w-pq", Key: p.keys[1].VerifierKey()}}
	good := lines(cp, now, p.keys...)
	stranger := lines(cp, now, newParty(f, "other", "").keys[0])
	for _, seed := range [][]byte{
		good, good[:len(good)-1], append(good, good...), append(stranger, good...), stranger, nil, []byte("0\n"), []byte("17\n"), []byte("007\n"),
		lines(l.at(8), now, p.keys[0]), lines(cp, now.Add(25*time.Hour), p.keys[0]), []byte("18446744073709551615\n"), []byte("<html>"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if n, ok := feed.ParseSize(body); ok && fmt.Sprintf("%d\n", n) != string(body) {
			t.Errorf("%q is read as %d", body, n)
		}
		sigs, err := feed.ParseCosignatures(body, witnesses, cp, now)
		if (err == nil) != (len(sigs) > 0) {
			t.Errorf("%d signatures, %v", len(sigs), err)
		}
		for _, w := range witnesses {
			s, ok := sigs[w.Name]
			if !ok {
				continue
			}
			at, err := w.Key.Verify(cp, s)
			if err != nil || at == 0 || now.Sub(time.Unix(int64(at), 0)).Abs() > 24*time.Hour {
				t.Errorf("a line of %s at %d counts: %v", w.Name, at, err)
			}
			if !bytes.Contains(body, s.Append(nil)) {
				t.Error("a line counts that is not in the answer")
			}
		}
		if _, err := checkpoint.ParseSignatures(body); err != nil && len(sigs) > 0 {
			t.Errorf("an answer counts that cannot be read: %v", err)
		}
	})
}
