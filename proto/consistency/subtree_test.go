package consistency_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytrail/keytrail/proto/consistency"
)

// subtreeExample is the request of tlog-witness's sign-subtree, but for its signature.
const subtreeExample = `subtree 8 13
mbsQCg+dEIMGlpqeGgk94JutQwKKS2Lo5IuDhKmDjiU=
CD82D2LDm0phY0+xKbHyZfq3Hw21lVkuV7Zis5EFg0k=
h/ghL5nyaXTIBAklqDnisM+SFdbA3izoGZ5oRYMZzc0=
8qtnAAU9sTKQx/zt3E4v8Jt2a9IMQUf0QUawvePF9y0=
KuO5BNOmginG34Lm5G3e2GuiWliGo3K0ebzGpvI0fEg=

example.com/behind-the-sofa
14
/CcKVZM9n65aH7jLaIZuUB4/MSlEFQ4+ldwUC21rDHM=

— witness.example/w1 LijDAFSpKvDU
`

func TestSubtreeExample(t *testing.T) {
	u, err := consistency.ParseSubtree([]byte(subtreeExample))
	if err != nil {
		t.Fatal(err)
	}
	if u.Start != 8 || u.End != 13 || u.Hash[0] != 0x99 || len(u.Hashes) != 4 || !strings.HasPrefix(string(u.Checkpoint), "example.com/") {
		t.Errorf("it is read as %+v", u)
	}
	if diff := cmp.Diff(subtreeExample, string(u.Append(nil))); diff != "" {
		t.Error(diff)
	}
}

func TestParseSubtreeRefuses(t *testing.T) {
	edit := func(old, new string) string { return strings.Replace(subtreeExample, old, new, 1) }
	for name, bad := range map[string]string{
		"nothing":          "",
		"old size":         edit("subtree 8 13", "old 8"),
		"one number":       edit("subtree 8 13", "subtree 8"),
		"three numbers":    edit("subtree 8 13", "subtree 8 13 14"),
		"leading zero":     edit("subtree 8 13", "subtree 8 013"),
		"two spaces":       edit("subtree 8 13", "subtree 8  13"),
		"too large":        edit("subtree 8 13", "subtree 8 18446744073709551616"),
		"short hash":       edit("mbsQCg+dEIMGlpqeGgk94JutQwKKS2Lo5IuDhKmDjiU=", "mbsQ"),
		"no hash":          edit("mbsQCg+dEIMGlpqeGgk94JutQwKKS2Lo5IuDhKmDjiU=\n", "\n"),
		"loose base64":     edit("DjiU=", "DjiV="),
		"no checkpoint":    subtreeExample[:strings.Index(subtreeExample, "example.com")],
		"no final newline": strings.TrimSuffix(subtreeExample, "\n"),
		"64 hashes":        edit("\n\n", "\n"+strings.Repeat("KuO5BNOmginG34Lm5G3e2GuiWliGo3K0ebzGpvI0fEg=\n", 60)+"\n"),
	} {
		if u, err := consistency.ParseSubtree([]byte(bad)); err == nil {
			t.Errorf("%s is read as %+v", name, u)
		}
	}
}

func FuzzParseSubtree(f *testing.F) {
	f.Add([]byte(subtreeExample))
	f.Fuzz(func(t *testing.T, data []byte) {
		if u, err := consistency.ParseSubtree(data); err == nil && !bytes.Equal(u.Append(nil), data) {
			t.Error("a bundle is written otherwise than it was read")
		}
	})
}
