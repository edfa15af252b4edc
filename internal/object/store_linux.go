package object

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Config says where files are opened and how many stay open.
type Config struct {
	Root         string // that holds /proc and the host's files; "" is "/"
	MaxOpenFiles int    // 0 is half of the soft RLIMIT_NOFILE, at least 64
}

const minOpenFiles = 64

// A Store opens Files and keeps them open, the most recently used ones up to
// its limit. It is safe for concurrent use.
type Store struct {
	root  string
	limit int

	mu       sync.Mutex
	files    map[fileKey]*mappedFile
	perfMaps map[int32]*File
	vdso     *File
	open     *list.List // of *kept, least recently used first
	closed   bool
}

// fileKey names a mapped file. The path is part of it because equal device and
// inode numbers may be different files, in different containers or in sequence.
type fileKey struct {
	device, inode uint64
	path          string
}

// NewStore returns an empty Store.
func NewStore(c Config) *Store {
	s := &Store{
		root:     c.Root,
		limit:    c.MaxOpenFiles,
		files:    make(map[fileKey]*mappedFile),
		perfMaps: make(map[int32]*File),
		open:     list.New(),
	}
	if s.root == "" {
		s.root = "/"
	}
	if s.limit <= 0 {
		s.limit = minOpenFiles
		var r unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil {
			s.limit = max(minOpenFiles, int(min(r.Cur/2, 1<<20)))
		}
	}
	return s
}

// Close closes all files. Readers that Open returned fail from then on.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for e := s.open.Front(); e != nil; e = s.open.Front() {
		errs = append(errs, s.drop(e.Value.(*kept)))
	}
	return errors.Join(errs...)
}

// drop closes the file of k. Reads in progress end first; see os.File.Close.
func (s *Store) drop(k *kept) error {
	s.open.Remove(k.elem)
	err := k.file.Close()
	k.file, k.elem = nil, nil
	return err
}

// kept is a file that the Store keeps open, and opens again when it was closed
// because others were used more recently. It is a source and its own reader.
type kept struct {
	store  *Store
	name   string
	opener func() (*os.File, error) // called under opening

	opening sync.Mutex // held while opener runs; taken before store.mu

	// Guarded by store.mu:
	file *os.File // nil while closed
	elem *list.Element
}

// get returns the open file. The Store may close it at any time, upon which
// reads fail with os.ErrClosed.
func (k *kept) get() (*os.File, error) {
	if f, err := k.current(); f != nil || err != nil {
		return f, err
	}
	k.opening.Lock()
	defer k.opening.Unlock()
	if f, err := k.current(); f != nil || err != nil {
		return f, err
	}
	f, err := k.opener()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.name, err)
	}

	s := k.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		f.Close()
		return nil, fmt.Errorf("%s: %w", k.name, errStoreClosed)
	}
	for s.open.Len() >= s.limit {
		if err := s.drop(s.open.Front().Value.(*kept)); err != nil {
			f.Close()
			return nil, err
		}
	}
	k.file, k.elem = f, s.open.PushBack(k)
	return f, nil
}

var errStoreClosed = errors.New("store is closed")

func (k *kept) current() (*os.File, error) {
	s := k.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%s: %w", k.name, errStoreClosed)
	}
	if k.file != nil {
		s.open.MoveToBack(k.elem)
	}
	return k.file, nil
}

// maxReopen bounds how often one read tries again because other readers made
// the Store close the file in between.
const maxReopen = 16

func (k *kept) ReadAt(b []byte, off int64) (int, error) {
	for range maxReopen {
		f, err := k.get()
		if err != nil {
			return 0, err
		}
		n, err := f.ReadAt(b, off)
		if !errors.Is(err, os.ErrClosed) {
			return n, err
		}
	}
	return 0, fmt.Errorf("%s: closed %d times while reading: too many files in use", k.name, maxReopen)
}

func (k *kept) open() (io.ReaderAt, int64, error) {
	for range maxReopen {
		f, err := k.get()
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if errors.Is(err, os.ErrClosed) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		return k, info.Size(), nil
	}
	return nil, 0, fmt.Errorf("%s: closed %d times while opening: too many files in use", k.name, maxReopen)
}
