package pebblestore

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keytrail/keytrail/storage"
)

// format is the content of the version row. A store with another one is not opened.
const format = "keytrail store 2"

// The first byte of a key says what the row is; those of kinds with items go on with the
// number of the row's last item, so that whatever a commit adds comes after what is there, and
// the row that holds an item is the first whose key is not below it. Numbers are big-endian with 64 bits. The kinds below kindLeaves take little room and are
// merged now and then; the others fill tables of their own, which never overlap.
const (
	// kindNodes plus a level of 1 to 7: hashes of complete subtrees of that level.
	kindNodes = '@'
	// kindHead: -> the head; see appendHead. It has no number.
	kindHead = 'H'
	// kindVersion: -> format. It has no number.
	kindVersion = 'V'
	// kindLeaves: leaves.
	kindLeaves = 'l'
	// kindPayloads: payloads.
	kindPayloads = 'p'
)

// The keys of the database of cells.
const (
	// kindCell: name -> content.
	kindCell = 'C'
	// kindRevision: -> number of writes, 64 bits. It has no name.
	kindRevision = 'R'
)

// keySize is the length of the key of a row with items.
const keySize = 1 + 8

// rowItems limits the items of a row: none passes a multiple of rowItems, so that whoever
// looks for an item knows where its row ends at the latest, and a tile's hashes never share a
// row with the next tile's.
const rowItems = storage.TileWidth

// roundUp returns the next multiple of rowItems, n if it is one.
func roundUp(n uint64) uint64 { return (n + rowItems - 1) / rowItems * rowItems }

func putKey(key []byte, kind byte, n uint64) {
	key[0] = kind
	binary.BigEndian.PutUint64(key[1:], n)
}

func newKey(kind byte, n uint64) []byte {
	key := make([]byte, keySize)
	putKey(key, kind, n)
	return key
}

func parseKey(key []byte) (uint64, error) {
	if len(key) != keySize {
		return 0, fmt.Errorf("%w: the key %x has %d bytes, want %d", storage.ErrCorrupt, key, len(key), keySize)
	}
	return binary.BigEndian.Uint64(key[1:]), nil
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
