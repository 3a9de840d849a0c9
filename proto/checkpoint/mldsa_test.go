package checkpoint_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"filippo.io/mldsa"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestMLDSALibrariesAgree has keys and signatures of random seeds made by circl, which this
// package uses, verified by filippo.io/mldsa, and the other way round, as they are and with one
// bit changed, cut and extended.
func TestMLDSALibrariesAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		secret := make([]byte, 32)
		for i := range secret {
			secret[i] = byte(rnd.Uint32())
		}
		ours, err := checkpoint.NewSignerKey("log.example", checkpoint.TypeMLDSA44, secret)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), secret)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours.VerifierKey().PublicKey(), theirs.PublicKey().Bytes()) {
			t.Fatalf("seed %x: two public keys", secret)
		}
		c := checkpoint.Checkpoint{Origin: "log.example", Size: rnd.Uint64() | 1, Root: [32]byte(secret)}
		msg := coveredBytes(c, 1767322800)
		sig, err := ours.Sign(c, 1767322800)
		if err != nil {
			t.Fatal(err)
		}
		if err := mldsa.Verify(theirs.PublicKey(), msg, sig.Sig[8:], nil); err != nil {
			t.Fatalf("seed %x: theirs refuses ours: %v", secret, err)
		}
		raw, err := theirs.Sign(nil, msg, nil)
		if err != nil {
			t.Fatal(err)
		}
		for what, changed := range map[string][]byte{
			"as it is": raw, "one bit": flipped(raw, rnd), "cut": raw[:len(raw)-1], "extended": append(bytes.Clone(raw), 0),
		} {
			sig.Sig = append(binary.BigEndian.AppendUint64(nil, 1767322800), changed...)
			_, oursErr := ours.VerifierKey().Verify(c, sig)
			theirErr := mldsa.Verify(theirs.PublicKey(), msg, changed, nil)
			if (oursErr == nil) != (theirErr == nil) || (oursErr == nil) != (what == "as it is") {
				t.Errorf("seed %x, %s: ours says %v, theirs %v", secret, what, oursErr, theirErr)
			}
		}
	}
}

// coveredBytes is the message of tlog-cosignature, written down a second time.
func coveredBytes(c checkpoint.Checkpoint, timestamp uint64) []byte {
	msg := fmt.Appendf(nil, "subtree/v1\n\x00%c%s", len(c.Origin), c.Origin) // the key has the origin's name
	msg = binary.BigEndian.AppendUint64(msg, timestamp)
	msg = fmt.Appendf(msg, "%c%s", len(c.Origin), c.Origin)
	msg = binary.BigEndian.AppendUint64(msg, 0)
	msg = binary.BigEndian.AppendUint64(msg, c.Size)
	return append(msg, c.Root[:]...)
}

func flipped(b []byte, rnd *rand.Rand) []byte {
	b = bytes.Clone(b)
	b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
	return b
}
