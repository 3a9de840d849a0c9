package mirror

import (
	"context"
	"fmt"

	"github.com/keytrail/keytrail/client/tiles"
	"github.com/keytrail/keytrail/proto/checkpoint"
)

// Copy is a mirror's copy of a log at one checkpoint, for reading. It is whole as long as
// the directory is: a mirror that goes on changes nothing that a Copy reads.
type Copy struct {
	dir   string
	files *tiles.Log
	tree  *tiles.Tree
	note  []byte
	cp    checkpoint.Checkpoint
}

// Open opens the copy in a directory as it is now: fs.ErrNotExist when nothing has been
// copied yet, ErrDamaged when its right edge does not give the root of its checkpoint. The
// checkpoint's signatures are not verified: the caller has the policy (client/verify).
func Open(ctx context.Context, dir string) (*Copy, error) {
	files, err := tiles.Open(dir, tiles.Options{})
	if err != nil {
		return nil, err
	}
	note, err := files.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	cp, _, err := checkpoint.ParseNote(note)
	if err != nil {
		return nil, fmt.Errorf("%w: its checkpoint: %w", ErrDamaged, err)
	}
	tree, err := files.Tree(ctx, cp.Size, cp.Root)
	if err != nil {
		return nil, fmt.Errorf("opening the copy in %s: %w", dir, damaged(err))
	}
	return &Copy{dir: dir, files: files, tree: tree, note: note, cp: cp}, nil
}

// Checkpoint returns the signed checkpoint of the copy.
func (c *Copy) Checkpoint() []byte { return c.note }

// Origin returns the log's name.
func (c *Copy) Origin() string { return c.cp.Origin }

// Size returns how many entries the copy has.
func (c *Copy) Size() uint64 { return c.cp.Size }

// Root returns the root hash of its tree.
func (c *Copy) Root() tiles.Hash { return c.cp.Root }

// RootAt returns the root of the tree of the first size entries, at most Size.
func (c *Copy) RootAt(ctx context.Context, size uint64) (tiles.Hash, error) {
	root, err := c.tree.Root(ctx, size)
	return root, damaged(err)
}

// Leaves calls fn with the leaves from start up to end, at most Size, in order. Each has
// been verified against Root; it is good during the call. A leaf that is not what was
// copied is ErrDamaged.
func (c *Copy) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	var inner error
	err := c.tree.Leaves(ctx, start, end, func(i uint64, leaf []byte) error {
		inner = fn(i, leaf)
		return inner
	})
	if inner != nil {
		return inner
	}
	return damaged(err)
}

// Dir returns the directory.
func (c *Copy) Dir() string { return c.dir }
