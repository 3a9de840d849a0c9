package tiles

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// directory is a log's files on this machine.
type directory struct{ path string }

// openDir opens a directory with a log's files. It may be empty still.
func openDir(path string) (*Log, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("opening a log: %s is no directory", path)
	}
	return &Log{from: directory{path}}, nil
}

func (d directory) String() string { return d.path }

func (d directory) get(ctx context.Context, path string, limit int) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := os.Open(filepath.Join(d.path, filepath.FromSlash(path)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

// readAll reads all of r; more than limit bytes are ErrMalformed.
func readAll(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrMalformed, limit)
	}
	return b, nil
}
