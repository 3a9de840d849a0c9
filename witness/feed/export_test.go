package feed

import (
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// ParseSize is parseSize.
func ParseSize(body []byte) (uint64, bool) { return parseSize(body) }

// ParseCosignatures is parseCosignatures for witnesses of one URL. It returns the signatures
// by the names in the policy.
func ParseCosignatures(body []byte, ws []policy.Witness, cp checkpoint.Checkpoint, now time.Time) (map[string]checkpoint.Signature, error) {
	var members []*member
	for i, w := range ws {
		members = append(members, &member{Witness: w, index: i})
	}
	got, err := parseCosignatures(body, members, cp, now)
	sigs := make(map[string]checkpoint.Signature)
	for _, c := range got {
		sigs[c.member.Name] = c.sig
	}
	return sigs, err
}
