package memstore_test

import (
	"testing"

	"github.com/keytrail/keytrail/storage"
	"github.com/keytrail/keytrail/storage/memstore"
	"github.com/keytrail/keytrail/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Test(t, func(t testing.TB) (storage.Store, func() storage.Store) {
		s := memstore.New()
		t.Cleanup(func() { _ = s.Close() })
		return s, func() storage.Store {
			s = s.Reopen()
			return s
		}
	})
}

// A store that fails never is a store like any other.
func TestConformanceOfFaults(t *testing.T) {
	storagetest.Test(t, func(testing.TB) (storage.Store, func() storage.Store) {
		s := storagetest.NewFaults(memstore.New())
		return s, func() storage.Store {
			s = s.Reopen()
			return s
		}
	})
}
