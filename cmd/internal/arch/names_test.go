package arch_test

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// top are the only visible names at the root. Design notes live beside the code, and
// what is for contributors in .github/.
var top = []string{
	"LICENSE", "Makefile", "README.md", "go.mod", "go.sum",
	"client", "cmd", "log", "proto", "storage", "testdata", "witness",
}

func TestTopLevelNames(t *testing.T) {
	entries, err := fs.ReadDir(os.DirFS(root), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		built := name == "bin" || path.Ext(name) == ".test" || path.Ext(name) == ".prof"
		if strings.HasPrefix(name, ".") || built || slices.Contains(top, name) {
			continue
		}
		t.Errorf("%s: not one of the names at the root: %s", name, strings.Join(top, " "))
	}
}

// vague are names that say nothing about what a package is for, so that anything ends up
// in it.
var vague = []string{
	"base", "common", "core", "helper", "helpers", "impl", "lib", "manager", "misc",
	"shared", "types", "util", "utils",
}

func TestPackageNamesSaySomething(t *testing.T) {
	for _, p := range load(t) {
		for elem := range strings.SplitSeq(p.dir, "/") {
			if slices.Contains(vague, elem) {
				t.Errorf("%s: %q says nothing about what is in it", p.dir, elem)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range load(t) {
		var name, doc string
		handwritten := false
		for _, f := range p.files {
			if f.test {
				continue
			}
			handwritten = handwritten || !f.generated()
			name = f.ast.Name.Name
			if f.ast.Doc == nil || f.generated() {
				continue
			}
			if doc != "" {
				t.Errorf("%s: more than one package comment", p.dir)
			}
			doc = f.ast.Doc.Text()
		}
		switch {
		case name == "" || !handwritten:
			// Tests alone, or generated code, whose comments stand in the .proto files.
		case doc == "":
			t.Errorf("%s: package %s has no doc comment", p.dir, name)
		case name != "main" && !strings.HasPrefix(doc, "Package "+name+" "):
			t.Errorf("%s: the doc comment does not begin with \"Package %s\"", p.dir, name)
		}
	}
}

// nested are the modules below the root's, which the other rules do not see, and why they
// are modules of their own.
var nested = map[string]string{
	"cmd/keytrail/bench": "links what keytrail is measured against, which the product's go.mod must not name",
	"client/interop":     "links other projects' logs and witnesses, which the product's go.mod must not name",
}

func TestNestedModules(t *testing.T) {
	fsys := os.DirFS(root)
	found := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir() || name == ".":
			return nil
		case ignored(d.Name()):
			return fs.SkipDir
		case !hasModule(fsys, name):
			return nil
		}
		if _, ok := nested[name]; !ok {
			t.Errorf("%s: a module of its own, which is not on the list", name)
		}
		found++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != len(nested) {
		t.Errorf("found %d modules below the root, want %d", found, len(nested))
	}
}
