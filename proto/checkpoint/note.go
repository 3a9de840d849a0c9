package checkpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/keytrail/keytrail/proto/internal/line"
)

// MaxNoteSize is the largest signed checkpoint that is read, in bytes. 32 witnesses,
// the least that a policy must support, with an Ed25519 and an ML-DSA-44 line each, take
// about 120 KiB; this is room for twice as many.
const MaxNoteSize = 256 << 10

// MaxSignatures is the largest number of signature lines; golang.org/x/mod/sumdb/note
// reads no more either.
const MaxSignatures = 100

// sigPrefix begins each signature line: an em dash and a space.
const sigPrefix = "— "

// keyIDSize is the size of a key id in bytes.
const keyIDSize = 4

// Signature is one signature line of a note.
type Signature struct {
	// Name is the name of the key.
	Name string
	// KeyID tells apart the keys of one name.
	KeyID uint32
	// Sig is what follows the key id; at least one byte.
	Sig []byte
}

// Append appends the signature line with its newline to b.
func (s Signature) Append(b []byte) []byte {
	b = slices.Grow(b, s.lineLength())
	b = append(b, sigPrefix...)
	b = append(b, s.Name...)
	b = append(b, ' ')
	// Six bytes are whole characters of base64, so that what follows can be encoded by itself.
	var head [keyIDSize + 2]byte
	binary.BigEndian.PutUint32(head[:], s.KeyID)
	n := copy(head[keyIDSize:], s.Sig)
	b = line.AppendBase64(b, head[:keyIDSize+n])
	b = line.AppendBase64(b, s.Sig[n:])
	return append(b, '\n')
}

// lineLength is the length of the signature line with its newline.
func (s Signature) lineLength() int {
	return len(sigPrefix) + len(s.Name) + 1 + base64.StdEncoding.EncodedLen(keyIDSize+len(s.Sig)) + 1
}

// AppendNote appends the signed note: the text of c, an empty line and the signature
// lines in the order given.
func AppendNote(b []byte, c Checkpoint, sigs []Signature) []byte {
	length := c.textLength() + 1
	for _, s := range sigs {
		length += s.lineLength()
	}
	b = c.AppendText(slices.Grow(b, length))
	b = append(b, '\n')
	for _, s := range sigs {
		b = s.Append(b)
	}
	return b
}

// ParseNote reads a signed checkpoint of at most MaxNoteSize bytes without verifying
// anything. AppendNote writes the same bytes again from what it returns. When a line
// follows the root hash the error is ErrExtension, and the checkpoint and the signatures
// are returned with it.
func ParseNote(note []byte) (Checkpoint, []Signature, error) {
	text, sigs, err := splitNote(note)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := ParseText(text)
	if err != nil && !errors.Is(err, ErrExtension) {
		return Checkpoint{}, nil, err
	}
	return c, sigs, err
}

// splitNote reads a note up to the content of its text.
func splitNote(note []byte) (text []byte, sigs []Signature, err error) {
	if len(note) > MaxNoteSize {
		return nil, nil, fmt.Errorf("checkpoint: note of %d bytes is larger than %d", len(note), MaxNoteSize)
	}
	if err := checkCharacters(note); err != nil {
		return nil, nil, err
	}
	i := lastEmptyLine(note)
	if i < 0 {
		return nil, nil, errors.New("checkpoint: no empty line before the signatures")
	}
	sigs, err = parseSignatures(note[i+2:])
	if err != nil {
		return nil, nil, err
	}
	return note[:i+1], sigs, nil
}

// lastEmptyLine is bytes.LastIndex of two newlines. It looks from the front, where the only one
// is, because bytes.Index has the processor's help.
func lastEmptyLine(note []byte) int {
	last := -1
	for next := 0; ; next = last + 1 {
		i := bytes.Index(note[next:], []byte("\n\n"))
		if i < 0 {
			return last
		}
		last = next + i
	}
}

// checkCharacters holds the rule of signed-note for a whole note.
func checkCharacters(note []byte) error {
	if !utf8.Valid(note) {
		return errors.New("checkpoint: note is not UTF-8")
	}
	for _, c := range note {
		if c < 0x20 && c != '\n' {
			return errors.New("checkpoint: note contains a control character")
		}
	}
	return nil
}

// ParseSignatures reads signature lines alone, as a witness answers with them: 1 to
// MaxSignatures lines, at most MaxNoteSize bytes.
func ParseSignatures(lines []byte) ([]Signature, error) {
	if len(lines) > MaxNoteSize {
		return nil, fmt.Errorf("checkpoint: signatures of %d bytes are larger than %d", len(lines), MaxNoteSize)
	}
	if err := checkCharacters(lines); err != nil {
		return nil, err
	}
	return parseSignatures(lines)
}

func parseSignatures(b []byte) ([]Signature, error) {
	if len(b) == 0 {
		return nil, errors.New("checkpoint: no signature line")
	}
	var sigs []Signature
	for n := 1; len(b) > 0; n++ {
		if n > MaxSignatures {
			return nil, fmt.Errorf("checkpoint: more than %d signature lines", MaxSignatures)
		}
		first, rest, err := line.Cut(b)
		if err != nil {
			return nil, fmt.Errorf("checkpoint: signature line %d: %w", n, err)
		}
		s, err := parseSignature(first)
		if err != nil {
			return nil, fmt.Errorf("checkpoint: signature line %d: %w", n, err)
		}
		sigs = append(sigs, s)
		b = rest
	}
	return sigs, nil
}

// parseSignature reads one line. A name may be longer than ours may, because a note may
// carry signatures of keys that we do not know.
func parseSignature(b []byte) (Signature, error) {
	b, ok := bytes.CutPrefix(b, []byte(sigPrefix))
	if !ok {
		return Signature{}, errors.New("does not begin with an em dash and a space")
	}
	name, b64, ok := bytes.Cut(b, []byte(" "))
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, unicode.IsSpace) || bytes.Contains(name, []byte("+")) {
		return Signature{}, errors.New("key name is malformed")
	}
	raw, err := line.ParseBase64(b64)
	if err != nil {
		return Signature{}, err
	}
	if len(raw) <= keyIDSize {
		return Signature{}, errors.New("signature is empty")
	}
	return Signature{Name: string(name), KeyID: binary.BigEndian.Uint32(raw), Sig: raw[keyIDSize:]}, nil
}
