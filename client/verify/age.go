package verify

import (
	"fmt"
	"slices"
	"time"

	"github.com/keytrail/keytrail/proto/policy"
)

// MaxSkew is how far ahead of the verifier's clock a signer's may be. A time further in the
// future says nothing about now.
const MaxSkew = time.Minute

// NewestAt returns the latest time at which everybody whom the policy asks for called this
// the log's newest tree: the time of the cosignature that completes the quorum, taken from
// the newest. With the quorum none it is the latest time in the log's own signatures, which
// is the log's word only. It is zero when the signatures that count state no time, or only
// times more than MaxSkew after now.
func (s *Signed) NewestAt(now time.Time, p *policy.Policy) time.Time {
	limit := now.Add(MaxSkew)
	if p.Quorum == policy.None {
		var newest time.Time
		for _, l := range s.LogKeys {
			if l.Time.After(newest) && !l.Time.After(limit) {
				newest = l.Time
			}
		}
		return newest
	}
	byAge := slices.DeleteFunc(slices.Clone(s.Cosignatures), func(c Cosignature) bool {
		return c.Time.IsZero() || c.Time.After(limit)
	})
	slices.SortFunc(byAge, func(a, b Cosignature) int { return b.Time.Compare(a.Time) })
	seen := make(map[string]bool, len(byAge))
	for _, c := range byAge {
		if seen[c.Witness] = true; p.Satisfied(seen) {
			return c.Time
		}
	}
	return time.Time{}
}

// CheckAge demands that NewestAt is not more than maxAge before now, and returns it. The
// error is an *UnverifiableError of ReasonStale: an old checkpoint proves what it ever did,
// only not what came after.
func (s *Signed) CheckAge(now time.Time, maxAge time.Duration, p *policy.Policy) (time.Time, error) {
	at := s.NewestAt(now, p)
	switch {
	case at.IsZero() && p.Quorum == policy.None:
		return at, unverifiable(ReasonStale, "the policy demands no witness, and no signature of the log states a time up to now")
	case at.IsZero():
		return at, unverifiable(ReasonStale, "the witnesses that the policy demands do not state times up to now")
	case now.Sub(at) > maxAge:
		return at, unverifiable(ReasonStale, "the tree of %d entries was the newest at %s, %s before now; at most %s is allowed",
			s.Size, at.Format(time.RFC3339), now.Sub(at).Round(time.Second), maxAge)
	}
	return at, nil
}

// Freshness is when a tree was the log's newest, and who says so.
type Freshness struct {
	At time.Time
	// LogOnly means that no witness was asked: it is the log's word.
	LogOnly bool
}

// CheckAge does what (*Signed).CheckAge does with the checkpoint of a receipt, or the later
// one of a bundle, and adds what was found to what Proven and NotProven return.
func (r *Result) CheckAge(now time.Time, maxAge time.Duration, p *policy.Policy) error {
	at, err := r.Checkpoint.CheckAge(now, maxAge, p)
	if err != nil {
		return err
	}
	r.Freshness = &Freshness{At: at, LogOnly: p.Quorum == policy.None}
	return nil
}

// describe says what the freshness proves, in one sentence.
func (f *Freshness) describe(s *Signed) string {
	if f.LogOnly {
		return fmt.Sprintf("That the tree of %d entries was the newest at %s: that is the log's word only, for the policy demands no witness.",
			s.Size, f.At.Format(time.RFC3339))
	}
	return fmt.Sprintf("The tree of %d entries was the newest that the witnesses of the quorum %q knew at %s, by their clocks.",
		s.Size, s.Quorum, f.At.Format(time.RFC3339))
}
