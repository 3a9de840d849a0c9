package tiles

import (
	"encoding/binary"
	"fmt"
)

// ParseEntries takes a bundle apart into width entries, which are parts of b (tlog-tiles:
// each is its length in 16 bits, big-endian, and its bytes). Anything but exactly width
// entries is ErrMalformed.
func ParseEntries(b []byte, width int) ([][]byte, error) {
	entries := make([][]byte, 0, width)
	for len(entries) < width {
		if len(b) < 2 {
			return nil, fmt.Errorf("%w: the bundle ends after %d of %d entries", ErrMalformed, len(entries), width)
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return nil, fmt.Errorf("%w: the bundle ends within entry %d of %d", ErrMalformed, len(entries), width)
		}
		entries = append(entries, b[2:2+n:2+n])
		b = b[2+n:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes follow the %d entries of the bundle", ErrMalformed, len(b), width)
	}
	return entries, nil
}

// AppendEntry appends an entry of at most MaxEntry bytes to a bundle. It panics when the
// entry is longer: no bundle can hold it.
func AppendEntry(bundle, entry []byte) []byte {
	if len(entry) > MaxEntry {
		panic(fmt.Sprintf("tiles: entry of %d bytes", len(entry)))
	}
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...)
}
