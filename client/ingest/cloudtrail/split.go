package cloudtrail

import (
	"bytes"
	"errors"
	"io"

	"github.com/keytrail/keytrail/client/ingest"
)

// splitter cuts a stream into JSON values by counting brackets, without decoding them, so
// that one broken record does not take the rest with it. It holds at most one record and
// a read buffer, however long a value is.
type splitter struct {
	r   io.Reader
	buf []byte // read and not consumed
	err error  // of r, once it came
	// line at buf[0], from 1.
	line int
}

const (
	readSize = 64 << 10
	// lookBack is how much of a discarded value is kept to recognise a record in it.
	lookBack = 256
)

func newSplitter(r io.Reader) *splitter { return &splitter{r: r, line: 1} }

// at returns the byte i places ahead.
func (s *splitter) at(i int) (byte, bool) {
	for i >= len(s.buf) {
		if s.err != nil {
			return 0, false
		}
		s.fill()
	}
	return s.buf[i], true
}

func (s *splitter) fill() {
	if cap(s.buf)-len(s.buf) < readSize {
		grown := make([]byte, len(s.buf), 2*len(s.buf)+2*readSize)
		copy(grown, s.buf)
		s.buf = grown
	}
	n, err := s.r.Read(s.buf[len(s.buf) : len(s.buf)+readSize])
	s.buf, s.err = s.buf[:len(s.buf)+n], err
}

// broken is the error that ended the stream, unless it just ended.
func (s *splitter) broken() error {
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

func (s *splitter) consume(n int) {
	s.line += bytes.Count(s.buf[:n], []byte{'\n'})
	s.buf = s.buf[n:]
}

// space consumes white space, and commas if told so; it returns the byte that follows.
func (s *splitter) space(commas bool) (byte, bool) {
	for n := 0; ; n++ {
		if n == readSize {
			s.consume(n)
			n = 0
		}
		b, ok := s.at(n)
		if !ok || !isSpace(b) && (b != ',' || !commas) {
			s.consume(n)
			return b, ok
		}
	}
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }

// byteOrderMark consumes one at the beginning.
func (s *splitter) byteOrderMark() {
	s.at(2)
	if bytes.HasPrefix(s.buf, []byte("\xef\xbb\xbf")) {
		s.consume(3)
	}
}

type status int

const (
	// complete is a value with as many closing brackets as opening ones.
	complete status = iota
	// overrun is a value in whose middle another record begins.
	overrun
	// ended is a value in whose middle the stream ends.
	ended
	// list means that the stream now stands at the first element of a list of records.
	list
)

// value is what object and scrap found. raw is valid until the next call.
type value struct {
	status status
	raw    []byte
	// long is set when the value is longer than a record may be; raw is its beginning.
	long bool
	line int
}

// scan follows brackets and strings.
type scan struct {
	depth            int
	inString, escape bool
}

func (c *scan) step(b byte) {
	switch {
	case c.escape:
		c.escape = false
	case c.inString:
		c.escape = b == '\\'
		c.inString = b != '"'
	case b == '"':
		c.inString = true
	case b == '{' || b == '[':
		c.depth++
	case b == '}' || b == ']':
		c.depth--
	}
}

// object consumes the object at which the stream stands. At the top of a file an object
// may turn out to hold the list of records, and one that is not closed ends where a line
// begins with a brace; in a list it ends where what looks like a record begins.
func (s *splitter) object(top bool) value {
	v := value{line: s.line}
	var c scan
	for i := 0; ; i++ {
		if i == ingest.MaxRecordSize && !v.long {
			v.long, v.raw = true, bytes.Clone(s.buf[:i])
		}
		if v.long && i >= ingest.MaxRecordSize {
			s.consume(i - lookBack)
			i = lookBack
		}
		b, ok := s.at(i)
		if !ok {
			return s.done(v, i, ended)
		}
		switch {
		case top && b == '{' && i > 0 && s.buf[i-1] == '\n':
			return s.done(v, i, overrun)
		case top && b == '[' && c.depth == 1 && !c.inString && holdsRecords(s.buf[:i]):
			s.consume(i + 1)
			v.status, v.raw = list, nil
			return v
		case !top && b == '"':
			if at := recordStart(s.buf[:i+1]); at > 0 {
				return s.done(v, at, overrun)
			}
		}
		c.step(b)
		if c.depth == 0 {
			return s.done(v, i+1, complete)
		}
	}
}

func (s *splitter) done(v value, n int, st status) value {
	v.status = st
	if !v.long {
		v.raw = s.buf[:n]
	}
	s.consume(n)
	return v
}

// holdsRecords reports that b ends in the name of a list of records and a colon.
func holdsRecords(b []byte) bool {
	b = bytes.TrimRight(b[max(0, len(b)-lookBack):], " \t\r\n")
	b, ok := bytes.CutSuffix(b, []byte(":"))
	if !ok {
		return false
	}
	b = bytes.TrimRight(b, " \t\r\n")
	for _, name := range []string{`"Records"`, `"Events"`, `"events"`, `"logEvents"`} {
		if bytes.HasSuffix(b, []byte(name)) {
			return true
		}
	}
	return false
}

// recordStart returns where in b a record begins if b ends in the name of a record's
// first field, and otherwise -1. Within a string the quotes of such a name are escaped,
// and after a colon the record belongs to what is around it.
func recordStart(b []byte) int {
	const first = `"eventVersion"`
	if !bytes.HasSuffix(b, []byte(first)) {
		return -1
	}
	b = bytes.TrimRight(b[:len(b)-len(first)], " \t\r\n")
	b, ok := bytes.CutSuffix(b, []byte("{"))
	if !ok || bytes.HasSuffix(bytes.TrimRight(b, " \t\r\n"), []byte(":")) {
		return -1
	}
	return len(b)
}

// scrap consumes what stands where a record should: the rest of a line, or in a list
// what comes before the next comma, bracket or object.
func (s *splitter) scrap(top bool) value {
	v := value{line: s.line}
	var c scan
	for i := 0; ; i++ {
		if i == ingest.MaxRecordSize && !v.long {
			v.long, v.raw = true, bytes.Clone(s.buf[:i])
		}
		if v.long && i >= ingest.MaxRecordSize {
			s.consume(i)
			i = 0
		}
		b, ok := s.at(i)
		if !ok {
			return s.done(v, i, ended)
		}
		if top && b == '\n' {
			return s.done(v, i, complete)
		}
		if !top && i > 0 && c.depth <= 0 && !c.inString && (b == ',' || b == ']' || b == '{') {
			return s.done(v, i, complete)
		}
		c.step(b)
	}
}

// rest consumes what follows the list in the object that holds it. It reports false when
// the stream ends in it.
func (s *splitter) rest() bool {
	c := scan{depth: 1}
	for i := 0; ; i++ {
		if i == readSize {
			s.consume(i)
			i = 0
		}
		b, ok := s.at(i)
		if !ok {
			s.consume(i)
			return false
		}
		c.step(b)
		if c.depth == 0 {
			s.consume(i + 1)
			return true
		}
	}
}
