package index

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Each run ends with a filter of the ids of its rows, so that a lookup reads 64 bytes of
// most runs that do not have what it looks for, instead of some pages. It is a blocked Bloom
// filter as the one in memory, in blocks of a checksum and 480 bits, of which an id sets 6:
// of a hundred new ids a run has to be searched for about one.
const (
	blockSize    = 64
	blockHeader  = 4
	blockBits    = (blockSize - blockHeader) * 8
	bitsOfRow    = 6
	rowsPerBlock = 48
	// fewestBlocks, doubled until they do, is how many blocks there are: a multiple of the
	// blocks of any smaller run, and 46.5 rows a block when rounds were full.
	fewestBlocks = 11
)

// blocksFor returns how many blocks a run of so many rows has.
func blocksFor(rows uint64) uint64 {
	n := uint64(fewestBlocks)
	for n*rowsPerBlock < rows {
		n *= 2
	}
	return n
}

// readFilter has lookups find the filter in memory from now on. It is read back from the
// file, so that a filter that was not written as it should be does not stay unnoticed.
func (r *run) readFilter() error {
	b := make([]byte, r.blocks*blockSize)
	if err := r.readBlocks(0, b); err != nil {
		return err
	}
	r.filter = b
	return nil
}

// readBlocks fills b with blocks from the one at n on.
func (r *run) readBlocks(n uint64, b []byte) error {
	if _, err := r.file.ReadAt(b, int64(r.pages()*pageSize+n*blockSize)); err != nil {
		return fmt.Errorf("reading block %d of the filter of %s: %w", n, r.path, err)
	}
	for ; len(b) > 0; b, n = b[blockSize:], n+1 {
		if err := r.checkBlock(n, b[:blockSize]); err != nil {
			return err
		}
	}
	return nil
}

// checkBlock says whether b is the block at n.
func (r *run) checkBlock(n uint64, b []byte) error {
	if binary.BigEndian.Uint32(b) != pageSum(r.number, n, b[blockHeader:]) {
		return fmt.Errorf("%w: %s, block %d of its filter", errPage, r.path, n)
	}
	return nil
}

// mayHave says false only of ids that the run does not have.
func (r *run) mayHave(id []byte, buf *[pageSize]byte) (bool, error) {
	n, b := blockOf(binary.BigEndian.Uint64(id), r.blocks), buf[:blockSize]
	if r.filter != nil {
		b = r.filter[n*blockSize:][:blockSize]
	} else if err := r.readBlocks(n, b); err != nil {
		return false, err
	}
	return inBlock(b, binary.BigEndian.Uint64(id[8:])), nil
}

// inBlock says false only of ids that were not added to a block.
func inBlock(b []byte, lo uint64) bool {
	bit, step := firstBit(lo)
	for range bitsOfRow {
		if at, mask := place(bit); b[at]&mask == 0 {
			return false
		}
		bit += step
	}
	return true
}

// blockOf returns which of n blocks is that of ids that begin with hi. Blocks are in the
// order of the ids.
func blockOf(hi, n uint64) uint64 {
	at, _ := bits.Mul64(hi, n)
	return at
}

// firstBit returns where in their block ids have their first bit, as a part of 2^32, and how
// far it is to each next one; lo is what follows hi in the id.
func firstBit(lo uint64) (bit, step uint32) { return uint32(lo), uint32(lo >> 32) }

// place returns the byte of a block, and the bit in it, to which a part of 2^32 leads.
func place(bit uint32) (at int, mask byte) {
	n := uint64(bit) * blockBits >> 32
	return blockHeader + int(n>>3), 1 << (n & 7)
}

// enter adds the ids of rows of a width to blocks.
func enter(blocks, rows []byte, width int) {
	n := uint64(len(blocks) / blockSize)
	for ; len(rows) > 0; rows = rows[width:] {
		b := blocks[blockOf(binary.BigEndian.Uint64(rows), n)*blockSize:][:blockSize]
		bit, step := firstBit(binary.BigEndian.Uint64(rows[8:]))
		for range bitsOfRow {
			at, mask := place(bit)
			b[at] |= mask
			bit += step
		}
	}
}

// sealBlocks writes the checksums of the blocks of a run.
func sealBlocks(blocks []byte, number uint64) {
	for n := uint64(0); len(blocks) > 0; blocks, n = blocks[blockSize:], n+1 {
		binary.BigEndian.PutUint32(blocks, pageSum(number, n, blocks[blockHeader:blockSize]))
	}
}
