package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"runtime"
	"testing"
	"time"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"golang.org/x/sys/cpu"
)

// BenchmarkHashAfterVerify is SHA-256 of an inner node after an ML-DSA-44 verification by
// circl alone, and by this package: the second must not be slower than a hash by itself.
func BenchmarkHashAfterVerify(b *testing.B) {
	seed := bytes.Repeat([]byte{1}, mldsa44.SeedSize)
	private, encoded := newMLDSA(seed)
	public, err := parseMLDSA(encoded)
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, 150)
	sig, err := signMLDSA(private, msg, nil)
	if err != nil {
		b.Fatal(err)
	}
	for name, verify := range map[string]func() bool{
		"nothing": func() bool { return true },
		"circl":   func() bool { return mldsa44.Verify(public, msg, nil, sig) },
		"ours":    func() bool { return verifyMLDSA(public, msg, nil, sig) },
	} {
		b.Run(name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			defer leaveAVX()
			if !cpu.X86.HasAVX2 {
				b.Skip("without AVX2 circl has nothing to leave behind")
			}
			var node [65]byte
			var took time.Duration
			for b.Loop() {
				if !verify() {
					b.Fatal("does not verify")
				}
				begin := time.Now()
				for range 100 {
					sum := sha256.Sum256(node[:])
					node[0] ^= sum[0]
				}
				took += time.Since(begin)
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N)/100, "ns/hash")
		})
	}
}
