package arch_test

import (
	"go/ast"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ban is a package that a program may not link, with everything below it.
type ban struct {
	path string
	why  string
}

// links lists what packages may not link, however indirectly.
var links = []struct {
	dir  string
	bans []ban
}{
	// Package net itself cannot be banned: crypto/x509, which the note formats use, links it.
	{"client/verify", []ban{
		{"google.golang.org/grpc", "checking a file needs no remote call"},
		{"google.golang.org/genproto", "comes with gRPC's status, which a file does not have"},
		{"net/http", "an offline verifier opens no connection, and can be seen to"},
		{"crypto/tls", "what is verified is signed; how it came does not count"},
		{"os/exec", "a verifier runs nothing"},
		{"plugin", "a verifier runs nothing"},
		{"database/sql", "an auditor holds files, not a store"},
		{"github.com/cockroachdb/pebble", "an auditor holds files, not a store"},
		{"github.com/prometheus/client_golang", "nothing here is measured by a server"},
		{"github.com/spf13/cobra", "the command line is cmd's"},
		{module + "/proto/keytrail/v1/rpc", "brings gRPC"},
		{module + "/log", "the verifier must not share code with what it checks"},
		{module + "/storage", "the verifier must not share code with what it checks"},
		{module + "/witness", "the verifier must not share code with what it checks"},
		{module + "/cmd", "imports point one way"},
	}},
	{"cmd/keytrail-witness", []ban{
		{module + "/log", "a witness operator runs no log"},
	}},
	{"proto/keytrail/v1", []ban{
		{"google.golang.org/grpc", "whoever reads the messages need not link the service; see service.proto"},
		{"net/http", "the formats have no I/O"},
	}},
}

func TestLinks(t *testing.T) {
	load(t) // So that the test cache notices every edit; the go command's reading it does not see.
	for _, l := range links {
		t.Run(l.dir, func(t *testing.T) {
			dir := filepath.Join(root, l.dir)
			cmd := exec.Command("go", "list", "-deps", ".")
			cmd.Dir = dir
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("listing what %s links: %v", l.dir, err)
			}
			deps := strings.Fields(string(out))
			if len(deps) == 0 {
				t.Fatalf("%s links nothing", l.dir)
			}
			for _, d := range deps {
				for _, b := range l.bans {
					if banned(d, b.path) {
						t.Errorf("%s links %s: %s", l.dir, d, b.why)
					}
				}
			}
		})
	}
}

// banned says whether a ban on path covers dep. A ban on a package of the standard
// library is of that package alone: net/netip opens no connection.
func banned(dep, path string) bool {
	if !strings.Contains(path, ".") {
		return dep == path
	}
	return under(dep, path)
}

// selectors returns the names that a file takes from the package called pkg.
func selectors(f file, pkg string) []string {
	var names []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := s.X.(*ast.Ident); ok && id.Name == pkg {
			names = append(names, s.Sel.Name)
		}
		return true
	})
	return names
}
