package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/tiles/tilestest"
	"github.com/keytrail/keytrail/cmd/internal/cli"
)

// TestMonitorRuns runs keytrail monitor without --once: it tells a fork once, serves its
// metrics, and exits with 3 when it is interrupted.
func TestMonitorRuns(t *testing.T) {
	t.Parallel()
	l := tilestest.New(t)
	l.Grow(4)
	fork := l.Fork(4)
	l.Grow(9)
	fork.GrowAs("another", 9)
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy")
	if err := os.WriteFile(policy, []byte(l.Policy().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "theirs")
	if err := os.WriteFile(theirs, l.Note(), 0o600); err != nil {
		t.Fatal(err)
	}

	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := root()
	cmd.SetOut(w)
	cmd.SetErr(t.Output())
	cmd.SetArgs([]string{
		"monitor", "--url", tilestest.Serve(t, l), "--policy", policy, "--dir", filepath.Join(dir, "state"),
		"--interval", "1s", "--metrics", "127.0.0.1:0", "--compare", theirs, "--json",
	})
	exit := make(chan int, 1)
	go func() {
		code := cli.Run(ctx, cmd)
		w.Close()
		exit <- code
	}()
	out := bufio.NewScanner(r)
	line := func() string {
		t.Helper()
		if !out.Scan() {
			t.Fatalf("the output ends: %v", out.Err())
		}
		return out.Text()
	}
	address, ok := strings.CutPrefix(line(), "ready http=")
	if !ok {
		t.Fatalf("it printed %q", address)
	}
	if body := fetch(t, "http://"+address+"/healthz"); body != "ok\n" {
		t.Errorf("/healthz: %q", body)
	}
	// The first round is fine and prints nothing; then the file shows another history.
	if err := os.Rename(rewritten(t, dir, fork.Note()), theirs); err != nil {
		t.Fatal(err)
	}
	var alarm alarmJSON
	if err := json.Unmarshal([]byte(line()), &alarm); err != nil {
		t.Fatal(err)
	}
	if alarm.State != "raised" || alarm.Kind != "split-view" || alarm.Severity != "critical" || alarm.Origin != tilestest.Origin || alarm.Evidence == "" {
		t.Errorf("%+v", alarm)
	}
	if m := fetch(t, "http://"+address+"/metrics"); !strings.Contains(m, `keytrail_monitor_alarms{kind="split-view"} 1`) ||
		!strings.Contains(m, "keytrail_monitor_tree_size 9") {
		t.Errorf("metrics:\n%s", m)
	}
	cancel()
	for out.Scan() {
		t.Errorf("it printed %q too", out.Text())
	}
	if code := <-exit; code != cli.ExitTampered {
		t.Errorf("exit status %d", code)
	}
}

func rewritten(t *testing.T, dir string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, "new")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
