package interop_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytrail/keytrail/proto/checkpoint"
)

// TestBastion has our witness serve through torchwood's litebastion, and our log's side ask
// it there, also after the bastion was away.
func TestBastion(t *testing.T) {
	t.Parallel()
	w := newWitness(t, "interop.test/behind")
	hash := strings.TrimSpace(run(t, "keytrail-witness", "bastion-key", "--dir", w.dir))
	dir := t.TempDir()
	cert, key := certificate(t)
	write(t, filepath.Join(dir, "cert.pem"), cert)
	write(t, filepath.Join(dir, "key.pem"), key)
	write(t, filepath.Join(dir, "backends"), []byte(hash+"\n"))
	args := func(addr string) []string {
		return []string{"-tls-cert", "cert.pem", "-tls-key", "key.pem", "-backends", "backends", "-listen", addr}
	}
	bastion, addr := startAt(t, litebastion, dir, args)
	w.stop(t)
	w.process = startWith(t, []string{"SSL_CERT_FILE=" + filepath.Join(dir, "cert.pem")}, "keytrail-witness", "",
		"--dir", w.dir, "--listen", "127.0.0.1:0", "--log-level", "error", "--bastion", addr)
	w.line(t)

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	l := newTree(t, "interop.test/far", "a")
	w.enroll(t, l.keys[0].VerifierKey().String(), l.keys[1].VerifierKey().String())
	url := "https://" + addr + "/" + hash
	text := l.policyLines() + fmt.Sprintf("witness ed %s %s\nwitness pq %s %s\ngroup both all ed pq\nquorum both\n",
		w.vkey[checkpoint.TypeEd25519Cosignature], url, w.vkey[checkpoint.TypeMLDSA44], url)
	cosign := func(size uint64) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			cp, n := l.at(t, size)
			sigs, err := newFeedOver(t, transport, l, text).Cosign(ctx, cp, n)
			if err == nil && len(sigs) != 2 {
				err = fmt.Errorf("%d cosignatures, want 2", len(sigs))
			}
			return err
		}
	}
	eventually(t, "the witness is reached through the bastion", cosign(1))
	eventually(t, "and again", cosign(1000))

	// Someone whom the bastion does not know is not the witness.
	other, err := (&http.Client{Transport: transport}).Post("https://"+addr+"/"+strings.Repeat("00", 32)+"/add-checkpoint", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	other.Body.Close()
	if other.StatusCode < 400 {
		t.Errorf("the bastion serves anybody: %s", other.Status)
	}

	bastion.stop(t)
	transport.CloseIdleConnections()
	if err := cosign(1001)(); err == nil {
		t.Errorf("cosigned without a bastion")
	}
	bastion = start(t, litebastion, dir, args(addr)...)
	if !bastion.listens(addr) {
		t.Fatal("the bastion does not come back")
	}
	eventually(t, "the witness comes back by itself", cosign(1001))
}
