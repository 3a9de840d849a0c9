package interop_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/tools/txtar"

	"github.com/keytrail/keytrail/client/verify"
	"github.com/keytrail/keytrail/proto/checkpoint"
)

// witnessProcess is a keytrail-witness of ours.
type witnessProcess struct {
	*process
	dir  string
	url  string
	vkey map[checkpoint.KeyType]string
}

// newWitness makes and serves a witness that has enrolled nobody.
func newWitness(t testing.TB, name string) *witnessProcess {
	t.Helper()
	w := &witnessProcess{dir: filepath.Join(t.TempDir(), "witness"), vkey: make(map[checkpoint.KeyType]string)}
	for line := range strings.Lines(run(t, "keytrail-witness", "init", "--dir", w.dir, "--name", name)) {
		k, err := checkpoint.ParseVerifierKey(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		w.vkey[k.Type()] = k.String()
	}
	w.serve(t, "127.0.0.1:0")
	return w
}

func (w *witnessProcess) serve(t testing.TB, addr string) {
	t.Helper()
	w.process = start(t, "keytrail-witness", "", "--dir", w.dir, "--listen", addr, "--log-level", "error")
	w.url = "http://" + word(t, w.line(t), "http=")
}

func (w *witnessProcess) enroll(t testing.TB, args ...string) {
	t.Helper()
	run(t, "keytrail-witness", append([]string{"enroll", "--dir", w.dir}, args...)...)
}

// tesseraLog is a log of Tessera's in this process, stored in files.
type tesseraLog struct {
	origin, vkey string
	dir          string
	*tessera.Appender
	reader  tessera.LogReader
	awaiter *tessera.PublicationAwaiter
}

// openTessera opens a new log that has its checkpoints cosigned under a policy's
// witnesses. The error is that of Tessera, which publishes the empty tree on opening.
func openTessera(t *testing.T, skey, witnesses string, failOpen bool) (*tesseraLog, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	group, err := tessera.NewWitnessGroupFromPolicy([]byte(witnesses))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tessera")
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	opts := tessera.NewAppendOptions().WithCheckpointSigner(signer).
		WithBatching(500, 20*time.Millisecond).WithCheckpointInterval(100*time.Millisecond).
		WithWitnesses(group, &tessera.WitnessOptions{Timeout: 5 * time.Second, FailOpen: failOpen})
	appender, _, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		return nil, err
	}
	return &tesseraLog{
		origin: signer.Name(), dir: dir, Appender: appender, reader: reader,
		awaiter: tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond),
	}, nil
}

// grow adds entries and waits for a published checkpoint with the last of them.
func (l *tesseraLog) grow(t *testing.T, entries int) (note []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last tessera.IndexFuture
	for i := range entries {
		last = l.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d of %d", i, entries)))
	}
	_, note, err := l.awaiter.Await(ctx, last)
	if err != nil {
		t.Fatalf("Tessera does not publish %d more entries: %v", entries, err)
	}
	return note
}

// TestTesseraAsksOurWitness runs a log of Tessera's whose checkpoints our witness must
// cosign before they are published, with either of the witness's keys.
func TestTesseraAsksOurWitness(t *testing.T) {
	t.Parallel()
	w := newWitness(t, "interop.test/witness")
	for _, typ := range []checkpoint.KeyType{checkpoint.TypeEd25519Cosignature, checkpoint.TypeMLDSA44} {
		t.Run(typ.String(), func(t *testing.T) {
			witness := fmt.Sprintf("witness w %s %s\nquorum w\n", w.vkey[typ], w.url)
			skey, vkey, err := note.GenerateKey(nil, fmt.Sprintf("interop.test/tessera/%d", typ))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := openTessera(t, skey, witness, false); err == nil || !strings.Contains(err.Error(), "404") {
				t.Errorf("before the witness knows the log: %v", err)
			}
			w.enroll(t, vkey)
			l, err := openTessera(t, skey, witness, false)
			if err != nil {
				t.Fatal(err)
			}
			l.vkey = vkey
			for _, entries := range []int{1, 1, 254, 1, 700} {
				wantCosigned(t, w, l, typ, l.grow(t, entries))
			}
			wantReadable(t, l, fmt.Sprintf("log %s\n%s", vkey, witness))
		})
	}
}

// wantReadable has our fsck, mirror and monitor read the log of Tessera's, 957 entries, over
// HTTP.
func wantReadable(t *testing.T, l *tesseraLog, policyText string) {
	t.Helper()
	files := httptest.NewServer(http.FileServer(http.Dir(l.dir)))
	defer files.Close()
	p := filepath.Join(t.TempDir(), "policy")
	write(t, p, []byte(policyText))
	if out := run(t, "keytrail", "fsck", "--url", files.URL, "--policy", p); !strings.Contains(out, "957 of 957") {
		t.Errorf("fsck says:\n%s", out)
	}
	if out := run(t, "keytrail", "mirror", "--url", files.URL, "--policy", p, "--dir", filepath.Join(t.TempDir(), "mirror")); !strings.Contains(out, "957 entries") {
		t.Errorf("mirror says:\n%s", out)
	}
	run(t, "keytrail", "monitor", "--once", "--url", files.URL, "--policy", p, "--dir", filepath.Join(t.TempDir(), "monitor"))
}

