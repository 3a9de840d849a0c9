package mirror_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keytrail/keytrail/client/mirror"
	"github.com/keytrail/keytrail/client/payloads"
)

// holds says whether any file of a directory holds some bytes.
func holds(t *testing.T, dir string, want []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, want)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// payload reads one from the log's store.
func (r *realLog) payload(t *testing.T, index uint64) []byte {
	t.Helper()
	var out []byte
	err := r.store.Payloads(t.Context(), index, index+1, func(_ uint64, p []byte) error {
		out = bytes.Clone(p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestErase destroys what the log has erased in every file that has it, also after being cut
// off at each step, and nothing else.
func TestErase(t *testing.T) {
	for _, step := range []string{"", "write private/payloads/000", "rename private/payloads/000", "write private/payloads/001", "write private/payloads/002.p/88", "rename private/payloads/002.p/88"} {
		r, dir := startLog(t), t.TempDir()
		r.grow(t, 600)
		m := r.open(t, dir, r)
		sync(t, m)
		indexes := []uint64{0, 17, 255, 256, 511, 599}
		var secret [][]byte
		for _, i := range indexes {
			secret = append(secret, r.payload(t, i)[:32])
		}
		// What a crash in the middle of an earlier copying leaves.
		for _, name := range []string{"private/payloads/000.new", "private/payloads/002.p/50", "private/payloads/002.p/87.new"} {
			b := append(slices.Clone(secret[0]), secret[5]...)
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.store.ErasePayloads(t.Context(), indexes); err != nil {
			t.Fatal(err)
		}
		erase := func() (uint64, error) {
			var n uint64
			err := payloads.Erased(t.Context(), r, 0, 600, func(indexes []uint64) error {
				gone, err := m.Erase(indexes)
				n += gone
				return err
			})
			return n, err
		}
		m.Cut(func(s string) error {
			if s == step {
				return errCut
			}
			return nil
		})
		if n, err := erase(); step == "" && (err != nil || n != 6) || step != "" && !errors.Is(err, errCut) {
			t.Fatalf("cut at %q: %d erased, %v", step, n, err)
		}
		m.Cut(nil)
		if _, err := erase(); err != nil {
			t.Fatal(err)
		}
		if n, err := erase(); n != 0 || err != nil {
			t.Errorf("again: %d erased, %v", n, err)
		}
		for i, s := range secret {
			if holds(t, dir, s) {
				t.Errorf("cut at %q: payload %d is still there", step, indexes[i])
			}
		}
		r.checkPayloads(t, dir, 600)
		modes(t, filepath.Join(dir, "private"))
		rep, err := m.Current().Check(t.Context(), 600, nil)
		if err != nil || len(rep.Problems) > 0 || rep.Erased != 6 || rep.Payloads != 600 || rep.Entries != 600 {
			t.Errorf("%+v, %v", rep, err)
		}
	}
}

// TestCheckNamesThePlace flips one bit in each file of a copy in turn.
func TestCheckNamesThePlace(t *testing.T) {
	r, dir := startLog(t), t.TempDir()
	r.grow(t, 600)
	m := r.open(t, dir, r)
	sync(t, m)
	checked := 0
	for path, b := range files(t, dir) {
		if strings.HasPrefix(path, ".") || len(b) == 0 {
			continue
		}
		full := filepath.Join(dir, path)
		for _, at := range []int{0, len(b) / 2, len(b) - 1} {
			flipped := bytes.Clone(b)
			flipped[at] ^= 4
			if err := os.WriteFile(full, flipped, 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := mirror.Open(t.Context(), dir)
			if err != nil || path == "checkpoint" {
				// The right edge and the checkpoint are looked at by opening; signatures by New.
				continue
			}
			rep, err := c.Check(t.Context(), 600, nil)
			if err == nil && len(rep.Problems) == 0 {
				t.Errorf("%s at %d: not found", path, at)
			}
			text := ""
			if err != nil {
				text = err.Error()
			} else if len(rep.Problems) > 0 {
				text = rep.Problems[0].Where
			}
			if !strings.Contains(text, path) && !strings.HasPrefix(text, "entry ") && !strings.HasPrefix(text, "tile ") {
				t.Errorf("%s at %d: the place is %q", path, at, text)
			}
			checked++
		}
		if err := os.WriteFile(full, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if checked < 15 {
		t.Errorf("only %d flips", checked)
	}
	for _, gone := range []string{"private/payloads/001", "tile/0/000"} {
		if err := os.Rename(filepath.Join(dir, gone), filepath.Join(dir, "kept")); err != nil {
			t.Fatal(err)
		}
		rep, err := m.Current().Check(t.Context(), 600, nil)
		if err != nil || len(rep.Problems) != 1 {
			t.Errorf("%s is gone: %+v, %v", gone, rep, err)
		}
		if err := os.Rename(filepath.Join(dir, "kept"), filepath.Join(dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
}
