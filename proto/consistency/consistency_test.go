package consistency_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/consistency"
)

// example is the request body that tlog-witness shows, its second signature line left out.
const example = `old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
`

func TestExample(t *testing.T) {
	u, err := consistency.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if u.OldSize != 20852014 || len(u.Hashes) != 4 || u.Hashes[0][0] != 0x3e || u.Hashes[3][31] != 0xfd {
		t.Errorf("%+v", u)
	}
	c, sigs, err := checkpoint.ParseNote(u.Checkpoint)
	if err != nil || c.Size != 20852163 || len(sigs) != 1 {
		t.Errorf("checkpoint: %+v, %d signatures, %v", c, len(sigs), err)
	}
	if diff := cmp.Diff(example, string(u.Append(nil))); diff != "" {
		t.Error(diff)
	}
}

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]*consistency.Bundle{
		"from nothing": {Checkpoint: []byte("x\n")},
		"largest": {
			OldSize: 1<<64 - 1, Hashes: make([][32]byte, consistency.MaxHashes),
			Checkpoint: append(bytes.Repeat([]byte("x"), checkpoint.MaxNoteSize-1), '\n'),
		},
	} {
		got, err := consistency.Parse(want.Append(nil))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
	replace := func(old, new string) string { return strings.Replace(example, old, new, 1) }
	proof, note, _ := strings.Cut(example, "\n\n")
	for name, bad := range map[string]string{
		"nothing":              "",
		"no old size":          replace("old 20852014\n", ""),
		"old alone":            replace("old 20852014", "old"),
		"leading zero":         replace("old 2", "old 02"),
		"upper case":           replace("old", "Old"),
		"two spaces":           replace("old ", "old  "),
		"2^64":                 replace("20852014", "18446744073709551616"),
		"carriage returns":     strings.ReplaceAll(example, "\n", "\r\n"),
		"loose hash":           replace("kaw=", "kax="),
		"short hash":           replace(hash, "AAAA\n"),
		"64 hashes":            replace(hash, strings.Repeat(hash, 61)),
		"no empty line":        proof + "\n" + note,
		"no checkpoint":        proof + "\n\n",
		"proof alone":          proof + "\n",
		"no last newline":      strings.TrimSuffix(example, "\n"),
		"checkpoint too large": proof + "\n\n" + strings.Repeat("x\n", checkpoint.MaxNoteSize/2+1),
		"too large":            example + strings.Repeat("x\n", consistency.MaxSize/2),
	} {
		if u, err := consistency.Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, u)
		} else if !strings.HasPrefix(err.Error(), "consistency: ") {
			t.Errorf("%s: message is %q", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("old 0\n\nx\n"))
	f.Add([]byte("old 00\n\nx\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := consistency.Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(u.Append(nil), data) {
			t.Errorf("%q is read and written as %q", data, u.Append(nil))
		}
	})
}
