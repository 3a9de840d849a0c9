package pebblestore

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keytrail/keytrail/storage"
)

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
	start := index * storage.TileWidth
	tile, err := read(level, start, start+uint64(width))
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, index, err)
	}
	return tile, nil
}

// MakesLeafTiles implements storage.LeafTiler.
func (s *Store) MakesLeafTiles() {}

// hashLeaves makes a tile of level 0 from the leaves.
func (s *Store) hashLeaves(_ uint8, start, end uint64) ([]byte, error) {
	tile := make([]byte, 0, (end-start)*storage.HashSize)
	input := make([]byte, 1, 64)
	input[0] = rfc6962.RFC6962LeafHashPrefix
	err := s.items(context.Background(), kindLeaves, start, end, func(_ uint64, leaf []byte) error {
		input = append(input[:1], leaf...)
		hash := sha256.Sum256(input)
		tile = append(tile, hash[:]...)
		return nil
	})
	return tile, err
}

// readNodes reads a tile of level 1 and above.
func (s *Store) readNodes(level uint8, start, end uint64) ([]byte, error) {
	tile := make([]byte, 0, (end-start)*storage.HashSize)
	err := s.items(context.Background(), kindNodes+level, start, end, func(index uint64, node []byte) error {
		if len(node) != storage.HashSize {
			return fmt.Errorf("%w: node %d/%d has %d bytes", storage.ErrCorrupt, level, index, len(node))
		}
		tile = append(tile, node...)
		return nil
	})
	return tile, err
}

// Leaves implements storage.Store.
func (s *Store) Leaves(ctx context.Context, start, end uint64, fn func(index uint64, leaf []byte) error) error {
	return s.entries(ctx, kindLeaves, start, end, fn)
}

// Payloads implements storage.Store.
func (s *Store) Payloads(ctx context.Context, start, end uint64, fn func(index uint64, payload []byte) error) error {
	return s.entries(ctx, kindPayloads, start, end, fn)
}

func (s *Store) entries(ctx context.Context, kind byte, start, end uint64, fn func(index uint64, item []byte) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if err := storage.CheckRange(s.head.Load().Size, start, end); err != nil {
		return err
	}
	if kind == kindPayloads && s.straight != nil && end-start >= minStraight {
		return s.straight.items(ctx, start, end, fn)
	}
	return s.items(ctx, kind, start, end, fn)
}

// items calls fn with the items of a kind from start to end, all of which are committed. An
// item that is erased is nil; only payloads can be.
func (s *Store) items(ctx context.Context, kind byte, start, end uint64, fn func(index uint64, item []byte) error) error {
	c, _ := s.chunks.Get().(*chunk)
	if c == nil {
		c = &chunk{data: []byte{}} // Not nil, which is for the erased.
	}
	defer func() {
		if cap(c.data) <= maxKeptChunk {
			s.chunks.Put(c)
		}
	}()
	for at := start; at < end; {
		if err := s.readChunk(c, kind, at, end); err != nil {
			return fmt.Errorf("reading from entry %d: %w", at, err)
		}
		for i := range c.ends {
			if i%rowItems == 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			item := c.item(i)
			if kind != kindPayloads && len(item) == 0 {
				return fmt.Errorf("%w: entry %d is empty", storage.ErrCorrupt, at)
			}
			if err := fn(at, item); err != nil {
				return err
			}
			at++
		}
	}
	return nil
}

// readChunk reads at least one item from start, and at most to end.
func (s *Store) readChunk(c *chunk, kind byte, start, end uint64) error {
	c.reset()
	// The row of start is the first that does not end before it.
	putKey(c.lower[:], kind, start)
	putKey(c.upper[:], kind, roundUp(end))
	return s.tree.scan(c.lower[:], c.upper[:], func(it *pebble.Iterator) error {
		next := start
		for valid := it.First(); valid; valid = it.Next() {
			first, r, err := rowAt(it)
			if err != nil {
				return err
			}
			if first > next || first < next && next != start {
				return fmt.Errorf("%w: row %x does not hold entry %d", storage.ErrCorrupt, it.Key(), next)
			}
			from, to := next-first, min(end-first, uint64(r.n))
			if err := r.addTo(c, int(from), int(to)); err != nil {
				return err
			}
			if next = first + to; next == end || c.full() {
				return nil
			}
		}
		if err := it.Error(); err != nil {
			return err
		}
		return fmt.Errorf("%w: entry %d is missing", storage.ErrCorrupt, next)
	})
}

// rowAt reads the row under an iterator.
func rowAt(it *pebble.Iterator) (first uint64, r run, err error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return 0, r, err
	}
	return parseRow(it.Key(), value)
}

// parseRow reads a row, whose first item has the number first.
func parseRow(key, value []byte) (first uint64, r run, err error) {
	last, err := parseKey(key)
	if err != nil {
		return 0, r, err
	}
	if r, err = parseRun(value); err != nil {
		return 0, r, fmt.Errorf("reading row %x: %w", key, err)
	}
	if uint64(r.n) > last%rowItems+1 {
		return 0, r, fmt.Errorf("%w: row %x has %d items", storage.ErrCorrupt, key, r.n)
	}
	return last + 1 - uint64(r.n), r, nil
}
