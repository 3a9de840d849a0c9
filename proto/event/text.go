package event

import (
	"unicode"
	"unicode/utf8"
)

// charset is what a string may hold besides printable characters. All strings are UTF-8
// without control characters (Unicode Cc), line separators (U+2028, U+2029) and marks
// that turn the direction of writing (bidi embeddings, overrides, isolates): they make a
// log line or a table show something else than it holds.
type charset uint8

const (
	// identifier allows no invisible format characters (Unicode Cf) either, so that
	// what looks the same is the same as far as that goes.
	identifier charset = iota
	// line is one line of free text.
	line
	// text is free text that may hold line feeds and tabs.
	text
)

// str checks a string that may be empty, of at most limit bytes.
func (c *checker) str(field, s string, limit int, cs charset) {
	if len(s) > limit {
		c.add(field, "is %d bytes long; the limit is %d", len(s), limit)
		return
	}
	if !printableASCII(s) {
		c.unusual(field, s, cs)
	}
}

// id checks an identifier that may be empty.
func (c *checker) id(field, s string, limit int) { c.str(field, s, limit, identifier) }

// required checks an identifier that may not be empty.
func (c *checker) required(field, s string, limit int) {
	if s == "" {
		c.add(field, "is required")
		return
	}
	c.str(field, s, limit, identifier)
}

// printableASCII is the fast path: nearly every string of nearly every event. It looks at
// eight bytes at a time, the last eight perhaps twice: below 0x20 the subtraction, at 0x7f
// the addition sets the top bit of a byte, and a carry out of a byte comes only with a top
// bit that is set already.
func printableASCII[S string | []byte](s S) bool {
	if len(s) < 8 {
		for i := range len(s) {
			if s[i]-0x20 > 0x7e-0x20 {
				return false
			}
		}
		return true
	}
	var bad uint64
	for i := 0; ; i += 8 {
		i = min(i, len(s)-8)
		w := s[i : i+8]
		x := uint64(w[0]) | uint64(w[1])<<8 | uint64(w[2])<<16 | uint64(w[3])<<24 |
			uint64(w[4])<<32 | uint64(w[5])<<40 | uint64(w[6])<<48 | uint64(w[7])<<56
		bad |= x | (x - 0x2020202020202020) | (x + 0x0101010101010101)
		if i == len(s)-8 {
			return bad&0x8080808080808080 == 0
		}
	}
}

// printable says whether a string is UTF-8 and holds only what its charset allows.
func printable(b []byte, cs charset) bool {
	for len(b) > 0 {
		if c := b[0]; c-0x20 <= 0x7e-0x20 || cs == text && (c == '\n' || c == '\t') {
			b = b[1:]
			continue
		}
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 || forbidden(r, cs) != "" {
			return false
		}
		b = b[size:]
	}
	return true
}

// unusual names the first character that is not allowed, and where it stands.
func (c *checker) unusual(field, s string, cs charset) {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			c.add(field, "is not valid UTF-8 at byte %d", i)
			return
		}
		if what := forbidden(r, cs); what != "" {
			c.add(field, "holds %s %U at byte %d", what, r, i)
			return
		}
		i += size
	}
}

// forbidden says what kind of character a forbidden one is, and "" of an allowed one.
func forbidden(r rune, cs charset) string {
	switch {
	case cs == text && (r == '\n' || r == '\t'):
		return ""
	case unicode.Is(unicode.Cc, r):
		return "the control character"
	case r == 0x2028 || r == 0x2029:
		return "the line separator"
	case unicode.Is(unicode.Bidi_Control, r) && r != 0x200e && r != 0x200f && r != 0x061c:
		return "the direction control"
	case cs == identifier && unicode.Is(unicode.Cf, r):
		return "the invisible character"
	}
	return ""
}
