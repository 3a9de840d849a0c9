// Package statement reads, writes, signs and verifies final statements: the last words of
// a log that lost a part of what it had signed, and which log continues it.
//
// A final statement is a signed note (C2SP signed-note) whose text is
//
//	keytrail.dev/final-statement/v1
//	origin log.example.com/keys
//	signed 1234 <root of the largest tree that the log is known to have signed, base64>
//	kept 1200 <root of the largest of these trees whose entries are still there, base64>
//	successor log.example.com/keys/2
//	key <vkey of the successor, one line for each of its keys>
//	time 2026-11-22T08:00:00Z
//
// signed with the keys of the log that ends. It names two trees that the log had signed
// already, so that it adds no tree to the log's history, and its second line keeps it
// from being a checkpoint. Each value has one spelling.
//
// Pure functions without a clock; safe for concurrent use. The package is trusted with the
// form and with the signatures; what a statement says is the log's word. It is checked
// against the log's checkpoints: one of a tree larger than "signed", or of another root,
// shows that the statement or the log lied.
package statement

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/internal/line"
)

const (
	// Format is the first line.
	Format = "keytrail.dev/final-statement/v1"
	// MaxKeys is the largest number of the successor's keys.
	MaxKeys = 8
	// MaxSize is the largest signed statement in bytes: MaxKeys keys of 1.8 KB and as many
	// signatures of 3.3 KB fit well.
	MaxSize = 64 << 10
)

// Tree is the state of a log's tree.
type Tree struct {
	// Size is the number of entries.
	Size uint64
	// Root is the RFC 6962 Merkle tree hash.
	Root [32]byte
}

// Statement is the content of a final statement.
type Statement struct {
	// Origin names the log that ends.
	Origin string
	// Signed is the largest tree that the log is known to have signed, or to have been
	// about to sign.
	Signed Tree
	// Kept is the largest tree that the log signed and whose entries are still there. What
	// lies between it and Signed is lost but for what others hold.
	Kept Tree
	// Successor names the log that continues it: Next(Origin).
	Successor string
	// Keys are the successor's public keys, 1 to MaxKeys.
	Keys []checkpoint.VerifierKey
	// Time is when the statement was made, by the log's clock, to the second, in UTC.
	Time time.Time
}

// Next returns the name of the log that continues a log: the number at the end of its last
// path segment counts up, and without one the name gets "/2".
func Next(origin string) string {
	at := strings.LastIndexByte(origin, '/') + 1
	n, err := line.ParseDecimal([]byte(origin[at:]))
	if at == 0 || err != nil || n == 1<<64-1 {
		return origin + "/2"
	}
	return origin[:at] + strconv.FormatUint(n+1, 10)
}

// Validate returns why s cannot be a final statement.
func (s *Statement) Validate() error {
	if err := checkpoint.CheckName(s.Origin); err != nil {
		return fmt.Errorf("statement: origin: %w", err)
	}
	if err := checkpoint.CheckName(s.Successor); err != nil {
		return fmt.Errorf("statement: successor: %w", err)
	}
	if s.Successor != Next(s.Origin) {
		return fmt.Errorf("statement: the successor of %s is called %s, not %s", s.Origin, Next(s.Origin), s.Successor)
	}
	for _, t := range []Tree{s.Signed, s.Kept} {
		if (t.Size == 0) != (t.Root == checkpoint.EmptyRoot()) {
			return fmt.Errorf("statement: size %d does not go with the root hash", t.Size)
		}
	}
	if s.Kept.Size > s.Signed.Size || (s.Kept.Size == s.Signed.Size && s.Kept.Root != s.Signed.Root) {
		return errors.New("statement: the tree that is kept is not a beginning of the tree that was signed")
	}
	if len(s.Keys) == 0 || len(s.Keys) > MaxKeys {
		return fmt.Errorf("statement: %d keys, want 1 to %d", len(s.Keys), MaxKeys)
	}
	for i, k := range s.Keys {
		if k.Name() != s.Successor {
			return fmt.Errorf("statement: a key of the successor is named %q", k.Name())
		}
		for _, other := range s.Keys[:i] {
			if k.SameKey(other) {
				return errors.New("statement: a key of the successor stands twice")
			}
		}
	}
	if t := s.Time; t.Unix() < 0 || t.Year() > 9999 {
		return errors.New("statement: time is out of range")
	}
	return nil
}

// AppendText appends the note text of a valid statement to b.
func (s *Statement) AppendText(b []byte) []byte {
	b = fmt.Appendf(b, "%s\norigin %s\n", Format, s.Origin)
	b = appendTree(b, "signed", s.Signed)
	b = appendTree(b, "kept", s.Kept)
	b = fmt.Appendf(b, "successor %s\n", s.Successor)
	for _, k := range s.Keys {
		b = fmt.Appendf(b, "key %s\n", k)
	}
	return fmt.Appendf(b, "time %s\n", s.Time.UTC().Format(time.RFC3339))
}

