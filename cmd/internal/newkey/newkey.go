// Package newkey is how the commands that take a new private key are told which: made here,
// made in a PKCS#11 token, there already in a token, or in a file.
//
// It is used by one command at a time. It prints nothing; secrets stay in what it returns.
package newkey

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keytrail/keytrail/cmd/internal/cli"
	"github.com/keytrail/keytrail/proto/checkpoint"
	"github.com/keytrail/keytrail/storage/keystore"
)

// Types are the kinds of keys that a command makes, by the words for them.
type Types map[string]checkpoint.KeyType

// Source is what the flags say.
type Source struct {
	types           Types
	kind, uri, file string
	existing        bool
}

// Flags returns a source that the flags --type, --pkcs11 and --existing fill.
func Flags(f *pflag.FlagSet, types Types) *Source {
	s := &Source{types: types}
	f.StringVar(&s.kind, "type", "", "kind of the key: "+s.words())
	f.StringVar(&s.uri, "pkcs11", "", "make the key inside of a token: pkcs11:token=T;object=O?module-path=/M.so&pin-source=file:/F")
	f.BoolVar(&s.existing, "existing", false, "with --pkcs11: the key is there already")
	return s
}

// FileFlag adds --file.
func (s *Source) FileFlag(f *pflag.FlagSet) {
	f.StringVar(&s.file, "file", "", "take the key of this file, made by keytrail keygen")
}

func (s *Source) words() string {
	return strings.Join(slices.Sorted(maps.Keys(s.types)), ", ")
}

// Key makes or reads the key. A new one gets the name.
func (s *Source) Key(name string) (keystore.Key, error) {
	if s.file != "" {
		if s.kind != "" || s.uri != "" || s.existing {
			return keystore.Key{}, cli.Usage("--file says everything of the key: leave out --type, --pkcs11 and --existing")
		}
		k, err := keystore.Read(s.file)
		if errors.Is(err, fs.ErrNotExist) {
			return k, cli.Hint(err, "make one with: keytrail keygen")
		}
		return k, err
	}
	typ, ok := s.types[s.kind]
	switch {
	case s.kind == "":
		return keystore.Key{}, cli.Usage("--type is required: %s", s.words())
	case !ok:
		return keystore.Key{}, cli.Usage("--type: %.40q is none of %s", s.kind, s.words())
	case s.existing && s.uri == "":
		return keystore.Key{}, cli.Usage("--existing goes with --pkcs11")
	case s.uri == "":
		return keystore.Generate(name, typ)
	case s.existing:
		return keystore.InToken(name, typ, s.uri)
	}
	k, err := keystore.GenerateInToken(name, typ, s.uri)
	if errors.Is(err, keystore.ErrKeyExists) {
		return k, cli.Hint(err, "choose another object, or take the key that is there with --existing")
	}
	return k, err
}
