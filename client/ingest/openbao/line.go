package openbao

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/keytrail/keytrail/client/ingest"
)

// maxPrefix is how far into a line its JSON object may begin, in bytes.
const maxPrefix = 1024

// line is one line without its end. data is valid until the next one is read.
type line struct {
	number  int
	data    []byte
	tooLong bool // data is only the beginning, ingest.MaxRecordSize bytes
}

// lineReader splits a file into lines and never holds more than the longest allowed one.
type lineReader struct {
	r      *bufio.Reader
	number int
	buf    []byte
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line, or io.EOF after the last. A last line without an end is a
// line. With any other error the line has only its number.
func (l *lineReader) next() (line, error) {
	l.number++
	l.buf = l.buf[:0]
	out := line{number: l.number}
	for read := false; ; read = true {
		part, err := l.r.ReadSlice('\n')
		room := ingest.MaxRecordSize + 2 - len(l.buf) // the line end does not count
		l.buf = append(l.buf, part[:min(room, len(part))]...)
		out.tooLong = out.tooLong || len(part) > room
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (read || len(part) > 0):
		case err != nil:
			return line{number: l.number}, err
		}
		break
	}
	out.data = l.buf
	if !out.tooLong {
		out.data = bytes.TrimSuffix(bytes.TrimSuffix(out.data, []byte("\n")), []byte("\r"))
	}
	if len(out.data) > ingest.MaxRecordSize {
		out.data, out.tooLong = out.data[:ingest.MaxRecordSize], true
	}
	return out, nil
}

// withoutPrefix returns the JSON object that ends the line, or nil. The prefix is the
// operator's and may itself look like an object, so each place near the beginning where
// one could start is tried.
func withoutPrefix(data []byte) []byte {
	data = bytes.TrimSpace(data)
	begin := []byte(`{"`)
	first := bytes.Index(data, begin)
	switch {
	case first < 0:
		return nil
	case first == 0:
		return data
	}
	for at, tries := first, 0; at < min(len(data), maxPrefix) && tries < 8; tries++ {
		if json.Valid(data[at:]) {
			return data[at:]
		}
		next := bytes.Index(data[at+1:], begin)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	// Not whole JSON from any of them: the parser shall say what is wrong with the first.
	return data[first:]
}
