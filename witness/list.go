package witness

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// MaxList is the largest log list that is read, in bytes; the largest of the witness network
// is meant for 40,000 logs of some 200 bytes.
const MaxList = 16 << 20

// listHeader is the first line of a log list.
const listHeader = "logs/v0"

// ParseLogList reads a list of logs in the format of the witness network
// (witness-network.org/log-list-format, April 2026): the header, then for each log the lines
// vkey, perhaps origin, qpd and contact, in this order. Empty lines and those that begin
// with # are ignored, as are spaces around a line. A log may be there once.
func ParseLogList(list []byte) ([]Log, error) {
	if len(list) > MaxList {
		return nil, fmt.Errorf("witness: log list of %d bytes is larger than %d", len(list), MaxList)
	}
	p := &listParser{origins: make(map[string]bool)}
	n := 0
	for text := range strings.SplitSeq(string(list), "\n") {
		n++
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if err := p.line(text); err != nil {
			return nil, fmt.Errorf("witness: log list, line %d: %w", n, err)
		}
	}
	if p.expected == "" {
		return nil, errors.New("witness: log list: the header " + listHeader + " is missing")
	}
	if p.expected != "vkey" {
		return nil, errors.New("witness: log list: ends within a log")
	}
	return p.logs, nil
}

type listParser struct {
	// expected is the word that the next line begins with, empty before the header.
	expected string
	log      Log
	logs     []Log
	origins  map[string]bool
}

func (p *listParser) line(text string) error {
	if p.expected == "" {
		if text != listHeader {
			return fmt.Errorf("is %q, not the header %s", text, listHeader)
		}
		p.expected = "vkey"
		return nil
	}
	word, value, _ := strings.Cut(text, " ")
	value = strings.TrimSpace(value)
	if value == "" {
		return fmt.Errorf("%q has no value", word)
	}
	if word == "origin" && p.expected == "qpd" && p.log.Origin == p.log.Keys[0].Name() {
		p.log.Origin = value
		p.expected = "qpd after origin"
		return nil
	}
	if word != strings.TrimSuffix(p.expected, " after origin") {
		return fmt.Errorf("begins with %q, expected %s", word, p.expected)
	}
	switch word {
	case "vkey":
		k, err := checkpoint.ParseVerifierKey(value)
		if err != nil {
			return err
		}
		p.log, p.expected = Log{Origin: k.Name(), Keys: []checkpoint.VerifierKey{k}}, "qpd"
	case "qpd":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != value {
			return fmt.Errorf("qpd is %q, not a number from 1 to 2^31-1", value)
		}
		p.log.PerDay, p.expected = uint32(n), "contact"
	case "contact":
		p.log.Contact = value
		if err := p.log.Validate(); err != nil {
			return err
		}
		if p.origins[p.log.Origin] {
			return fmt.Errorf("the log %q is there twice", p.log.Origin)
		}
		p.origins[p.log.Origin] = true
		p.logs, p.expected = append(p.logs, p.log), "vkey"
	}
	return nil
}