// wantCosigned verifies a published checkpoint with ours and formats, and that the witness
// shows the same tree to monitors.
func wantCosigned(t *testing.T, w *witnessProcess, l *tesseraLog, typ checkpoint.KeyType, published []byte) {
	t.Helper()
	p := wantPolicy(t, fmt.Sprintf("log %s\nwitness w %s\nquorum w\n", l.vkey, w.vkey[typ]))
	cp, err := verify.Checkpoint(published, p)
	if err != nil {
		t.Fatalf("%v\n%s", err, published)
	}
	v, err := formats.NewVerifierForCosignatureV1(w.vkey[typ])
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(published, note.VerifierList(v)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("formats finds no cosignature: %v\n%s", err, published)
	}
	h := sha256.Sum256([]byte(l.origin))
	shown, err := get(t.Context(), w.url+"/"+hex.EncodeToString(h[:])+"/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	latest, err := verify.Checkpoint(shown, p)
	if err != nil || latest.Size < cp.Size || (latest.Size == cp.Size && latest.Root != cp.Root) {
		t.Errorf("the witness shows monitors %s, %v; published is\n%s", shown, err, published)
	}
}

// TestTesseraCatchesUp has Tessera go on without the witness, and then ask it about a size
// that it has not cosigned: the witness's 409 must lead to a proof from the right one.
func TestTesseraCatchesUp(t *testing.T) {
	t.Parallel()
	w := newWitness(t, "interop.test/witness")
	const typ = checkpoint.TypeEd25519Cosignature
	skey, vkey, err := note.GenerateKey(nil, "interop.test/tessera/behind")
	if err != nil {
		t.Fatal(err)
	}
	w.enroll(t, vkey)
	// In this mode Tessera publishes without the witness, too; it asks it every time.
	l, err := openTessera(t, skey, fmt.Sprintf("witness w %s %s\nquorum w\n", w.vkey[typ], w.url), true)
	if err != nil {
		t.Fatal(err)
	}
	l.vkey = vkey
	wantCosigned(t, w, l, typ, l.grow(t, 10))
	w.stop(t)
	published := l.grow(t, 300)
	if strings.Contains(string(published), "— interop.test/witness ") {
		t.Fatalf("cosigned by a witness that does not run:\n%s", published)
	}
	w.serve(t, strings.TrimPrefix(w.url, "http://"))
	wantCosigned(t, w, l, typ, l.grow(t, 300))
	metrics, err := get(t.Context(), w.url+"/metrics")
	if err != nil || !strings.Contains(string(metrics), `code="409"`) {
		t.Errorf("the witness has not answered 409: %v", err)
	}
}

// exchange is a request of torchwood's scripts for litewitness, and the answer that it
// must get.
type exchange struct {
	body   string
	status string
	answer string // all of it, where the script says so
}

// scripts reads the exchanges from the source of torchwood, as it is in go.mod.
func scripts(t *testing.T, file, section string) []exchange {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "filippo.io/torchwood").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "cmd/litewitness/testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var exchanges []exchange
	for _, f := range txtar.Parse(b).Files {
		if f.Name != section {
			continue
		}
		for _, request := range strings.Split(string(f.Data), "POST ")[1:] {
			parts := strings.SplitN(request, "```\n", 3)
			status, asserts, _ := strings.Cut(strings.TrimPrefix(parts[2], "HTTP "), "\n")
			e := exchange{body: parts[1], status: status}
			if _, answer, ok := strings.Cut(asserts, `body == "`); ok {
				e.answer = strings.ReplaceAll(answer[:strings.IndexByte(answer, '"')], `\n`, "\n")
			}
			exchanges = append(exchanges, e)
		}
	}
	return exchanges
}

// TestTorchwoodScripts sends our witness what torchwood's tests send litewitness: the same
// status must come back, and the same size with a conflict. One of the logs is the Go
// checksum database, whose checkpoints' first line is not the name of its key.
func TestTorchwoodScripts(t *testing.T) {
	t.Parallel()
	w := newWitness(t, "example.com/witness")
	key, err := hex.DecodeString("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f")
	if err != nil {
		t.Fatal(err)
	}
	sigsum, err := note.NewEd25519VerifierKey(fmt.Sprintf("sigsum.org/v1/tree/%x", sha256.Sum256(key)), ed25519.PublicKey(key))
	if err != nil {
		t.Fatal(err)
	}
	w.enroll(t, sigsum)
	w.enroll(t, "--origin", "go.sum database tree", "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")
	for _, s := range []struct {
		file  string
		want  int
		other map[int]string // where we answer otherwise
	}{
		// The broken signature is not canonical base64: we call the request malformed,
		// before any key is looked for; litewitness decodes it and finds that it is wrong.
		{"litewitness.txt", 9, map[int]string{1: "400"}},
		{"sumdb.txt", 1, nil},
	} {
		exchanges := scripts(t, s.file, "add-checkpoint.hurl")
		if len(exchanges) != s.want {
			t.Fatalf("%s holds %d exchanges, want %d", s.file, len(exchanges), s.want)
		}
		for i, e := range exchanges {
			res, err := http.Post(w.url+"/add-checkpoint", "", strings.NewReader(e.body))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := drain(res.Body)
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if want := s.other[i]; want != "" {
				e.status = want
			}
			if fmt.Sprint(res.StatusCode) != e.status || (e.answer != "" && string(answer) != e.answer) {
				t.Errorf("%s, request %d: %s %q, want %s %q\n%s", s.file, i, res.Status, answer, e.status, e.answer, e.body)
			}
			if e.status == "200" && !strings.Contains(string(answer), "— example.com/witness ") {
				t.Errorf("%s, request %d: no cosignature in %q", s.file, i, answer)
			}
		}
	}
}
