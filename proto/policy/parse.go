package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/internal/line"
)

// MaxSize is the largest policy file in bytes: room for over 500 ML-DSA-44 keys, where
// tlog-policy asks for 64.
const MaxSize = 1 << 20

// SyntaxError is what is wrong with a policy file.
type SyntaxError struct {
	// Line is the number of the line, from 1; 0 when the file as a whole is wrong.
	Line int
	// Rule says which rule is broken.
	Rule string
}

// Error returns the line and the rule.
func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return "policy: " + e.Rule
	}
	return fmt.Sprintf("policy: line %d: %s", e.Line, e.Rule)
}

// Parse reads a policy file of at most MaxSize bytes. Every error is a *SyntaxError.
//
// It refuses what tlog-policy forbids and, beyond that, a last line without newline (the
// file may be cut off), a witness with a key of a log (a log is no witness of its own
// word), a witness key of a kind that states no time, and two keys of the same name and
// id (a signature line could mean either).
func Parse(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, &SyntaxError{Rule: fmt.Sprintf("%d bytes are more than %d", len(data), MaxSize)}
	}
	s := parser{
		policy:  &Policy{},
		names:   make(map[string]int),
		members: make(map[string]bool),
		keys:    make(map[string]string),
		ids:     make(map[string]int),
	}
	for len(data) > 0 {
		s.line++
		text, rest, err := line.Cut(data)
		if err == nil {
			err = s.parseLine(text)
		}
		if err != nil {
			return nil, &SyntaxError{Line: s.line, Rule: err.Error()}
		}
		data = rest
	}
	if s.policy.Quorum == "" {
		return nil, &SyntaxError{Rule: "no quorum line"}
	}
	return s.policy, nil
}

// parser is what is known after some lines.
type parser struct {
	line   int
	policy *Policy
	// names holds the lines that define witnesses and groups.
	names map[string]int
	// members holds the names that a group has taken.
	members map[string]bool
	// keys tells for each public key what has it.
	keys map[string]string
	// ids holds the lines of key names with key ids.
	ids map[string]int
}

func (s *parser) parseLine(text []byte) error {
	for _, c := range text {
		if (c < 0x20 && c != '\t') || c == 0x7f {
			return fmt.Errorf("octet 0x%02x is not allowed", c)
		}
	}
	items := bytes.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(items) == 0 || items[0][0] == '#' {
		return nil
	}
	args := make([]string, 0, len(items)-1)
	for _, item := range items[1:] {
		args = append(args, string(item))
	}
	switch keyword := string(items[0]); keyword {
	case "log":
		return s.log(args)
	case "witness":
		return s.witness(args)
	case "group":
		return s.group(args)
	case "quorum":
		return s.quorum(args)
	default:
		return fmt.Errorf("unknown keyword %q", keyword)
	}
}

func (s *parser) log(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("a log line is: log VKEY [URL]")
	}
	key, err := s.key("log", args[0])
	if err != nil {
		return err
	}
	s.policy.Logs = append(s.policy.Logs, Log{Key: key, URL: optional(args, 1)})
	return nil
}

func (s *parser) witness(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return errors.New("a witness line is: witness NAME VKEY [URL]")
	}
	if err := s.define(args[0]); err != nil {
		return err
	}
	key, err := s.key("witness", args[1])
	if err != nil {
		return err
	}
	if !key.Type().Timestamped() {
		return fmt.Errorf("a witness signs with type 0x04 or 0x06, not with %v", key.Type())
	}
	s.policy.Witnesses = append(s.policy.Witnesses, Witness{Name: args[0], Key: key, URL: optional(args, 2)})
	return nil
}

func (s *parser) group(args []string) error {
	if len(args) < 3 {
		return errors.New("a group line is: group NAME all|any|K MEMBERS")
	}
	if err := s.define(args[0]); err != nil {
		return err
	}
	g := Group{Name: args[0], Members: args[2:]}
	switch args[1] {
	case "all":
		g.Threshold = len(g.Members)
	case "any":
		g.Threshold = 1
	default:
		k, err := line.ParseDecimal([]byte(args[1]))
		if err != nil || k < 1 || k > uint64(len(g.Members)) {
			return fmt.Errorf("threshold %q is not all, any or a number from 1 to %d", args[1], len(g.Members))
		}
		g.Threshold = int(k)
	}
	for _, m := range g.Members {
		if n, ok := s.names[m]; !ok || n == s.line {
			return fmt.Errorf("member %q is not defined on an earlier line", m)
		}
		if s.members[m] {
			return fmt.Errorf("member %q is listed a second time; a name may be a member once", m)
		}
		s.members[m] = true
	}
	s.policy.Groups = append(s.policy.Groups, g)
	return nil
}

func (s *parser) quorum(args []string) error {
	if len(args) != 1 {
		return errors.New("a quorum line is: quorum NAME|none")
	}
	if s.policy.Quorum != "" {
		return errors.New("second quorum line")
	}
	if _, ok := s.names[args[0]]; !ok && args[0] != None {
		return fmt.Errorf("quorum %q is not defined on an earlier line", args[0])
	}
	s.policy.Quorum = args[0]
	return nil
}

// define takes the name of a witness or a group.
func (s *parser) define(name string) error {
	if name == None {
		return fmt.Errorf("the name %q is predefined", None)
	}
	if n, ok := s.names[name]; ok {
		return fmt.Errorf("name %q is already defined in line %d", name, n)
	}
	s.names[name] = s.line
	return nil
}

// key reads the vkey of a log or a witness and takes it.
func (s *parser) key(owner, vkey string) (checkpoint.VerifierKey, error) {
	key, err := checkpoint.ParseVerifierKey(vkey)
	if err != nil {
		return checkpoint.VerifierKey{}, errors.New(strings.TrimPrefix(err.Error(), "checkpoint: "))
	}
	public := string(key.PublicKey())
	if other, ok := s.keys[public]; ok {
		return checkpoint.VerifierKey{}, errors.New("same public key as " + other)
	}
	s.keys[public] = fmt.Sprintf("the %s in line %d", owner, s.line)
	id := fmt.Sprintf("%s+%08x", key.Name(), key.ID())
	if n, ok := s.ids[id]; ok {
		return checkpoint.VerifierKey{}, fmt.Errorf("same key name and key id as in line %d", n)
	}
	s.ids[id] = s.line
	return key, nil
}

// optional returns args[i], or nothing where there is no such item.
func optional(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}
