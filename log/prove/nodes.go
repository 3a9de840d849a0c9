package prove

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/keytrail/keytrail/storage"
)

// Nodes keeps hashes of a tree in two files, so that a proof of an old entry reads 1,280 bytes
// of them instead of a block of leaves: the hash of each leaf and the node over each complete
// group of 32, 33 bytes an entry. The number of a hash is its place.
//
// The files are derived and trusted for nothing. What a Prover reads there it checks against
// the store's nodes of level 1; what is missing, older than the store, or damaged, it makes of
// the leaves again and writes anew. Nothing is synced, and no failure reaches a caller: it is
// logged, and proofs become slower. The files can be deleted while nobody has them open. The
// methods may be called concurrently; a nil *Nodes keeps nothing.
type Nodes struct {
	leaves, groups *nodeFile
}

// nodeFile holds the hashes of one height.
type nodeFile struct {
	file   *os.File
	logger *slog.Logger

	write   sync.Mutex
	buf     []byte
	failing bool // the last write failed
}

// OpenNodes opens the files in dir, and makes what is missing of them and of dir. Logger may be
// nil.
func OpenNodes(dir string, logger *slog.Logger) (*Nodes, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	n, err := openNodes(dir, logger)
	if err != nil {
		return nil, fmt.Errorf("opening the nodes in %s: %w", dir, err)
	}
	return n, nil
}

func openNodes(dir string, logger *slog.Logger) (*Nodes, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	open := func(name string) (*nodeFile, error) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		return &nodeFile{file: f, logger: logger}, err
	}
	leaves, err := open("leaves")
	if err != nil {
		return nil, err
	}
	groups, err := open("groups")
	if err != nil {
		return nil, errors.Join(err, leaves.file.Close())
	}
	return &Nodes{leaves: leaves, groups: groups}, nil
}

// Close closes the files. Nobody may use n any more.
func (n *Nodes) Close() error {
	if n == nil {
		return nil
	}
	return errors.Join(n.leaves.file.Close(), n.groups.file.Close())
}

// GroupHeight is the height of the nodes over groups.
const GroupHeight = groupHeight

// Keep writes the hashes of leaves from number first, and the nodes over the groups that these
// leaves complete, of which there may be none.
func (n *Nodes) Keep(first uint64, leaves, groups []Hash) {
	if n == nil {
		return
	}
	n.leaves.keep(first, leaves)
	n.groups.keep(first>>GroupHeight, groups)
}

func (f *nodeFile) keep(first uint64, hashes []Hash) {
	if len(hashes) == 0 {
		return
	}
	f.write.Lock()
	defer f.write.Unlock()
	f.buf = f.buf[:0]
	for i := range hashes {
		f.buf = append(f.buf, hashes[i][:]...)
	}
	_, err := f.file.WriteAt(f.buf, int64(first*storage.HashSize))
	if err != nil && !f.failing {
		f.logger.Warn("hashes for proofs could not be written; proofs of these entries are slower until they are",
			slog.String("file", f.file.Name()), slog.String("err", err.Error()))
	}
	f.failing = err != nil
}

// nodeBuffer holds what is read of a file at once.
type nodeBuffer [groupWidth * storage.HashSize]byte

// read fills into, which has at most groupWidth hashes, and says whether they are there. They
// may be any bytes.
func (f *nodeFile) read(first uint64, into []Hash, buf *nodeBuffer) bool {
	b := buf[:len(into)*storage.HashSize]
	if n, _ := f.file.ReadAt(b, int64(first*storage.HashSize)); n < len(b) {
		return false
	}
	for i := range into {
		into[i] = Hash(b[i*storage.HashSize:])
	}
	return true
}
