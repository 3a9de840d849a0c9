package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

// get returns a copy of a row, fs.ErrNotExist when there is none.
func (s *Store) get(key []byte) ([]byte, error) {
	var content []byte
	err := guard(func() error {
		value, closer, err := s.db.Get(key)
		if err != nil {
			return err
		}
		content = append([]byte{}, value...)
		return closer.Close()
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fs.ErrNotExist
	}
	return content, corrupt(err)
}

// Tile implements storage.Store.
func (s *Store) Tile(ctx context.Context, level uint8, index uint64, width int) ([]byte, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	if err := storage.CheckTile(s.head.Load().Size, level, index, width); err != nil {
		return nil, err
	}
	read := s.readNodes
	if level == 0 {
		read = s.hashLeaves
	}
	tile, err := read(level, index, width)
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, index, err)
	}
	return tile, nil
}

// hashLeaves makes a tile of level 0 from the leaves.
func (s *Store) hashLeaves(_ uint8, index uint64, width int) ([]byte, error) {
	bundle, err := s.bundle(index)
	if err != nil {
		return nil, err
	}
	tile := make([]byte, 0, width*storage.HashSize)
	h := rfc6962.DefaultHasher.New()
	for range width {
		var leaf []byte
		if leaf, bundle, err = nextLeaf(bundle); err != nil {
			return nil, err
		}
		h.Reset()
		h.Write([]byte{rfc6962.RFC6962LeafHashPrefix})
		h.Write(leaf)
		tile = h.Sum(tile)
	}
	return tile, nil
}

// readNodes reads a tile of level 1 and above.
func (s *Store) readNodes(level uint8, index uint64, width int) ([]byte, error) {
	start := index * storage.TileWidth
	tile := make([]byte, 0, width*storage.HashSize)
	err := s.scan(nodeKey(level, start), nodeKey(level, start+uint64(width)), func(it *pebble.Iterator) error {
		for valid := it.First(); valid; valid = it.Next() {
			value, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if len(value) != storage.HashSize {
				return fmt.Errorf("%w: node row %x has %d bytes", storage.ErrCorrupt, it.Key(), len(value))
			}
			tile = append(tile, value...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if have := len(tile) / storage.HashSize; have != width {
		return nil, fmt.Errorf("%w: %d of its %d nodes are stored", storage.ErrCorrupt, have, width)
	}
	return tile, nil
}

// bundle reads the leaves of a bundle of the committed tree.
func (s *Store) bundle(n uint64) ([]byte, error) {
	bundle, err := s.get(indexKey(kindLeaves, n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: bundle %d of leaves is missing", storage.ErrCorrupt, n)
	}
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d of leaves: %w", n, err)
	}
	return bundle, nil
}

// scan calls fn with an iterator over the rows from lower (inclusive) to upper
// (exclusive), nil for the end, and returns the iterator's error if fn has none.
func (s *Store) scan(lower, upper []byte, fn func(it *pebble.Iterator) error) error {
	return guard(func() error {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return corrupt(err)
		}
		err = fn(it)
		if closeErr := it.Close(); err == nil {
			err = closeErr
		}
		return corrupt(err)
	})
}

// Leaves implements storage.Store.
func (s *Store) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := storage.CheckRange(s.head.Load().Size, start, end); err != nil {
		return err
	}
	for i := start; i < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		bundle, err := s.bundle(i / storage.TileWidth)
		if err != nil {
			return err
		}
		at := i / storage.TileWidth * storage.TileWidth
		for stop := min(end, at+storage.TileWidth); at < stop; at++ {
			var leaf []byte
			if leaf, bundle, err = nextLeaf(bundle); err != nil {
				return fmt.Errorf("reading leaf %d: %w", at, err)
			}
			if at < i {
				continue
			}
			if err := fn(at, leaf[:len(leaf):len(leaf)]); err != nil {
				return err
			}
		}
		i = at
	}
	return nil
}

// Payloads implements storage.Store.
func (s *Store) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := storage.CheckRange(s.head.Load().Size, start, end); err != nil {
		return err
	}
	c := chunk{data: []byte{}} // Not nil, which is for the erased.
	for at := start; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.readPayloads(&c, at, end); err != nil {
			return fmt.Errorf("reading payloads from %d: %w", at, err)
		}
		for i := range c.ends {
			if err := fn(at, c.payload(i)); err != nil {
				return err
			}
			at++
		}
	}
	return nil
}

// A chunk of payloads is read before any of them is handed out, so that no iterator is
// open while the caller works: an open one keeps tables and memtables alive.
const (
	chunkEntries = 256
	chunkBytes   = 1 << 20
)

// chunk holds consecutive payloads.
type chunk struct {
	data []byte
	// ends are where the payloads end in data; -1-end for an erased one.
	ends []int
}

// payload returns the i-th payload, nil when it was erased.
func (c *chunk) payload(i int) []byte {
	end := c.ends[i]
	if end < 0 {
		return nil
	}
	start := 0
	if i > 0 {
		if start = c.ends[i-1]; start < 0 {
			start = -1 - start
		}
	}
	return c.data[start:end:end]
}

func (c *chunk) add(payload []byte) {
	c.data = append(c.data, payload...)
	c.ends = append(c.ends, len(c.data))
}

func (c *chunk) addErased() { c.ends = append(c.ends, -1-len(c.data)) }

func (c *chunk) full() bool {
	return len(c.ends) >= chunkEntries || len(c.data) >= chunkBytes
}

// readPayloads reads at least one payload from start, and at most to end.
func (s *Store) readPayloads(c *chunk, start, end uint64) error {
	c.data, c.ends = c.data[:0], c.ends[:0]
	end = min(end, start+chunkEntries)
	next := start
	// missing accounts for the entries before index that have no payload.
	missing := func(index uint64) error {
		for ; next < index && !c.full(); next++ {
			if err := s.checkErased(next); err != nil {
				return err
			}
			c.addErased()
		}
		return nil
	}
	return s.scan(indexKey(kindPayload, start), indexKey(kindPayload, end), func(it *pebble.Iterator) error {
		for valid := it.First(); valid && !c.full(); valid = it.Next() {
			index, err := parseIndexKey(it.Key())
			if err != nil {
				return err
			}
			if err := missing(index); err != nil {
				return err
			}
			payload, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if !c.full() {
				c.add(payload)
				next++
			}
		}
		if err := it.Error(); err != nil || c.full() {
			return err
		}
		return missing(end)
	})
}

// checkErased checks that an entry without a payload had it erased.
func (s *Store) checkErased(index uint64) error {
	_, err := s.get(indexKey(kindErased, index))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the payload of entry %d is missing and was not erased", storage.ErrCorrupt, index)
	}
	return err
}
