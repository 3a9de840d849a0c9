package checkpoint

import "golang.org/x/sys/cpu"

// zeroUpper executes VZEROUPPER.
func zeroUpper()

// leaveAVX clears the upper halves of the vector registers. circl v1.6.5's AVX2 code returns
// without, and every SSE and SHA instruction of the thread is slow from then on: SHA-256 of
// an inner node took 12.5 µs instead of 0.2 (Intel Xeon). It must follow every call of it.
func leaveAVX() {
	if cpu.X86.HasAVX {
		zeroUpper()
	}
}
