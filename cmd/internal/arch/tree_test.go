package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
)

// module is the path that all our packages begin with.
const module = "github.com/keytrail/keytrail"

// root is the repository's root, seen from here. It is read through os.DirFS, so that
// the test cache notices every edit.
const root = "../../.."

// pkg is one directory of Go files.
type pkg struct {
	// dir is relative to the root, with slashes.
	dir   string
	files []file
}

type file struct {
	// path is relative to the root, with slashes.
	path string
	test bool
	ast  *ast.File
}

// imports returns the paths that the file imports.
func (f file) imports() []string {
	var paths []string
	for _, s := range f.ast.Imports {
		p, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			panic(err) // The parser has read it already.
		}
		paths = append(paths, p)
	}
	return paths
}

// generated says whether a program wrote the file.
func (f file) generated() bool { return ast.IsGenerated(f.ast) }

// load parses every Go file of the module. A directory with a go.mod of its own is
// another module: nothing here can import it, and what it imports is not in our go.mod.
func load(t *testing.T) []pkg {
	t.Helper()
	fsys := os.DirFS(root)
	byDir := make(map[string]int)
	var pkgs []pkg
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && (ignored(d.Name()) || hasModule(fsys, name)) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" || ignored(d.Name()) {
			return nil
		}
		src, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		i, ok := byDir[dir]
		if !ok {
			i = len(pkgs)
			byDir[dir] = i
			pkgs = append(pkgs, pkg{dir: dir})
		}
		pkgs[i].files = append(pkgs[i].files, file{path: name, test: strings.HasSuffix(name, "_test.go"), ast: parsed})
		return nil
	})
	if err != nil {
		t.Fatalf("reading the module: %v", err)
	}
	if len(pkgs) < 3 {
		t.Fatalf("found only %d packages under %s", len(pkgs), root)
	}
	return pkgs
}

// ignored says whether the go command ignores a name, as it does in patterns like ./... .
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata"
}

// hasModule says whether a module has its root in a directory.
func hasModule(fsys fs.FS, dir string) bool {
	_, err := fs.Stat(fsys, path.Join(dir, "go.mod"))
	return err == nil
}

// under says whether dir is prefix or lies below it.
func under(dir, prefix string) bool {
	return dir == prefix || strings.HasPrefix(dir, prefix+"/")
}
