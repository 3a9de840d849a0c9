// Package vectors holds no code: its tests read the golden vectors of the text formats
// in testdata/vectors (tile, checkpoint, policy, receipt, consistency) and check each
// both ways. A vector is a JSON object with strings for texts, hexadecimal digits for
// bytes and decimal digits for 64-bit numbers, so that any language can read it.
package vectors
