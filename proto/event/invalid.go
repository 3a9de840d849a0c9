package event

import (
	"fmt"
	"strings"
)

// InvalidError says which rules an event breaks: all of them, not only the first.
type InvalidError struct {
	// Violations has at least one element, in the order of the fields.
	Violations []Violation
}

// Violation is one broken rule.
type Violation struct {
	// Field is the path of the field, as "key.ref", "approvals[2].approver" or
	// "context[0].name"; a field that is unknown has its number, as "key.99". Empty when
	// the rule concerns the event as a whole.
	Field string
	// Reason goes on where Field ends: "is required".
	Reason string
}

// String gives field and reason as one sentence without a full stop.
func (v Violation) String() string {
	if v.Field == "" {
		return "the event " + v.Reason
	}
	return v.Field + " " + v.Reason
}

// Error names every violation.
func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("invalid event: ")
	for i, v := range e.Violations {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(v.String())
	}
	return b.String()
}

// WithPrefix returns the same error with a prefix before each field path: "events[3]."
// makes "events[3].key.ref", and "events[3]" of the event as a whole.
func (e *InvalidError) WithPrefix(prefix string) *InvalidError {
	p := &InvalidError{Violations: make([]Violation, len(e.Violations))}
	for i, v := range e.Violations {
		v.Field = prefix + v.Field
		if v.Field == prefix {
			v.Field = strings.TrimSuffix(prefix, ".")
		}
		p.Violations[i] = v
	}
	return p
}

// checker gathers violations. It allocates nothing as long as there are none.
type checker struct {
	violations []Violation
}

func (c *checker) add(field, format string, args ...any) {
	c.violations = append(c.violations, Violation{Field: field, Reason: fmt.Sprintf(format, args...)})
}

// within puts a path before the fields of the violations from number n on.
func (c *checker) within(n int, list string, index int) {
	for i := n; i < len(c.violations); i++ {
		v := &c.violations[i]
		path := fmt.Sprintf("%s[%d]", list, index)
		if v.Field != "" {
			path += "." + v.Field
		}
		v.Field = path
	}
}

// err returns nil, as an untyped nil, when there are no violations.
func (c *checker) err() error {
	if len(c.violations) == 0 {
		return nil
	}
	return &InvalidError{Violations: c.violations}
}
