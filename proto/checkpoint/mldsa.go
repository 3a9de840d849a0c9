package checkpoint

import (
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
)

// ML-DSA-44 (FIPS 204) comes from circl, whose vector code signs in 40 % and verifies in 30 %
// of the time of filippo.io/mldsa: these two are most of what a publication and a
// cosignature cost. The tests hold both libraries against each other.

// newMLDSA returns the key pair of a seed and the encoded public key.
func newMLDSA(seed []byte) (*mldsa44.PrivateKey, []byte) {
	defer leaveAVX()
	public, private := mldsa44.NewKeyFromSeed((*[mldsa44.SeedSize]byte)(seed))
	return private, public.Bytes()
}

// parseMLDSA reads an encoded public key.
func parseMLDSA(public []byte) (*mldsa44.PublicKey, error) {
	defer leaveAVX()
	key := new(mldsa44.PublicKey)
	return key, key.UnmarshalBinary(public)
}

// signMLDSA signs with the hedged variant. The context is empty for checkpoints.
func signMLDSA(key *mldsa44.PrivateKey, msg, context []byte) ([]byte, error) {
	defer leaveAVX()
	sig := make([]byte, mldsa44.SignatureSize)
	return sig, mldsa44.SignTo(key, msg, context, true, sig)
}

// verifyMLDSA checks a signature. That it has exactly the one size of FIPS 204 is held here,
// whatever the library makes of others: a note must not be malleable.
func verifyMLDSA(key *mldsa44.PublicKey, msg, context, sig []byte) bool {
	defer leaveAVX()
	return len(sig) == mldsa44.SignatureSize && mldsa44.Verify(key, msg, context, sig)
}
