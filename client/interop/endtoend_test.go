package interop_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/keytrail/v1/rpc"
)

// TestLogWithForeignWitnesses runs a log of ours that publishes nothing unless our witness
// (with both keys), litewitness and sunlight have all cosigned it.
func TestLogWithForeignWitnesses(t *testing.T) {
	t.Parallel()
	l := newLog(t, "interop.test/witnessed")
	// From its first entry on: see TestSunlightAndTheEmptyTree.
	l.stop(t)
	vkey := l.vkey(t, checkpoint.TypeEd25519).String()
	ours := newWitness(t, "interop.test/ours")
	ours.enroll(t, vkey, l.vkey(t, checkpoint.TypeMLDSA44).String())
	lite := newLitewitness(t, "interop.test/lite")
	lite.enroll(t, l.origin, vkey)
	sun := newSunlight(t, "interop.test/sun", vkey)
	l.setWitnesses(t,
		fmt.Sprintf("witness ours %s %s", ours.vkey[checkpoint.TypeEd25519Cosignature], ours.url),
		fmt.Sprintf("witness ours-pq %s %s", ours.vkey[checkpoint.TypeMLDSA44], ours.url),
		fmt.Sprintf("witness lite %s %s", lite.vkey, lite.url),
		fmt.Sprintf("witness sun %s %s", sun.vkey, sun.url))
	l.serve(t)
	for _, size := range []uint64{1, 2, 257, 1000} {
		l.grow(t, size)
		l.wantWitnessed(t, size-1)
	}
	// Tessera reads what they have cosigned.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := check(ctx, l.origin, l.ed25519(t), tesseraFetcher(t, l.url)); err != nil {
		t.Errorf("Tessera's fsck: %v", err)
	}

	// One that is needed goes away: appends go on, publication waits, and goes on by itself.
	lite.stop(t)
	l.appendOne(t, rpc.Wait_WAIT_DURABLE)
	info := l.info(t)
	if info.GetDurableSize() != 1001 || info.GetPublishedSize() != 1000 {
		t.Errorf("without litewitness %d are durable and %d published, want 1001 and 1000", info.GetDurableSize(), info.GetPublishedSize())
	}
	lite.restart(t)
	eventually(t, "publication goes on", func() error {
		if info := l.info(t); info.GetPublishedSize() != 1001 {
			return fmt.Errorf("%d entries are published: %s", info.GetPublishedSize(), info.GetPublicationProblem())
		}
		return nil
	})
	l.wantWitnessed(t, 1000)

	// A restart asks all of them for what they cosigned last; then it goes on.
	l.stop(t)
	behind := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", l.dir, behind).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l.serve(t)
	l.grow(t, 1299)
	l.wantGood(t, l.appendOne(t, rpc.Wait_WAIT_WITNESSED).GetReceipt())

	// A copy from before, its signer's ledger included, is noticed by what they cosigned.
	l.stop(t)
	p := start(t, "keytraild", "", "--dir", behind, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		t.Fatalf("a log that went back serves:\n%s", p.stderr)
	}
	if code := p.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(p.stderr.String(), "1300") {
		t.Errorf("a log that went back: exit %d\n%s", code, p.stderr)
	}
}

// setWitnesses writes witnesses into the policy of a log; all must cosign.
func (l *logProcess) setWitnesses(t testing.TB, lines ...string) {
	t.Helper()
	text := strings.Replace(l.policyText(t), "quorum none\n", "", 1)
	names := "group all all"
	for _, line := range lines {
		text += line + "\n"
		names += " " + strings.Fields(line)[1]
	}
	write(t, filepath.Join(l.dir, "policy"), []byte(text+names+"\nquorum all\n"))
}

// wantWitnessed verifies the receipt of an entry with the command line of ours, and with
// torchwood under the witnesses that it can read: all that sign with Ed25519.
func (l *logProcess) wantWitnessed(t *testing.T, index uint64) {
	t.Helper()
	l.wantGood(t, l.receipt(t, index))
}

// wantGood is wantWitnessed for a receipt.
func (l *logProcess) wantGood(t *testing.T, r []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "entry.tlog-proof")
	write(t, file, r)
	run(t, "keytrail", "verify", "receipt", file, "--policy", filepath.Join(l.dir, "policy"))
	var kept []string
	for line := range strings.Lines(ed25519Only(t, l.policyText(t))) {
		if !strings.HasPrefix(line, "witness ours-pq ") {
			kept = append(kept, strings.Replace(line, " ours-pq ", " ", 1))
		}
	}
	p, err := torchwood.ParsePolicy([]byte(strings.Join(kept, "")))
	if err != nil {
		t.Fatal(err)
	}
	if err := torchwood.VerifyProof(p, tlog.RecordHash(leafOf(t, r)), r); err != nil {
		t.Errorf("torchwood: %v\n%s", err, r)
	}
}

// appendOne appends one event, and waits as asked.
func (l *logProcess) appendOne(t testing.TB, wait rpc.Wait) *rpc.Ack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	res, err := l.Append(ctx, &rpc.AppendRequest{Event: event(l.size), Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	l.size++
	return res.GetAck()
}

func (l *logProcess) info(t testing.TB) *rpc.GetLogInfoResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	info, err := l.GetLogInfo(ctx, &rpc.GetLogInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}
