package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// RejectFile keeps rejected records as NDJSON: file, line, reason, and raw (or raw_base64
// when the record is not UTF-8). The file is made when the first reject comes, readable
// by its owner only, because a record may hold what belongs in no other file. An existing
// file is never touched: the name then gets a number. Not for concurrent use.
type RejectFile struct {
	name string
	path string
	f    *os.File
	n    int
}

// NewRejectFile returns a reject file that will be called name, or name with a number.
func NewRejectFile(name string) *RejectFile { return &RejectFile{name: name} }

// maxRejectFiles bounds the search for a free name.
const maxRejectFiles = 10000

// Write adds one reject.
func (r *RejectFile) Write(rej Reject) error {
	if r.f == nil {
		if err := r.create(); err != nil {
			return err
		}
	}
	line := struct {
		File      string `json:"file"`
		Line      int    `json:"line"`
		Reason    string `json:"reason"`
		Raw       string `json:"raw,omitempty"`
		RawBase64 []byte `json:"raw_base64,omitempty"`
	}{File: rej.File, Line: rej.Line, Reason: rej.Reason}
	if utf8.Valid(rej.Raw) {
		line.Raw = string(rej.Raw)
	} else {
		line.RawBase64 = rej.Raw
	}
	b, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encoding reject of %s line %d: %w", rej.File, rej.Line, err)
	}
	if _, err := r.f.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("writing rejects: %w", err)
	}
	r.n++
	return nil
}

func (r *RejectFile) create() error {
	ext := filepath.Ext(r.name)
	for i := 1; i <= maxRejectFiles; i++ {
		path := r.name
		if i > 1 {
			path = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(r.name, ext), i, ext)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("creating reject file: %w", err)
		}
		r.f, r.path = f, path
		return nil
	}
	return fmt.Errorf("creating reject file: %s and %d numbered names exist", r.name, maxRejectFiles-1)
}

// Path is where the rejects are, or "" while there are none.
func (r *RejectFile) Path() string { return r.path }

// Close makes the file durable and closes it.
func (r *RejectFile) Close() error {
	if r.f == nil {
		return nil
	}
	err := errors.Join(r.f.Sync(), r.f.Close())
	r.f = nil
	if err != nil {
		return fmt.Errorf("closing reject file %s: %w", r.path, err)
	}
	return nil
}
