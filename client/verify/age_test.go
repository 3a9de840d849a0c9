package verify_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/proto/receipt"
)

func parseTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func parseDuration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// addAges adds the vectors in which an age is demanded. All signatures are of signedAt.
func addAges(cases map[string]vector, l *testLog, w *checkpoint.SignerKey, witnessed *policy.Policy,
	ofReceipt func(description, verdict, because string, r *receipt.Receipt) vector,
) {
	add := func(name, description, because string, p *policy.Policy, ago time.Duration, keys ...*checkpoint.SignerKey) {
		v := ofReceipt(description, "verified", because, l.receipt(3, 7, keys...))
		if because != "" {
			v.Verdict = "unverifiable"
		}
		v.Policy, v.Now, v.MaxAge = p.String(), signedAt.Add(ago).Format(time.RFC3339), "1h0m0s"
		for _, k := range []*checkpoint.SignerKey{l.ed, l.pq} {
			if !contains(keys, k) {
				v.Missing = append(v.Missing, k.VerifierKey().String())
			}
		}
		cases[name] = v
	}
	add("fresh", "A witness cosigned exactly as long ago as is allowed.", "", witnessed, time.Hour, l.ed, l.pq, w)
	add("stale", "A witness cosigned a second longer ago than is allowed.", "too old", witnessed, time.Hour+time.Second, l.ed, l.pq, w)
	add("fresh-clock-ahead", "The witness's clock is a minute ahead, as much as is allowed.", "", witnessed, -time.Minute, l.ed, l.pq, w)
	add("stale-future", "A time further in the future says nothing about now.", "too old", witnessed, -time.Minute-time.Second, l.ed, l.pq, w)
	add("fresh-log-only", "Without witnesses the log's own timestamped signature counts.", "", l.policy(), time.Hour, l.ed, l.pq)
	add("stale-log-only", "Without witnesses, and the log's own signature is too old.", "too old", l.policy(), time.Hour+time.Second, l.ed, l.pq)
	add("stale-no-time", "Signed with Ed25519 alone, which states no time.", "too old", l.policy(), 0, l.ed)
}

func contains(keys []*checkpoint.SignerKey, k *checkpoint.SignerKey) bool {
	for _, o := range keys {
		if o == k {
			return true
		}
	}
	return false
}

// TestAgeIsTheQuorums takes cosignatures of different ages: the one that completes the
// quorum decides, and one fresh witness of a quorum of two is not enough.
func TestAgeIsTheQuorums(t *testing.T) {
	l := newLog(t, origin, 3)
	var names []string
	var keys []*checkpoint.SignerKey
	p := l.policy()
	for i, name := range []string{"one", "two", "three"} {
		k := key(t, "witness.example/"+name, checkpoint.TypeMLDSA44, 0x61+byte(i))
		p.Witnesses = append(p.Witnesses, policy.Witness{Name: name, Key: k.VerifierKey()})
		keys, names = append(keys, k), append(names, name)
	}
	p.Groups = []policy.Group{{Name: "two-of", Threshold: 2, Members: names}}
	p.Quorum = "two-of"
	now := signedAt.Add(time.Hour)
	c := l.checkpoint(3)
	cosigned := func(ago ...time.Duration) *verify.Signed {
		sigs := []checkpoint.Signature{}
		for _, k := range []*checkpoint.SignerKey{l.ed, l.pq} {
			s, err := signature(k, c, uint64(now.Unix())) // The log's word is not asked.
			if err != nil {
				t.Fatal(err)
			}
			sigs = append(sigs, s)
		}
		for i, d := range ago {
			s, err := signature(keys[i], c, uint64(now.Add(-d).Unix()))
			if err != nil {
				t.Fatal(err)
			}
			sigs = append(sigs, s)
		}
		s, err := verify.Checkpoint(checkpoint.AppendNote(nil, c, sigs), p)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const future = -time.Hour
	for _, row := range []struct {
		name string
		ago  []time.Duration
		want time.Duration // -1 when no time counts
	}{
		{"the second newest decides", []time.Duration{time.Minute, time.Hour, 10 * time.Minute}, 10 * time.Minute},
		{"one fresh witness is not two", []time.Duration{0, 50 * time.Minute}, 50 * time.Minute},
		{"the future does not count", []time.Duration{future, time.Minute, 2 * time.Minute}, 2 * time.Minute},
		{"the future does not complete a quorum", []time.Duration{future, time.Minute}, -1},
	} {
		s := cosigned(row.ago...)
		at := s.NewestAt(now, p)
		if row.want < 0 {
			if !at.IsZero() {
				t.Errorf("%s: newest at %v", row.name, at)
			}
			continue
		}
		if want := now.Add(-row.want); !at.Equal(want) {
			t.Errorf("%s: newest at %v, want %v", row.name, at, want)
		}
		if _, err := s.CheckAge(now, row.want, p); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		_, err := s.CheckAge(now, row.want-time.Second, p)
		wantUnverifiable(t, nil, err, verify.ReasonStale)
	}
}

func TestAgeIsSaid(t *testing.T) {
	l := newLog(t, origin, 3)
	w := key(t, "witness.example", checkpoint.TypeMLDSA44, 0x61)
	p := l.policy()
	r, err := receiptVerdict(t, l.receipt(1, 3).Append(nil), p)
	wantVerified(t, r, err)
	if err := r.CheckAge(signedAt, time.Hour, p); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(r.NotProven(), " "); !strings.Contains(said, "the log's word only") {
		t.Errorf("not proven: %s", said)
	}
	p.Witnesses = []policy.Witness{{Name: "w", Key: w.VerifierKey()}}
	p.Quorum = "w"
	r, err = receiptVerdict(t, l.receipt(1, 3, l.ed, l.pq, w).Append(nil), p)
	wantVerified(t, r, err)
	if err := r.CheckAge(signedAt, time.Hour, p); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(r.Proven(), " "); !strings.Contains(said, "was the newest that the witnesses") {
		t.Errorf("proven: %s", said)
	}
	if said := strings.Join(r.NotProven(), " "); strings.Contains(said, "newest") {
		t.Errorf("not proven: %s", said)
	}
}
