package logdir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/log/ledger"
	"github.com/keytrail/keytrail/log/logdir"
	"github.com/keytrail/keytrail/proto/policy"
	"github.com/keytrail/keytrail/storage/pebblestore"
)

const origin = "logdir.test/log"

func create(t *testing.T) *logdir.Dir {
	t.Helper()
	d, err := logdir.Init(filepath.Join(t.TempDir(), "log"), origin)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestInitThenLoad(t *testing.T) {
	t.Parallel()
	made := create(t)
	d, err := logdir.Load(made.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := logdir.Config{
		Origin: origin, Ledger: "signer/ledger", GRPC: "127.0.0.1:7410", HTTP: "127.0.0.1:7411",
		MinInterval: 2 * time.Millisecond, MaxPending: 1 << 16, MaxConnections: 16384,
		Refresh: 10 * time.Minute, Witness: logdir.Witness{Timeout: 5 * time.Second},
	}
	if diff := cmp.Diff(want, d.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(made.Config, d.Config); diff != "" {
		t.Errorf("configuration as made (-made +loaded):\n%s", diff)
	}
	if len(d.Keys()) != 2 {
		t.Fatalf("%d keys", len(d.Keys()))
	}
	p, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range d.Keys() {
		if !k.Equal(made.Keys()[i]) {
			t.Errorf("key %d is not the one that was made", i)
		}
		if !p.LogKeys(origin)[i].Equal(k) {
			t.Errorf("key %d is not in the policy", i)
		}
	}
	s, err := pebblestore.Open(d.Store(), pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	l, err := ledger.Open(d.Ledger(), origin)
	if err != nil {
		t.Fatal(err)
	}
	if l.State() != ledger.EmptyState() {
		t.Errorf("the new ledger holds %v", l.State())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestInitKeepsSecrets(t *testing.T) {
	t.Parallel()
	d := create(t)
	for name, want := range map[string]fs.FileMode{
		"": 0o700, "keys": 0o700, "signer": 0o700, "store": 0o700, "config.yaml": 0o600, "policy": 0o644,
		"keys/ed25519.key": 0o600, "keys/mldsa44.key": 0o600, "signer/ledger": 0o600,
	} {
		info, err := os.Stat(filepath.Join(d.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %04o, want %04o", name, got, want)
		}
	}
	for _, name := range []string{"config.yaml", "policy"} {
		b, err := os.ReadFile(filepath.Join(d.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"keys/ed25519.key", "keys/mldsa44.key"} {
			secret, err := os.ReadFile(filepath.Join(d.Path, key))
			if err != nil {
				t.Fatal(err)
			}
			// PRIVATE+KEY+name+id+secret; a secret in base64 may hold further plus signs.
			fields := strings.SplitN(strings.TrimSpace(string(secret)), "+", 5)
			if len(fields) != 5 || len(fields[4]) < 40 || strings.Contains(string(b), fields[4]) {
				t.Errorf("%s holds the secret of %s", name, key)
			}
		}
	}
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	d := create(t)
	before := read(t, d, "keys/ed25519.key")
	if _, err := logdir.Init(d.Path, origin); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a log: %v", err)
	}
	if read(t, d, "keys/ed25519.key") != before {
		t.Error("the key has changed")
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, ".hidden"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := logdir.Init(full, origin); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	for _, bad := range []string{"", "two words", "a+b", "line\nbreak"} {
		dir := filepath.Join(t.TempDir(), "log")
		if _, err := logdir.Init(dir, bad); err == nil {
			t.Errorf("origin %q is taken", bad)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("origin %q leaves a directory: %v", bad, err)
		}
	}
}

func read(t *testing.T, d *logdir.Dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Path, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, d *logdir.Dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.Path, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	other := create(t)
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, d *logdir.Dir)
		want  string
		is    error
	}{
		{"no directory", func(t *testing.T, d *logdir.Dir) { d.Path = filepath.Join(d.Path, "nowhere") }, "configuration", fs.ErrNotExist},
		{"broken-off init", func(t *testing.T, d *logdir.Dir) { remove(t, d, "config.yaml") }, "configuration", fs.ErrNotExist},
		{"no key", func(t *testing.T, d *logdir.Dir) { remove(t, d, "keys/mldsa44.key") }, "no ML-DSA-44 key", nil},
		{"key that the group reads", func(t *testing.T, d *logdir.Dir) {
			if err := os.Chmod(filepath.Join(d.Path, "keys/mldsa44.key"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "mode is 0640", fs.ErrPermission},
		{"key that is none", func(t *testing.T, d *logdir.Dir) { write(t, d, "keys/ed25519.key", "hush\n") }, "ed25519.key", nil},
		{"key of another name", func(t *testing.T, d *logdir.Dir) {
			write(t, d, "config.yaml", "origin: else.test/log\n")
		}, `named "logdir.test/log"`, nil},
		{"policy without a key", func(t *testing.T, d *logdir.Dir) {
			lines := strings.SplitAfter(read(t, d, "policy"), "\n")
			write(t, d, "policy", strings.Join(append(lines[:2], lines[3:]...), ""))
		}, "Ed25519 key", nil},
		{"policy of another log", func(t *testing.T, d *logdir.Dir) { write(t, d, "policy", read(t, other, "policy")) }, "is not in it", nil},
		{"policy that is none", func(t *testing.T, d *logdir.Dir) { write(t, d, "policy", "hello\n") }, "policy", nil},
		{"no policy", func(t *testing.T, d *logdir.Dir) { remove(t, d, "policy") }, "policy", fs.ErrNotExist},
		{"endless configuration", func(t *testing.T, d *logdir.Dir) {
			write(t, d, "config.yaml", strings.Repeat("#\n", 1<<20))
		}, "larger than", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := create(t)
			c.spoil(t, d)
			_, err := logdir.Load(d.Path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is no %v", err, c.is)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
}

func remove(t *testing.T, d *logdir.Dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.Path, name)); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, yaml string
		want       []string // all of them in the error; none means that it is good
	}{
		{"origin alone", "origin: logdir.test/log\n", nil},
		{"comments alone", "# nothing\n", []string{"origin: "}},
		{"empty", "", []string{"origin: "}},
		{"unknown key", "origin: logdir.test/log\ncolour: blue\n", []string{"colour"}},
		{"wrong type", "origin: logdir.test/log\nmax_pending: many\n", []string{"many"}},
		{"two documents", "origin: logdir.test/log\n---\norigin: else\n", []string{"more than one document"}},
		{"not YAML", "origin: [\n", []string{"yaml"}},
		{"everything wrong", `origin: two words
colour: blue
shape: round
ledger: ""
grpc: 192.0.2.1:7410
http: nowhere
tls: {cert: a.pem}
min_interval: 2h
max_pending: 1
refresh: 1ms
witness: {timeout: 1h, grace: -1s}
`, []string{"colour", "shape", "origin: ", "ledger: ", "http: ", "tls: cert and key", "min_interval: ", "max_pending: ", "refresh: ", "witness.timeout: ", "witness.grace: "}},
		{"client CA alone", "origin: logdir.test/log\ntls: {client_ca: a.pem}\n", []string{"tls.client_ca: needs"}},
		{"times and numbers", "origin: logdir.test/log\nmin_interval: 1s\nmax_pending: 1000\n", nil},
		{"witnesses", "origin: logdir.test/log\nwitness: {timeout: 1s, per_day: {w1: 1440}}\n", nil},
		{"any address with TLS", "origin: logdir.test/log\ngrpc: 0.0.0.0:7410\nhttp: :7411\ntls: {cert: a.pem, key: b.pem}\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := create(t)
			write(t, d, "config.yaml", c.yaml)
			_, err := logdir.Load(d.Path)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v does not name %q", err, w)
				}
			}
		})
	}
}

func TestPathsAreSeenFromTheDirectory(t *testing.T) {
	t.Parallel()
	d := create(t)
	write(t, d, "config.yaml", "origin: logdir.test/log\nledger: /elsewhere/ledger\ntls: {cert: tls/cert.pem, key: /etc/key.pem}\n")
	d, err := logdir.Load(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	if d.Ledger() != "/elsewhere/ledger" {
		t.Errorf("ledger: %s", d.Ledger())
	}
	want := logdir.TLS{Cert: filepath.Join(d.Path, "tls/cert.pem"), Key: "/etc/key.pem"}
	if diff := cmp.Diff(want, d.TLS()); diff != "" {
		t.Errorf("TLS files (-want +got):\n%s", diff)
	}
}

func TestCheckAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		addr       string
		plain, tls bool // whether it may be listened on
	}{
		{"127.0.0.1:0", true, true},
		{"127.9.9.9:7410", true, true},
		{"[::1]:7410", true, true},
		{"localhost:7410", true, true},
		{":7410", false, true},
		{"0.0.0.0:7410", false, true},
		{"[::]:7410", false, true},
		{"192.0.2.1:7410", false, true},
		{"log.example.com:7410", false, true},
		{"localhost.example.com:7410", false, true},
		{"127.0.0.1.example.com:7410", false, true},
		{"[::ffff:192.0.2.1]:7410", false, true},
		{"127.0.0.1", false, false},
		{"", false, false},
	} {
		for _, tls := range []bool{false, true} {
			want := c.plain
			if tls {
				want = c.tls
			}
			if err := logdir.CheckAddress(c.addr, tls); (err == nil) != want {
				t.Errorf("%q with TLS %v: %v", c.addr, tls, err)
			}
		}
	}
}
