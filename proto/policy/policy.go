// Package policy reads and writes trust policies (C2SP tlog-policy): which logs are
// known, which witnesses, and which sets of witnesses are enough.
//
// Pure functions; safe for concurrent use while nobody changes a Policy. The package is
// trusted to refuse every file that leaves in doubt what it demands: a quorum that some
// reader would count differently is an error, never a guess.
package policy

import (
	"slices"
	"strconv"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// None is the quorum that demands no cosignature.
const None = "none"

// Policy is a trust policy. A checkpoint is valid under it when any one key of Logs
// signed it and the witnesses that cosigned it satisfy the quorum.
type Policy struct {
	// Logs are the known log keys; several of one name are keys of one log.
	Logs []Log
	// Witnesses are the known witnesses, each with a name of its own.
	Witnesses []Witness
	// Groups refer to witnesses and to groups before them.
	Groups []Group
	// Quorum is the name of a witness or a group, or None.
	Quorum string
}

// Log is one key of a log.
type Log struct {
	// Key's name is the log's origin.
	Key checkpoint.VerifierKey
	// URL is where the log is found; may be empty. Its meaning is the application's.
	URL string
}

// Witness is one witness.
type Witness struct {
	// Name is what groups and the quorum call it; it has no meaning elsewhere.
	Name string
	// Key is of a kind that states a time.
	Key checkpoint.VerifierKey
	// URL is its submission prefix (tlog-witness); may be empty.
	URL string
}

// Group counts as one witness when enough of its members have cosigned.
type Group struct {
	Name string
	// Threshold is how many members are enough, 1 to len(Members).
	Threshold int
	// Members are names of witnesses and of earlier groups.
	Members []string
}

// Origins returns the names of the logs, each once, in the order of the policy.
func (p *Policy) Origins() []string {
	var origins []string
	for _, l := range p.Logs {
		if !slices.Contains(origins, l.Key.Name()) {
			origins = append(origins, l.Key.Name())
		}
	}
	return origins
}

// LogKeys returns the keys of the log with this origin, none when the policy does not
// know it.
func (p *Policy) LogKeys(origin string) []checkpoint.VerifierKey {
	var keys []checkpoint.VerifierKey
	for _, l := range p.Logs {
		if l.Key.Name() == origin {
			keys = append(keys, l.Key)
		}
	}
	return keys
}

// Satisfied reports whether cosignatures of these witnesses, by their names in the
// policy, are enough. Names that are no witness of the policy count for nothing.
func (p *Policy) Satisfied(cosigned map[string]bool) bool {
	if p.Quorum == None {
		return true
	}
	met := make(map[string]bool, len(p.Witnesses)+len(p.Groups))
	for _, w := range p.Witnesses {
		met[w.Name] = cosigned[w.Name]
	}
	for _, g := range p.Groups {
		n := 0
		for _, m := range g.Members {
			if met[m] {
				n++
			}
		}
		met[g.Name] = n >= g.Threshold
	}
	return met[p.Quorum]
}

// Cosigned reports whether good signatures of the policy's witnesses over a checkpoint are
// enough. Lines of other keys, and lines that do not verify, count for nothing; the log's own
// are not looked at.
func (p *Policy) Cosigned(c checkpoint.Checkpoint, sigs []checkpoint.Signature) bool {
	cosigned := make(map[string]bool)
	for _, w := range p.Witnesses {
		for _, s := range sigs {
			if !cosigned[w.Name] && w.Key.Made(s) {
				_, err := w.Key.Verify(c, s)
				cosigned[w.Name] = err == nil
			}
		}
	}
	return p.Satisfied(cosigned)
}

// String returns the policy as a file.
func (p *Policy) String() string {
	return string(p.Append(nil))
}

// Append appends the policy as a file: logs, witnesses, groups and the quorum, single
// spaces, no comments. Parse of a valid policy's file returns the same policy.
func (p *Policy) Append(b []byte) []byte {
	for _, l := range p.Logs {
		b = appendLine(b, "log", l.Key.String(), l.URL)
	}
	for _, w := range p.Witnesses {
		b = appendLine(b, "witness", w.Name, w.Key.String(), w.URL)
	}
	for _, g := range p.Groups {
		b = appendLine(b, append([]string{"group", g.Name, g.threshold()}, g.Members...)...)
	}
	return appendLine(b, "quorum", p.Quorum)
}

// threshold returns the threshold as Append writes it: in words where there is one.
func (g Group) threshold() string {
	switch g.Threshold {
	case len(g.Members):
		return "all"
	case 1:
		return "any"
	}
	return strconv.Itoa(g.Threshold)
}

// appendLine appends the items that are not empty.
func appendLine(b []byte, items ...string) []byte {
	for i, item := range items {
		if item == "" {
			continue
		}
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, item...)
	}
	return append(b, '\n')
}