func appendTree(b []byte, word string, t Tree) []byte {
	b = fmt.Appendf(b, "%s %d ", word, t.Size)
	return append(line.AppendBase64(b, t.Root[:]), '\n')
}

// Sign returns the statement as a note with one signature of each key of the log that
// ends, in their order. Fractions of its time's second are cut off.
func (s *Statement) Sign(signers ...*checkpoint.SignerKey) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if len(signers) == 0 {
		return nil, errors.New("statement: no signer")
	}
	text := s.AppendText(nil)
	note := append(bytes.Clone(text), '\n')
	for _, k := range signers {
		if k.Name() != s.Origin {
			return nil, fmt.Errorf("statement: signing key is named %q, the log is %q", k.Name(), s.Origin)
		}
		sig, err := k.SignText(text)
		if err != nil {
			return nil, fmt.Errorf("statement: %w", err)
		}
		note = sig.Append(note)
	}
	return note, nil
}

// Note is a statement with its signatures, none of them verified.
type Note struct {
	Statement
	// Text is what the signatures cover.
	Text []byte
	Sigs []checkpoint.Signature
}

// Parse reads a signed statement of at most MaxSize bytes without verifying it. It accepts
// exactly what Sign writes, with the signature lines of any keys.
func Parse(note []byte) (*Note, error) {
	if len(note) > MaxSize {
		return nil, fmt.Errorf("statement: %d bytes are more than %d", len(note), MaxSize)
	}
	text, sigs, err := checkpoint.SplitNote(note)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	n := &Note{Text: text, Sigs: sigs}
	if err := n.parseText(text); err != nil {
		return nil, err
	}
	if err := n.Validate(); err != nil {
		return nil, err
	}
	return n, nil
}

// parser reads lines that begin with a word each; after an error it reads nothing more.
type parser struct {
	rest []byte
	err  error
}

// value returns what follows the word in the next line.
func (p *parser) value(word string) []byte {
	if p.err != nil {
		return nil
	}
	first, rest, err := line.Cut(p.rest)
	if err != nil {
		p.err = fmt.Errorf("statement: %s: %w", word, err)
		return nil
	}
	v, ok := bytes.CutPrefix(first, []byte(word+" "))
	if !ok {
		p.err = fmt.Errorf("statement: no line %q where it belongs", word)
		return nil
	}
	p.rest = rest
	return v
}

func (p *parser) tree(word string) (t Tree) {
	size, root, _ := bytes.Cut(p.value(word), []byte(" "))
	if p.err != nil {
		return Tree{}
	}
	var sizeErr, rootErr error
	t.Size, sizeErr = line.ParseDecimal(size)
	t.Root, rootErr = line.ParseHash(root)
	if err := errors.Join(sizeErr, rootErr); err != nil {
		p.err = fmt.Errorf("statement: %s: %w", word, err)
	}
	return t
}

func (s *Statement) parseText(text []byte) error {
	rest, ok := bytes.CutPrefix(text, []byte(Format+"\n"))
	if !ok {
		return fmt.Errorf("statement: first line is not %s", Format)
	}
	p := parser{rest: rest}
	s.Origin = string(p.value("origin"))
	s.Signed, s.Kept = p.tree("signed"), p.tree("kept")
	s.Successor = string(p.value("successor"))
	for p.err == nil && bytes.HasPrefix(p.rest, []byte("key ")) && len(s.Keys) <= MaxKeys {
		k, err := checkpoint.ParseVerifierKey(string(p.value("key")))
		if err != nil {
			return fmt.Errorf("statement: key: %w", err)
		}
		s.Keys = append(s.Keys, k)
	}
	at := string(p.value("time"))
	if p.err != nil {
		return p.err
	}
	t, err := time.Parse(time.RFC3339, at)
	if err != nil || t.UTC().Format(time.RFC3339) != at {
		return errors.New("statement: time is not in the form 2006-01-02T15:04:05Z")
	}
	s.Time = t.UTC()
	if len(p.rest) > 0 {
		return errors.New("statement: lines follow the time")
	}
	return nil
}

// Verify checks every signature line of one of keys, the public keys of the log that ends,
// and returns the keys that signed. A line of a known key that does not verify is
// checkpoint.ErrSignature; without any line of a known key the result is empty.
func (n *Note) Verify(keys []checkpoint.VerifierKey) ([]checkpoint.VerifierKey, error) {
	var signed []checkpoint.VerifierKey
	for _, k := range keys {
		found := false
		for _, s := range n.Sigs {
			if k.Name() != n.Origin || !k.MadeText(s) {
				continue
			}
			if err := k.VerifyText(n.Text, s); err != nil {
				return nil, fmt.Errorf("statement: %v signature of %s: %w", k.Type(), k.Name(), err)
			}
			found = true
		}
		if found {
			signed = append(signed, k)
		}
	}
	return signed, nil
}
