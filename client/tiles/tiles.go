// Package tiles reads a transparency log from outside: over HTTP (C2SP tlog-tiles), or from
// a directory with the same files. It reads any tlog-tiles log, not only keytrail's.
//
// A Log and a Tree may be used concurrently. Nothing is written. A Log hands out what the
// server says, bounded in size and well formed, and that is all: whoever uses Checkpoint,
// Tile, Entries or Leaves verifies it himself. A Tree belongs to a checkpoint that has been
// verified (client/verify), and everything that it returns follows from that checkpoint's
// root hash; it is trusted never to return a hash, proof or leaf that does not. The server,
// the caches before it and the network are trusted with nothing: they can delay and refuse.
//
// Errors: fs.ErrNotExist is what the log does not have, ErrMalformed an answer that is not
// what was asked for, and *ContradictionError a well-formed one that contradicts the signed
// checkpoint. Only the last one says that something was tampered with.
package tiles

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/tile"
)

// Hash is a node of the tree (SHA-256).
type Hash = [sha256.Size]byte

// MaxEntry is the largest entry in bytes: its length has 16 bits (tlog-tiles).
const MaxEntry = 1<<16 - 1

// DefaultTimeout is how long one request may take, its answer included.
const DefaultTimeout = 30 * time.Second

var (
	// ErrMalformed means that the answer is not what was asked for: too long, too short, or
	// packed in a way that does not unpack. A wrong address gives such answers too.
	ErrMalformed = errors.New("not a tlog-tiles answer")
	// ErrRange means that an index or a size lies outside the tree.
	ErrRange = errors.New("index or size out of range")
)

// ContradictionError is what a log serves against its own signed checkpoint.
type ContradictionError struct {
	// Where names the place: "tile 1/0", "entry 17", "right edge".
	Where string
	// Size is that of the checkpoint, in entries.
	Size uint64
	// Detail says what contradicts what, for people.
	Detail string
}

// Error returns place, size and detail.
func (e *ContradictionError) Error() string {
	return fmt.Sprintf("%s contradicts the signed checkpoint of %d entries: %s", e.Where, e.Size, e.Detail)
}

// Options of a Log.
type Options struct {
	// HTTP makes the requests; nil for a client of its own. Its redirect policy is replaced:
	// redirects are followed within one scheme, host and port only, and at most three.
	HTTP *http.Client
	// UserAgent is sent with each request; empty for "keytrail".
	UserAgent string
	// Timeout is for one request with its answer; 0 for DefaultTimeout.
	Timeout time.Duration
}

// Log is a log as its server, or a directory, shows it.
type Log struct {
	from source
}

// source is where the files of a log are.
type source interface {
	// get returns the bytes at a path below the log's prefix. More than limit bytes are
	// ErrMalformed, and nothing there is fs.ErrNotExist.
	get(ctx context.Context, path string, limit int) ([]byte, error)
	String() string
}

// Open prepares the reading of a log. From is the log's URL prefix (http or https), a
// file URL, or the path of a directory in the layout of tlog-tiles, entries not packed.
// No request is made.
func Open(from string, o Options) (*Log, error) {
	scheme, _, isURL := strings.Cut(from, "://")
	if !isURL {
		return openDir(from)
	}
	u, err := url.Parse(from)
	if err != nil {
		// The error of url.Parse repeats the URL, which may hold a password.
		return nil, errors.New("opening a log: the URL cannot be parsed")
	}
	if u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return nil, fmt.Errorf("opening the log at %s: a prefix has no query and no fragment", u.Redacted())
	}
	switch {
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && u.Path != "":
		return openDir(u.Path)
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return &Log{from: newWeb(u, o)}, nil
	}
	return nil, fmt.Errorf("opening the log at %s: %s is no http, https or file URL", u.Redacted(), scheme)
}

// Files returns a log whose files a function has: get returns the bytes at a path below the
// log's prefix ("checkpoint", "tile/…"), fs.ErrNotExist where there is nothing, and may be
// called concurrently. Name stands for it in messages.
func Files(name string, get func(ctx context.Context, path string) ([]byte, error)) *Log {
	return &Log{from: files{name, get}}
}

type files struct {
	name string
	read func(ctx context.Context, path string) ([]byte, error)
}

func (f files) String() string { return f.name }

func (f files) get(ctx context.Context, path string, limit int) ([]byte, error) {
	b, err := f.read(ctx, path)
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%w: more than %d bytes", ErrMalformed, limit)
	}
	return b, err
}

// String returns where the log is read from, without a password.
func (l *Log) String() string { return l.from.String() }

// Checkpoint returns the latest checkpoint as it is served, at most
// checkpoint.MaxNoteSize bytes. Nothing about it is verified.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	b, err := l.from.get(ctx, "checkpoint", checkpoint.MaxNoteSize)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint of %v: %w", l, err)
	}
	return b, nil
}

// Tile returns the first width hashes of a tile, 32 bytes each, not verified. Width is what
// the tree of a published checkpoint has there (tile.WidthAt): a server need not know other
// partial tiles. A partial tile that has been removed is taken from the full one.
func (l *Log) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	ref := tile.Ref{Level: level, Index: index, Width: width}
	b, have, err := l.partialOrFull(ctx, ref, sha256.Size)
	if err != nil {
		return nil, err
	}
	if len(b) != have*sha256.Size {
		return nil, fmt.Errorf("reading %s: %w: %d bytes instead of %d", ref.Path(), ErrMalformed, len(b), have*sha256.Size)
	}
	return b[: width*sha256.Size : width*sha256.Size], nil
}

// Entries returns the first width entries of a bundle, not verified. For width and partial
// bundles as Tile. An entry has at most MaxEntry bytes.
func (l *Log) Entries(ctx context.Context, index uint64, width int) ([][]byte, error) {
	ref := tile.Ref{Entries: true, Index: index, Width: width}
	b, have, err := l.partialOrFull(ctx, ref, 2+MaxEntry)
	if err != nil {
		return nil, err
	}
	entries, err := ParseEntries(b, have)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", ref.Path(), err)
	}
	return entries[:width], nil
}

// partialOrFull returns a tile or bundle, or the full one in place of a partial one that
// is not there any more (tlog-tiles allows a log to remove it), and the width of what it
// returns. Most is for one hash or entry.
func (l *Log) partialOrFull(ctx context.Context, ref tile.Ref, most int) (b []byte, width int, err error) {
	if ref.Level > tile.MaxLevel || ref.Width < 1 || ref.Width > tile.Width {
		return nil, 0, fmt.Errorf("reading a tile of level %d and width %d: %w", ref.Level, ref.Width, ErrRange)
	}
	b, err = l.from.get(ctx, ref.Path(), ref.Width*most)
	if err == nil {
		return b, ref.Width, nil
	}
	if ref.Width == tile.Width || !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("reading %s: %w", ref.Path(), err)
	}
	full := ref
	full.Width = tile.Width
	b, fullErr := l.from.get(ctx, full.Path(), tile.Width*most)
	switch {
	case errors.Is(fullErr, fs.ErrNotExist):
		return nil, 0, fmt.Errorf("reading %s: %w", ref.Path(), err)
	case fullErr != nil:
		return nil, 0, fmt.Errorf("reading %s: %w", full.Path(), fullErr)
	}
	return b, tile.Width, nil
}
