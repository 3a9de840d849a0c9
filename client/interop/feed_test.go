package interop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/witness/feed"
)

// signedTree is a log that signs whatever a test wants, with both of a log's keys.
type signedTree struct {
	tree *testonly.Tree
	keys []*checkpoint.SignerKey
	salt string
}

func newTree(t testing.TB, origin, salt string) *signedTree {
	t.Helper()
	return &signedTree{
		tree: testonly.New(rfc6962.DefaultHasher), salt: salt,
		keys: keys(newSigner(t, origin, checkpoint.TypeEd25519), newSigner(t, origin, checkpoint.TypeMLDSA44)),
	}
}

// Consistency is for package feed.
func (l *signedTree) Consistency(_ context.Context, from, to uint64) ([][32]byte, error) {
	if from == 0 || from == to {
		return nil, nil
	}
	proof, err := l.tree.ConsistencyProof(from, to)
	var hashes [][32]byte
	for _, h := range proof {
		hashes = append(hashes, [32]byte(h))
	}
	return hashes, err
}

// at signs the checkpoint of a size.
func (l *signedTree) at(t testing.TB, size uint64) (checkpoint.Checkpoint, []byte) {
	t.Helper()
	for l.tree.Size() < size {
		l.tree.AppendData(fmt.Appendf(nil, "%s %d", l.salt, l.tree.Size()))
	}
	cp := checkpoint.Checkpoint{Origin: l.keys[0].Name(), Size: size, Root: [32]byte(l.tree.HashAt(size))}
	n, err := checkpoint.SignNote(cp, time.Now(), l.keys...)
	if err != nil {
		t.Fatal(err)
	}
	return cp, n
}

func (l *signedTree) policyLines() string {
	var b strings.Builder
	for _, k := range l.keys {
		fmt.Fprintf(&b, "log %s\n", k.VerifierKey())
	}
	return b.String()
}

// newFeed opens our side of asking witnesses.
func newFeed(t testing.TB, l *signedTree, policyText string) *feed.Feed {
	t.Helper()
	return newFeedOver(t, nil, l, policyText)
}

// newFeedOver is newFeed with a transport.
func newFeedOver(t testing.TB, transport http.RoundTripper, l *signedTree, policyText string) *feed.Feed {
	t.Helper()
	f, err := feed.New(feed.Config{
		Origin: l.keys[0].Name(), Policy: wantPolicy(t, policyText), Tree: l,
		Timeout: 10 * time.Second, Transport: transport, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// wantCosignatures has a checkpoint cosigned and verifies it, with ours and torchwood.
func wantCosignatures(t *testing.T, f *feed.Feed, l *signedTree, policyText string, size uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cp, n := l.at(t, size)
	sigs, err := f.Cosign(ctx, cp, n)
	if err != nil {
		t.Fatalf("size %d: %v", size, err)
	}
	_, own, err := checkpoint.ParseNote(n)
	if err != nil {
		t.Fatal(err)
	}
	signed := checkpoint.AppendNote(nil, cp, append(own, sigs...))
	if _, err := verify.Checkpoint(signed, wantPolicy(t, policyText)); err != nil {
		t.Errorf("size %d: ours: %v", size, err)
	}
	if _, _, err := torchwood.VerifyCheckpoint(signed, forTorchwood(t, policyText)); err != nil {
		t.Errorf("size %d: torchwood: %v", size, err)
	}
}

// TestFeedAsksForeignWitnesses has our log's side ask litewitness and sunlight.
func TestFeedAsksForeignWitnesses(t *testing.T) {
	t.Parallel()
	const origin = "interop.test/fed"
	l := newTree(t, origin, "a")
	vkey := l.keys[0].VerifierKey().String()
	lite := newLitewitness(t, "interop.test/litewitness")
	sun := newSunlight(t, "interop.test/sunlight", vkey)
	text := l.policyLines() + fmt.Sprintf("witness lite %s %s\nwitness sun %s %s\ngroup both all lite sun\nquorum both\n", lite.vkey, lite.url, sun.vkey, sun.url)
	// litewitness does not know the log: sunlight alone is not enough.
	cp, n := l.at(t, 1)
	var quorum *feed.QuorumError
	if _, err := newFeed(t, l, text).Cosign(t.Context(), cp, n); !errors.As(err, &quorum) || !strings.Contains(err.Error(), "lite: does not serve this log") {
		t.Fatalf("a witness that does not know the log: %v", err)
	}
	lite.enroll(t, origin, vkey)
	f := newFeed(t, l, text)
	for _, size := range []uint64{1, 2, 255, 256, 257, 1000, 1000} {
		wantCosignatures(t, f, l, text, size)
	}
	// A restarted log knows no sizes: it learns them from the answers to `old 0`.
	f = newFeed(t, l, text)
	cp, n = l.at(t, 1000)
	if err := f.Start(t.Context(), cp, n); err != nil {
		t.Errorf("start at the size that was cosigned: %v", err)
	}
	wantCosignatures(t, f, l, text, 2000)
	wantCosignatures(t, newFeed(t, l, text), l, text, 3000)
	// A log restored from a backup is behind its witnesses.
	cp, n = l.at(t, 700)
	var ahead *feed.AheadError
	if err := newFeed(t, l, text).Start(t.Context(), cp, n); !errors.As(err, &ahead) || ahead.Size != 3000 {
		t.Errorf("start behind the witnesses: %v", err)
	}
	// A second history gets no cosignature.
	fork := newTree(t, origin, "b")
	cp, n = fork.at(t, 4000)
	if sigs, err := newFeed(t, fork, text).Cosign(t.Context(), cp, n); err == nil {
		t.Errorf("a fork was cosigned: %v", sigs)
	}
	wantCosignatures(t, newFeed(t, l, text), l, text, 4000)
}

// TestSunlightAndTheEmptyTree holds a defect of sunlight v0.8.1, mended since: it cosigns
// the empty tree, which tlog-witness allows, and can then cosign no other, because it asks
// for a consistency proof from size 0, which does not exist. A log that works with such a
// witness must not ask about the empty tree. Ours and litewitness go on.
func TestSunlightAndTheEmptyTree(t *testing.T) {
	t.Parallel()
	l := newTree(t, "interop.test/empty", "a")
	vkey := l.keys[0].VerifierKey().String()
	ours, lite := newWitness(t, "interop.test/ours"), newLitewitness(t, "interop.test/lite")
	ours.enroll(t, vkey)
	lite.enroll(t, l.keys[0].Name(), vkey)
	sun := newSunlight(t, "interop.test/sun", vkey)
	for _, w := range []struct {
		name, url, vkey string
		stuck           bool
	}{
		{"ours", ours.url, ours.vkey[checkpoint.TypeEd25519Cosignature], false},
		{"litewitness", lite.url, lite.vkey, false},
		{"sunlight", sun.url, sun.vkey, true},
	} {
		text := l.policyLines() + fmt.Sprintf("witness w %s %s\nquorum w\n", w.vkey, w.url)
		wantCosignatures(t, newFeed(t, l, text), l, text, 0)
		cp, n := l.at(t, 5)
		_, err := newFeed(t, l, text).Cosign(t.Context(), cp, n)
		if stuck := err != nil; stuck != w.stuck {
			t.Errorf("%s after the empty tree: %v", w.name, err)
		}
	}
}
