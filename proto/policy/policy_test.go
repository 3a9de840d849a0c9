package policy_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// vkey returns a key of a name and a kind; the same number is the same key pair.
func vkey(t testing.TB, name string, typ checkpoint.KeyType, n byte) checkpoint.VerifierKey {
	t.Helper()
	k, err := checkpoint.NewSignerKey(name, typ, bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k.VerifierKey()
}

// keys are the vkeys that policies in these tests name by a word in braces.
func keys(t testing.TB) *strings.Replacer {
	var pairs []string
	add := func(word, name string, typ checkpoint.KeyType, n byte) {
		pairs = append(pairs, "{"+word+"}", vkey(t, name, typ, n).String())
	}
	add("log", "log.example", checkpoint.TypeEd25519, 1)
	add("log pq", "log.example", checkpoint.TypeMLDSA44, 2)
	add("log2", "log2.example", checkpoint.TypeEd25519, 3)
	add("log renamed", "log3.example", checkpoint.TypeEd25519, 1)
	add("log as cosigner", "log.example", checkpoint.TypeEd25519Cosignature, 1)
	for n := range byte(9) {
		add(fmt.Sprintf("w%d", n), fmt.Sprintf("w%d.example", n), checkpoint.TypeEd25519Cosignature, 10+n)
	}
	add("w1 renamed", "other.example", checkpoint.TypeEd25519Cosignature, 11)
	add("w1 plain", "w1.example", checkpoint.TypeEd25519, 11)
	add("w1 pq", "w1.example", checkpoint.TypeMLDSA44, 11)
	return strings.NewReplacer(pairs...)
}

func parse(t testing.TB, text string) (*policy.Policy, error) {
	t.Helper()
	return policy.Parse([]byte(keys(t).Replace(text)))
}

// The example of tlog-policy, with spaces, tabs and comments.
const example = `# An example.

log {log} https://log.example/
	# keys of one log
log {log pq}

  witness X1 {w1}	https://witness.example/w1
witness X2 {w2}
witness X3 {w3}
group X-witnesses 2 X1 X2 X3

witness Y1 {w4}
witness  Y2	{w5} ` + `
witness Y3 {w6}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
`

func TestExample(t *testing.T) {
	p, err := parse(t, example)
	if err != nil {
		t.Fatal(err)
	}
	want := &policy.Policy{
		Logs: []policy.Log{
			{Key: vkey(t, "log.example", checkpoint.TypeEd25519, 1), URL: "https://log.example/"},
			{Key: vkey(t, "log.example", checkpoint.TypeMLDSA44, 2)},
		},
		Groups: []policy.Group{
			{Name: "X-witnesses", Threshold: 2, Members: []string{"X1", "X2", "X3"}},
			{Name: "Y-witnesses", Threshold: 1, Members: []string{"Y1", "Y2", "Y3"}},
			{Name: "X-and-Y", Threshold: 2, Members: []string{"X-witnesses", "Y-witnesses"}},
		},
		Quorum: "X-and-Y",
	}
	for i, name := range []string{"X1", "X2", "X3", "Y1", "Y2", "Y3"} {
		n := byte(i + 1)
		want.Witnesses = append(want.Witnesses, policy.Witness{Name: name, Key: vkey(t, fmt.Sprintf("w%d.example", n), checkpoint.TypeEd25519Cosignature, 10+n)})
	}
	want.Witnesses[0].URL = "https://witness.example/w1"
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	if got := p.Origins(); !slices.Equal(got, []string{"log.example"}) {
		t.Errorf("origins %q", got)
	}
	if got := p.LogKeys("log.example"); len(got) != 2 || len(p.LogKeys("other")) != 0 {
		t.Errorf("keys of the log: %v", got)
	}
	const canonical = `log {log} https://log.example/
log {log pq}
witness X1 {w1} https://witness.example/w1
witness X2 {w2}
witness X3 {w3}
witness Y1 {w4}
witness Y2 {w5}
witness Y3 {w6}
group X-witnesses 2 X1 X2 X3
group Y-witnesses any Y1 Y2 Y3
group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
`
	if diff := cmp.Diff(keys(t).Replace(canonical), p.String()); diff != "" {
		t.Error(diff)
	}
}

// TestSatisfied counts every set of the example's six witnesses.
func TestSatisfied(t *testing.T) {
	p, err := parse(t, example)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"X1", "X2", "X3", "Y1", "Y2", "Y3"}
	for set := range 1 << len(names) {
		cosigned := map[string]bool{"stranger": true, "X-witnesses": true, "X-and-Y": true, "none": true}
		x, y := 0, 0
		for i, name := range names {
			cosigned[name] = set&(1<<i) != 0
			if !cosigned[name] {
				continue
			}
			if i < 3 {
				x++
			} else {
				y++
			}
		}
		if got, want := p.Satisfied(cosigned), x >= 2 && y >= 1; got != want {
			t.Errorf("%v: %v, want %v", cosigned, got, want)
		}
	}
	if (&policy.Policy{}).Satisfied(map[string]bool{"": true}) {
		t.Error("a policy without quorum is satisfied")
	}
}

