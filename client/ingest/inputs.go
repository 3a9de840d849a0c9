package ingest

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Stdin is the input name that stands for standard input.
const Stdin = "-"

// Input is one file to read, or standard input.
type Input struct {
	// Name as it will stand in items and rejects: the path, or Stdin.
	Name string
	// Size in bytes as stored, compressed or not; -1 when it is not known.
	Size int64
}

// SkippedFile is a file in a directory that will not be read.
type SkippedFile struct {
	Name   string `json:"file"`
	Reason string `json:"reason"`
}

// logName matches what audit logs are called, rotated and compressed or not.
var logName = regexp.MustCompile(`(?i)\.(json|ndjson|jsonl|log)([._-][0-9][0-9TZ:._-]*)?(\.gz)?$`)

// Inputs lists what paths name, in the order of paths, so that a missing file shows
// before anything is sent. A path is a file, a directory, or Stdin.
//
// A file that is named is always read. Of a directory, at any depth and in lexical order,
// the regular files are read whose name ends in .json, .ndjson, .jsonl or .log, each
// perhaps followed by a rotation number or date and by .gz; symbolic links are not
// followed. skip, which may be nil, gives the reason to pass over a file, or "". What is
// passed over comes back as skipped.
func Inputs(paths []string, skip func(path string) string) (list []Input, skipped []SkippedFile, err error) {
	for _, p := range paths {
		if p == Stdin {
			list = append(list, Input{Name: Stdin, Size: -1})
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			return nil, nil, fmt.Errorf("finding input: %w", err)
		}
		if !info.IsDir() {
			list = append(list, Input{Name: p, Size: fileSize(info)})
			continue
		}
		list, skipped, err = walk(p, skip, list, skipped)
		if err != nil {
			return nil, nil, err
		}
	}
	return list, skipped, nil
}

func fileSize(info fs.FileInfo) int64 {
	if info.Mode().IsRegular() {
		return info.Size()
	}
	return -1
}

func walk(root string, skip func(string) string, list []Input, skipped []SkippedFile) ([]Input, []SkippedFile, error) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		reason := ""
		switch {
		case !d.Type().IsRegular():
			reason = "not a regular file"
		case strings.HasPrefix(d.Name(), ".") || !logName.MatchString(d.Name()):
			reason = "not named like a log (.json, .ndjson, .jsonl, .log, with or without .gz)"
		case skip != nil:
			reason = skip(path)
		}
		if reason != "" {
			skipped = append(skipped, SkippedFile{Name: path, Reason: reason})
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		list = append(list, Input{Name: path, Size: info.Size()})
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("walking %s: %w", root, err)
	}
	return list, skipped, nil
}

// TotalSize adds up the sizes of list in bytes; -1 when one is not known.
func TotalSize(list []Input) int64 {
	var total int64
	for _, in := range list {
		if in.Size < 0 {
			return -1
		}
		total += in.Size
	}
	return total
}

// Open opens the input and decompresses it if it begins like gzip. progress, which may be
// nil, is called with the number of bytes of each read, as stored. Nothing is read ahead
// but a buffer: a compressed file may expand to any size.
func (in Input) Open(stdin io.Reader, progress func(n int)) (io.ReadCloser, error) {
	var f io.ReadCloser
	switch {
	case in.Name == Stdin && stdin == nil:
		return nil, errors.New("opening input: there is no standard input")
	case in.Name == Stdin:
		f = io.NopCloser(stdin)
	default:
		file, err := os.Open(in.Name)
		if err != nil {
			return nil, fmt.Errorf("opening input: %w", err)
		}
		f = file
	}
	var r io.Reader = f
	if progress != nil {
		r = &countingReader{r: f, progress: progress}
	}
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", in.Name, err), f.Close())
	}
	if len(magic) < 2 || magic[0] != 0x1f || magic[1] != 0x8b {
		return input{b, f}, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("decompressing %s: %w", in.Name, err), f.Close())
	}
	return input{z, f}, nil
}

type input struct {
	io.Reader
	io.Closer
}

type countingReader struct {
	r        io.Reader
	progress func(n int)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.progress(n)
	}
	return n, err
}
