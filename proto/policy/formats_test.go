package policy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/formats/witness"

	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/proto/policy"
)

// differences lists where transparency-dev/formats v0.1.1 and this package disagree on
// whether a file is a policy, and why we stay with our reading.
var differences = []struct {
	name         string
	text         string
	ours, theirs bool
	why          string
}{
	{"threshold 0", "witness a {w1} u\ngroup g 0 a\nquorum g\n", false, true, "k is at least 1; theirs is satisfied by nobody"},
	{"threshold with zeros", "witness a {w1} u\ngroup g 01 a\nquorum g\n", false, true, "one spelling for each number"},
	{"member twice", "witness a {w1} u\ngroup g 2 a a\nquorum g\n", false, true, "a name is a member once; theirs lets one witness count as two"},
	{"key under two names", "witness a {w1} u\nwitness b {w1} u\ngroup g 2 a b\nquorum g\n", false, true, "the same key is the same witness"},
	{"key under two key names", "witness a {w1} u\nwitness b {w1 renamed} u\ngroup g 2 a b\nquorum g\n", false, true, "an Ed25519 cosignature does not cover the cosigner's name"},
	{"witness in two groups", "witness a {w1} u\ngroup g all a\ngroup h all a\nquorum h\n", false, true, "a witness contributes in one way"},
	{"two quorums", "witness a {w1} u\nquorum a\nquorum none\n", false, true, "exactly one quorum line; theirs takes the last"},
	{"quorum before its witness", "quorum a\nwitness a {w1} u\n", false, true, "references point backward"},
	{"plain Ed25519 key", "witness a {w1 plain} u\nquorum a\n", false, true, "type 0x01 signs no time; theirs reads it as 0x04, another key id"},
	{"wrong key id", "witness a w1.example+00000000+{w1 material} u\nquorum a\n", false, true, "the id belongs to the key"},
	{"comment behind", "witness a {w1} u # comment\nquorum a\n", false, true, "a comment is a line of its own"},
	{"no-break space", "witness\u00a0a {w1} u\nquorum a\n", false, true, "space and tab alone separate"},
	{"carriage returns", "witness a {w1} u\r\nquorum a\r\n", false, true, "the octet is not allowed"},
	{"no last newline", "witness a {w1} u\nquorum a", false, true, "the file may be cut off"},
	{"rubbish as log", "log rubbish\nquorum none\n", false, true, "they do not read log lines"},
	{"log as its witness", "log {log}\nwitness w {log as cosigner} u\nquorum w\n", false, true, "a log is no witness of its own word"},
	{"witness without URL", "witness a {w1}\nquorum a\n", true, false, "the URL is optional"},
	{"word as name", "witness any {w1} u\nquorum any\n", true, false, "only none is predefined"},
	{"URL of any form", "witness a {w1} ://%zz\nquorum a\n", true, false, "its meaning is the application's"},
	{"more than 255 members", manyMembers(), true, false, "they read the threshold in 8 bits"},
	{"line of 64 KiB", "# " + strings.Repeat("x", 70000) + "\nquorum none\n", true, false, "they read lines of at most 64 KiB"},
}

func manyMembers() string {
	var b strings.Builder
	var names []string
	for i := range 300 {
		fmt.Fprintf(&b, "witness w%d {many %d} u\n", i, i)
		names = append(names, fmt.Sprintf("w%d", i))
	}
	fmt.Fprintf(&b, "group g 300 %s\nquorum g\n", strings.Join(names, " "))
	return b.String()
}

// expand replaces the words in braces of differences.
func expand(t *testing.T, text string) []byte {
	w1 := vkey(t, "w1.example", checkpoint.TypeEd25519Cosignature, 11).String()
	text = strings.ReplaceAll(text, "{w1 material}", strings.SplitN(w1, "+", 3)[2])
	for i := range 300 {
		word := fmt.Sprintf("{many %d}", i)
		if !strings.Contains(text, word) {
			break
		}
		k, err := checkpoint.NewSignerKey("w.example", checkpoint.TypeEd25519Cosignature, append(bytes.Repeat([]byte{7}, 30), byte(i>>8), byte(i)))
		if err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(text, word, k.VerifierKey().String(), 1)
	}
	return []byte(keys(t).Replace(text))
}

