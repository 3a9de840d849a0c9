package vectors_test

import (
	"errors"
	"testing"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// policyVector is one policy file. Canonical is the file as it is written from what was
// read; Satisfied and Unsatisfied are sets of witnesses.
type policyVector struct {
	Description string     `json:"description"`
	Policy      string     `json:"policy"`
	Valid       bool       `json:"valid"`
	Line        int        `json:"error_line,omitempty"`
	Canonical   string     `json:"canonical,omitempty"`
	Satisfied   [][]string `json:"satisfied,omitempty"`
	Unsatisfied [][]string `json:"unsatisfied,omitempty"`
}

func policies() map[string]policyVector {
	logKey := newSigner(logName, checkpoint.TypeEd25519, 1).vkey()
	pqKey := newSigner(logName, checkpoint.TypeMLDSA44, 2).vkey()
	w := func(n byte) string {
		return newSigner("witness.example/"+string('0'+rune(n)), checkpoint.TypeEd25519Cosignature, 10+n).vkey()
	}
	renamed := newSigner("other.example", checkpoint.TypeEd25519Cosignature, 11).vkey()
	plain := newSigner("witness.example/1", checkpoint.TypeEd25519, 11).vkey()
	one := "witness a " + w(1) + "\n"
	two := one + "witness b " + w(2) + "\n"
	invalid := func(description string, line int, text string) policyVector {
		return policyVector{Description: description, Policy: text, Line: line}
	}
	return map[string]policyVector{
		"init": {
			"A log with two keys and no witness: what a new log is created with.",
			"log " + logKey + "\nlog " + pqKey + "\nquorum none\n", true, 0,
			"log " + logKey + "\nlog " + pqKey + "\nquorum none\n", [][]string{{}, {"a"}}, nil,
		},
		"groups": {
			"Groups of groups, with comments, tabs and URLs.",
			"# comment\n\n\tlog  " + logKey + "\thttps://log.example/ \n" + two + "witness c " + w(3) + " https://w.example/\ngroup ab 1 a b\ngroup all-of 2 ab c\nquorum all-of\n", true, 0,
			"log " + logKey + " https://log.example/\n" + two + "witness c " + w(3) + " https://w.example/\ngroup ab any a b\ngroup all-of all ab c\nquorum all-of\n",
			[][]string{{"a", "c"}, {"b", "c"}, {"a", "b", "c"}}, [][]string{{}, {"a"}, {"c"}, {"a", "b"}, {"ab", "c"}, {"all-of"}},
		},
		"witness-as-quorum": {
			"A single witness is the quorum.", two + "quorum b\n", true, 0, two + "quorum b\n", [][]string{{"b"}}, [][]string{{}, {"a"}},
		},
		"words-as-names": {
			"Only none is predefined.", "witness any " + w(1) + "\ngroup 2 all any\nquorum 2\n", true, 0,
			"witness any " + w(1) + "\ngroup 2 all any\nquorum 2\n", [][]string{{"any"}}, [][]string{{}},
		},
		"no-quorum":            invalid("The quorum is missing.", 0, two),
		"two-quorums":          invalid("A second quorum line.", 3, one+"quorum a\nquorum none\n"),
		"no-last-newline":      invalid("The last line may be cut off.", 2, one+"quorum a"),
		"threshold-0":          invalid("A threshold is at least 1.", 2, one+"group g 0 a\nquorum g\n"),
		"threshold-too-high":   invalid("A threshold is at most the number of members.", 3, two+"group g 3 a b\nquorum g\n"),
		"threshold-zeros":      invalid("No leading zeros.", 3, two+"group g 01 a b\nquorum g\n"),
		"member-twice":         invalid("A name is a member once.", 2, one+"group g 2 a a\nquorum g\n"),
		"member-of-two":        invalid("A name is a member of one group.", 4, two+"group g any a b\ngroup h all a\nquorum h\n"),
		"forward-reference":    invalid("Groups refer to earlier lines.", 1, "group g all a\n"+one+"quorum g\n"),
		"none-as-member":       invalid("None is no member.", 1, "group g all none\nquorum g\n"),
		"none-as-name":         invalid("None is predefined.", 1, "witness none "+w(1)+"\nquorum none\n"),
		"same-name":            invalid("Witnesses and groups share their names.", 2, one+"group a all a\nquorum a\n"),
		"same-key":             invalid("Two names for one key.", 2, one+"witness b "+w(1)+"\nquorum a\n"),
		"same-key-renamed":     invalid("Two key names for one key.", 2, one+"witness b "+renamed+"\nquorum a\n"),
		"same-log-key":         invalid("A log's key twice.", 2, "log "+logKey+"\nlog "+logKey+"\nquorum none\n"),
		"untimed-witness":      invalid("A witness needs a kind of signature with a time.", 1, "witness a "+plain+"\nquorum a\n"),
		"wrong-key-id":         invalid("The key id does not belong to the key.", 1, "log example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\nquorum none\n"),
		"trailing-comment":     invalid("A comment is a line of its own.", 1, "quorum none # comment\n"),
		"carriage-return":      invalid("Carriage returns are not allowed.", 1, "quorum none\r\n"),
		"no-break-space":       invalid("Space and tab alone separate.", 1, "quorum\u00a0none\n"),
		"unknown-keyword":      invalid("Unknown keyword.", 1, "quorums none\n"),
		"witness-without-vkey": invalid("A witness has a key.", 1, "witness a\nquorum none\n"),
	}
}

func TestPolicyVectors(t *testing.T) {
	run(t, "policy", policies(), func(t *testing.T, v policyVector) {
		p, err := policy.Parse([]byte(v.Policy))
		if (err == nil) != v.Valid {
			t.Fatalf("Parse: %+v, %v", p, err)
		}
		if e, ok := errors.AsType[*policy.SyntaxError](err); err != nil && (!ok || e.Line != v.Line) {
			t.Errorf("Parse: %v; want line %d", err, v.Line)
		}
		if !v.Valid {
			return
		}
		if p.String() != v.Canonical {
			t.Errorf("String: %s", p)
		}
		for want, sets := range map[bool][][]string{true: v.Satisfied, false: v.Unsatisfied} {
			for _, set := range sets {
				cosigned := make(map[string]bool)
				for _, name := range set {
					cosigned[name] = true
				}
				if got := p.Satisfied(cosigned); got != want {
					t.Errorf("Satisfied(%q) = %v", set, got)
				}
			}
		}
	})
}