func TestParseAccepts(t *testing.T) {
	for name, text := range map[string]string{
		"quorum alone":             "quorum none\n",
		"no log":                   "witness w {w1}\nquorum w\n",
		"quorum before logs":       "quorum none\nlog {log}\nwitness w {w1}\n",
		"unused witness":           "witness w {w1}\nquorum none\n",
		"words as names":           "witness any {w1}\nwitness all {w2}\nwitness quorum {w3}\nwitness 2 {w4}\ngroup group 2 any all quorum 2\nquorum group\n",
		"hash in a name":           "witness #w {w1}\nquorum #w\n",
		"names of other octets":    "witness K {w1}\nwitness \u212a {w2}\nwitness \xff {w3}\nwitness a\u00a0b {w4}\ngroup g all K \u212a \xff a\u00a0b\nquorum g\n",
		"threshold as a number":    "witness a {w1}\nwitness b {w2}\ngroup g 2 a b\nquorum g\n",
		"two kinds of witness key": "witness a {w1 pq}\nwitness b {w2}\ngroup g any a b\nquorum g\n",
		"log with a time":          "log {log as cosigner}\nquorum none\n",
		"tabs":                     "\tlog\t{log}\t\n \t \nquorum\tnone\t\n",
		"comment of any octets":    "# \x80\xff log\n\t # x\nquorum none\n",
	} {
		p, err := parse(t, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := policy.Parse(p.Append(nil))
		if err != nil {
			t.Errorf("%s: reading it again: %v", name, err)
			continue
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		line int
		rule string
	}{
		{"nothing", "", 0, "no quorum line"},
		{"comment only", "# quorum none\n", 0, "no quorum line"},
		{"no quorum", "log {log}\n", 0, "no quorum line"},
		{"two quorums", "witness w {w1}\nquorum w\nquorum none\n", 3, "second quorum"},
		{"same quorum twice", "quorum none\nquorum none\n", 2, "second quorum"},
		{"no last newline", "log {log}\nquorum none", 2, "does not end in a newline"},
		{"unknown keyword", "Log {log}\nquorum none\n", 1, "unknown keyword"},
		{"comment behind", "quorum none # comment\n", 1, "quorum line is"},
		{"carriage return", "quorum none\r\n", 1, "octet 0x0d"},
		{"delete", "quorum none\x7f\n", 1, "octet 0x7f"},
		{"nul in a comment", "# \x00\nquorum none\n", 1, "octet 0x00"},
		{"vertical tab", "log\v{log}\nquorum none\n", 1, "octet 0x0b"},
		{"no-break space between", "quorum\u00a0none\n", 1, "unknown keyword"},
		{"log without key", "log\nquorum none\n", 1, "log line is"},
		{"log with a name", "log name {log} url\nquorum none\n", 1, "log line is"},
		{"log with rubbish", "log rubbish\nquorum none\n", 1, "verifier key"},
		{"same log twice", "log {log}\nlog {log}\nquorum none\n", 2, "same public key as the log in line 1"},
		{"same log key renamed", "log {log}\n\nlog {log renamed}\nquorum none\n", 3, "same public key as the log in line 1"},
		{"same log key of another kind", "log {log}\nlog {log as cosigner}\nquorum none\n", 2, "same public key as the log in line 1"},
		{"wrong key id", "log log.example+00000000+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\nquorum none\n", 1, "key id is 00000000"},
		{"witness without key", "witness w\nquorum none\n", 1, "witness line is"},
		{"witness with too much", "witness w {w1} url more\nquorum none\n", 1, "witness line is"},
		{"witness that signs no time", "witness w {w1 plain}\nquorum w\n", 1, "0x04 or 0x06"},
		{"same witness name", "witness w {w1}\nwitness w {w2}\nquorum w\n", 2, "already defined in line 1"},
		{"same witness key", "witness a {w1}\nwitness b {w1}\nquorum a\n", 2, "same public key as the witness in line 1"},
		{"same witness key renamed", "witness a {w1}\nwitness b {w1 renamed}\nquorum a\n", 2, "same public key as the witness in line 1"},
		{"log as its witness", "log {log}\nwitness w {log as cosigner}\nquorum w\n", 2, "same public key as the log in line 1"},
		{"witness as log", "witness w {log as cosigner}\nlog {log}\nquorum w\n", 2, "same public key as the witness in line 1"},
		{"witness none", "witness none {w1}\nquorum none\n", 1, "predefined"},
		{"group none", "witness w {w1}\ngroup none all w\nquorum none\n", 2, "predefined"},
		{"group without members", "group g all\nquorum none\n", 1, "group line is"},
		{"threshold 0", "witness a {w1}\ngroup g 0 a\nquorum g\n", 2, "threshold \"0\""},
		{"threshold too high", "witness a {w1}\ngroup g 2 a\nquorum g\n", 2, "threshold \"2\""},
		{"threshold 01", "witness a {w1}\ngroup g 01 a\nquorum g\n", 2, "threshold \"01\""},
		{"threshold -1", "witness a {w1}\ngroup g -1 a\nquorum g\n", 2, "threshold \"-1\""},
		{"threshold 2^64+1", "witness a {w1}\ngroup g 18446744073709551617 a\nquorum g\n", 2, "threshold"},
		{"threshold ALL", "witness a {w1}\ngroup g ALL a\nquorum g\n", 2, "threshold \"ALL\""},
		{"member twice", "witness a {w1}\ngroup g 2 a a\nquorum g\n", 2, "second time"},
		{"member of two groups", "witness a {w1}\ngroup g all a\ngroup h all a\nquorum h\n", 3, "second time"},
		{"group in two groups", "witness a {w1}\nwitness b {w2}\ngroup g all a\ngroup h all g b\ngroup i all g\nquorum h\n", 5, "second time"},
		{"unknown member", "group g all a\nquorum g\n", 1, "not defined on an earlier line"},
		{"later member", "group g all a\nwitness a {w1}\nquorum g\n", 1, "not defined on an earlier line"},
		{"itself a member", "group g all g\nquorum g\n", 1, "not defined on an earlier line"},
		{"none as member", "group g all none\nquorum g\n", 1, "not defined on an earlier line"},
		{"group named as a witness", "witness w {w1}\ngroup w all w\nquorum w\n", 2, "already defined"},
		{"unknown quorum", "quorum w\n", 1, "not defined on an earlier line"},
		{"later quorum", "quorum w\nwitness w {w1}\n", 1, "not defined on an earlier line"},
		{"empty quorum", "quorum\n", 1, "quorum line is"},
		{"quorum of two", "witness a {w1}\nwitness b {w2}\nquorum a b\n", 3, "quorum line is"},
		{"too large", "quorum none\n" + strings.Repeat("#\n", policy.MaxSize/2), 0, "more than"},
	} {
		p, err := parse(t, tt.text)
		e, ok := errors.AsType[*policy.SyntaxError](err)
		if !ok {
			t.Errorf("%s: %+v, %v", tt.name, p, err)
			continue
		}
		if e.Line != tt.line || !strings.Contains(e.Rule, tt.rule) {
			t.Errorf("%s: %v; want line %d: …%s…", tt.name, err, tt.line, tt.rule)
		}
		if tt.line > 0 && !strings.Contains(e.Error(), fmt.Sprintf("line %d: ", tt.line)) {
			t.Errorf("%s: message %q does not name the line", tt.name, e.Error())
		}
	}
}

// TestSameNameAndID has two keys that a signature line could not tell apart: key ids are
// short, and counting up finds a pair quickly.
func TestSameNameAndID(t *testing.T) {
	seen := make(map[uint32]checkpoint.VerifierKey)
	for n := uint64(0); ; n++ {
		k, err := checkpoint.NewVerifierKey("w", checkpoint.TypeEd25519Cosignature, binary.BigEndian.AppendUint64(make([]byte, 24), n))
		if err != nil {
			t.Fatal(err)
		}
		other, ok := seen[k.ID()]
		if !ok {
			seen[k.ID()] = k
			continue
		}
		_, err = policy.Parse(fmt.Appendf(nil, "witness a %v\nwitness b %v\nquorum a\n", other, k))
		if err == nil || !strings.Contains(err.Error(), "line 2: same key name and key id as in line 1") {
			t.Errorf("%v and %v: %v", other, k, err)
		}
		return
	}
}

// TestManyEntries has twice as many of each as every reader must support.
func TestManyEntries(t *testing.T) {
	var text strings.Builder
	for i := range 64 {
		fmt.Fprintf(&text, "log %v\n", vkey(t, fmt.Sprintf("l%d", i), checkpoint.TypeMLDSA44, byte(i)))
		fmt.Fprintf(&text, "witness w%d %v https://example.com/%d\n", i, vkey(t, fmt.Sprintf("w%d", i), checkpoint.TypeMLDSA44, byte(100+i)), i)
		fmt.Fprintf(&text, "group g%d all w%d\n", i, i)
	}
	text.WriteString("quorum g63\n")
	p, err := policy.Parse([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Logs) != 64 || len(p.Witnesses) != 64 || len(p.Groups) != 64 {
		t.Errorf("%d logs, %d witnesses, %d groups", len(p.Logs), len(p.Witnesses), len(p.Groups))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(keys(f).Replace(example)))
	f.Add([]byte("quorum none\n"))
	f.Add([]byte(keys(f).Replace("witness a {w1}\nwitness b {w2}\ngroup g 1 a b\nquorum g\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data)
		if err != nil {
			if _, ok := errors.AsType[*policy.SyntaxError](err); !ok {
				t.Errorf("error is %T", err)
			}
			return
		}
		canonical := p.Append(nil)
		again, err := policy.Parse(canonical)
		if err != nil {
			t.Fatalf("%q is read but written as %q: %v", data, canonical, err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Error(diff)
		}
		if !bytes.Equal(again.Append(nil), canonical) {
			t.Errorf("%q is no fixed point", canonical)
		}
	})
}

// TestCosigned counts only lines that verify, of the policy's witnesses, over the checkpoint.
func TestCosigned(t *testing.T) {
	w1, err := checkpoint.NewSignerKey("w1.example", checkpoint.TypeEd25519Cosignature, bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	w2, err := checkpoint.NewSignerKey("w2.example", checkpoint.TypeMLDSA44, bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(fmt.Appendf(nil, "witness a %s\nwitness b %s\ngroup g 2 a b\nquorum g\n", w1.VerifierKey(), w2.VerifierKey()))
	if err != nil {
		t.Fatal(err)
	}
	c := checkpoint.Checkpoint{Origin: "log.example", Size: 5, Root: [32]byte{1}}
	other := checkpoint.Checkpoint{Origin: "log.example", Size: 6, Root: [32]byte{1}}
	line := func(k *checkpoint.SignerKey, c checkpoint.Checkpoint) checkpoint.Signature {
		s, err := k.Cosign(c, 1)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good1, good2 := line(w1, c), line(w2, c)
	for name, test := range map[string]struct {
		sigs []checkpoint.Signature
		want bool
	}{
		"both":                 {[]checkpoint.Signature{good1, good2}, true},
		"both, a bad one too":  {[]checkpoint.Signature{line(w1, other), good1, good2}, true},
		"none":                 {nil, false},
		"one":                  {[]checkpoint.Signature{good1}, false},
		"one twice":            {[]checkpoint.Signature{good1, good1}, false},
		"one of another tree":  {[]checkpoint.Signature{good1, line(w2, other)}, false},
		"good, then bad, once": {[]checkpoint.Signature{good1, line(w1, other)}, false},
	} {
		if got := p.Cosigned(c, test.sigs); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