func TestDifferencesFromFormats(t *testing.T) {
	for _, d := range differences {
		text := expand(t, d.text)
		_, ours := policy.Parse(text)
		_, theirs := witness.ParsePolicy(text)
		if (ours == nil) != d.ours || (theirs == nil) != d.theirs {
			t.Errorf("%s (%s): ours %v, theirs %v; want accepted %v and %v", d.name, d.why, ours, theirs, d.ours, d.theirs)
		}
	}
}

// allowed are the rules that they do not hold and that random policies break.
var allowed = []string{"threshold", "second time", "same public key", "second quorum", "already defined", "not defined on an earlier line"}

// TestSameAsFormats builds random policies. Where both readers accept one they must agree
// on every set of witnesses; where only they do, the reason must be one of allowed.
func TestSameAsFormats(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const witnesses = 4
	var signers []*checkpoint.SignerKey
	for n := range byte(witnesses) {
		k, err := checkpoint.NewSignerKey(fmt.Sprintf("w%d.example", n+1), checkpoint.TypeEd25519Cosignature, bytes.Repeat([]byte{11 + n}, 32))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, k)
	}
	c := checkpoint.Checkpoint{Origin: "log.example", Size: 1, Root: [32]byte{1}}
	var notes [1 << witnesses][]byte
	for set := range notes {
		var by []*checkpoint.SignerKey
		for i, k := range signers {
			if set&(1<<i) != 0 {
				by = append(by, k)
			}
		}
		if by != nil {
			var err error
			if notes[set], err = checkpoint.SignNote(c, time.Unix(1, 0), by...); err != nil {
				t.Fatal(err)
			}
		}
	}
	both, onlyTheirs := 0, 0
	vkeys := keys(t)
	for range 1500 {
		text := randomPolicy(rnd, witnesses, vkeys)
		ours, err := policy.Parse([]byte(text))
		theirs, theirErr := witness.ParsePolicy([]byte(text))
		if err != nil {
			if theirErr == nil {
				onlyTheirs++
				if !containsAny(err.Error(), allowed) {
					t.Fatalf("we alone refuse %q: %v", text, err)
				}
			}
			continue
		}
		if theirErr != nil {
			t.Fatalf("they alone refuse %q: %v", text, theirErr)
		}
		both++
		for set := range notes {
			cosigned := map[string]bool{}
			for _, w := range ours.Witnesses {
				for i, k := range signers {
					cosigned[w.Name] = cosigned[w.Name] || (set&(1<<i) != 0 && k.VerifierKey().Equal(w.Key))
				}
			}
			if got, want := ours.Satisfied(cosigned), theirs.Satisfied(notes[set]); got != want {
				t.Fatalf("%v: ours %v, theirs %v under %q", cosigned, got, want, text)
			}
		}
	}
	if both < 100 || onlyTheirs < 100 {
		t.Errorf("both accepted %d, they alone %d: the policies are not random enough", both, onlyTheirs)
	}
}

// randomPolicy returns a policy that mostly keeps the rules.
func randomPolicy(rnd *rand.Rand, witnesses int, vkeys *strings.Replacer) string {
	var b strings.Builder
	names := []string{}
	for i := range witnesses {
		key := i + 1
		if rnd.IntN(20) == 0 {
			key = 1 + rnd.IntN(witnesses)
		}
		fmt.Fprintf(&b, "witness n%d {w%d} https://example.com/\n", i, key)
		names = append(names, fmt.Sprintf("n%d", i))
	}
	free := append([]string(nil), names...)
	for g := range rnd.IntN(4) {
		rnd.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
		n := 1 + rnd.IntN(max(1, len(free)))
		if n > len(free) {
			break
		}
		members := append([]string(nil), free[:n]...)
		if rnd.IntN(10) == 0 {
			members = append(members, names[rnd.IntN(len(names))])
		} else {
			free = free[n:]
		}
		threshold := []string{"any", "all", fmt.Sprint(rnd.IntN(n + 1))}[rnd.IntN(3)]
		fmt.Fprintf(&b, "group g%d %s %s\n", g, threshold, strings.Join(members, " "))
		names = append(names, fmt.Sprintf("g%d", g))
		free = append(free, fmt.Sprintf("g%d", g))
	}
	for range 1 + rnd.IntN(8)/7 {
		fmt.Fprintf(&b, "quorum %s\n", append(names, policy.None)[rnd.IntN(len(names)+1)])
	}
	return vkeys.Replace(b.String())
}

func containsAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
