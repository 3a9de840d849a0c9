package pebblestore

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keytrail/keytrail/storage"
)

// format is the content of the version row. A store with another one is not opened.
const format = "keytrail store 1"

// The first byte of a key says what the row is. Numbers are big-endian, so that rows of
// a kind are in the order of the log.
const (
	// kindCell: name -> content.
	kindCell = 'C'
	// kindErased: index of an entry -> nothing; its payload was erased.
	kindErased = 'E'
	// kindHead: -> the head; see appendHead.
	kindHead = 'H'
	// kindLeaves: number of a bundle -> its leaves; see appendLeaf.
	kindLeaves = 'L'
	// kindNode: level, index -> hash of a complete subtree of level 1 and above.
	kindNode = 'N'
	// kindPayload: index of an entry -> payload.
	kindPayload = 'P'
	// kindVersion: -> format.
	kindVersion = 'V'
)

// indexKeySize is the length of a key made of a kind and a number.
const indexKeySize = 1 + 8

// nodeKeySize is the length of a node's key.
const nodeKeySize = 1 + 1 + 8

func putIndexKey(key []byte, kind byte, n uint64) {
	key[0] = kind
	binary.BigEndian.PutUint64(key[1:], n)
}

func indexKey(kind byte, n uint64) []byte {
	key := make([]byte, indexKeySize)
	putIndexKey(key, kind, n)
	return key
}

func parseIndexKey(key []byte) (uint64, error) {
	if len(key) != indexKeySize {
		return 0, fmt.Errorf("%w: the key %x has %d bytes, want %d", storage.ErrCorrupt, key, len(key), indexKeySize)
	}
	return binary.BigEndian.Uint64(key[1:]), nil
}

func putNodeKey(key []byte, level uint8, n uint64) {
	key[0], key[1] = kindNode, level
	binary.BigEndian.PutUint64(key[2:], n)
}

func nodeKey(level uint8, n uint64) []byte {
	key := make([]byte, nodeKeySize)
	putNodeKey(key, level, n)
	return key
}

func cellKey(name string) []byte {
	return append([]byte{kindCell}, name...)
}

// headSize is the length of a head row: revision, size, root, seconds and nanoseconds of
// the time.
const headSize = 8 + 8 + storage.HashSize + 8 + 4

// appendHead appends the head row: the number of writes so far, and the head.
func appendHead(b []byte, revision uint64, h storage.Head) []byte {
	b = binary.BigEndian.AppendUint64(b, revision)
	b = binary.BigEndian.AppendUint64(b, h.Size)
	b = append(b, h.Root[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time.Unix()))
	return binary.BigEndian.AppendUint32(b, uint32(h.Time.Nanosecond()))
}

func parseHead(b []byte) (revision uint64, h storage.Head, err error) {
	if len(b) != headSize {
		return 0, h, fmt.Errorf("%w: the head row has %d bytes, want %d", storage.ErrCorrupt, len(b), headSize)
	}
	revision = binary.BigEndian.Uint64(b)
	h.Size = binary.BigEndian.Uint64(b[8:])
	copy(h.Root[:], b[16:])
	sec := int64(binary.BigEndian.Uint64(b[48:]))
	nsec := binary.BigEndian.Uint32(b[56:])
	if nsec >= 1e9 {
		return 0, h, fmt.Errorf("%w: the head row has %d nanoseconds", storage.ErrCorrupt, nsec)
	}
	h.Time = time.Unix(sec, int64(nsec)).UTC()
	return revision, h, nil
}

// leafHeader is the size of the length in front of each leaf of a bundle.
const leafHeader = 2

// appendLeaf appends a leaf to a bundle: its length in two bytes, then the leaf, which
// makes a full bundle the entry bundle of tlog-tiles.
func appendLeaf(bundle, leaf []byte) []byte {
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(leaf)))
	return append(bundle, leaf...)
}

// nextLeaf cuts the first leaf off a bundle.
func nextLeaf(bundle []byte) (leaf, rest []byte, err error) {
	if len(bundle) < leafHeader {
		return nil, nil, fmt.Errorf("%w: a bundle of leaves ends too early", storage.ErrCorrupt)
	}
	n := int(binary.BigEndian.Uint16(bundle))
	bundle = bundle[leafHeader:]
	if n == 0 || n > len(bundle) {
		return nil, nil, fmt.Errorf("%w: a leaf of %d bytes in a bundle with %d bytes left", storage.ErrCorrupt, n, len(bundle))
	}
	return bundle[:n], bundle[n:], nil
}

// checkBundle checks that a bundle holds n leaves and nothing else.
func checkBundle(bundle []byte, n int) error {
	for range n {
		var err error
		if _, bundle, err = nextLeaf(bundle); err != nil {
			return err
		}
	}
	if len(bundle) != 0 {
		return fmt.Errorf("%w: %d bytes after the %d leaves of a bundle", storage.ErrCorrupt, len(bundle), n)
	}
	return nil
}
