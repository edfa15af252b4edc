// Package object opens the files behind mappings, while the process that maps
// them still lives where that is possible, checks that they are the files that
// were mapped, and keeps them open for naming addresses later.
//
// Upstream: sampler's mappings. Downstream: symbolize reads from the Files.
package object

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind is what a File holds.
type Kind uint8

const (
	ELF     Kind = iota // an executable or a shared library, on disk or the vDSO in memory
	PerfMap             // /tmp/perf-PID.map, names of run-time compiled code
)

// A File is one mapped file. It is safe for concurrent use. The zero File is
// one that is gone.
type File struct {
	Kind Kind
	Path string // as the mapping process names it
	PID  int32  // a process that maps it (the owner, for a PerfMap)

	content source // nil for a file that is not to be had

	mu      sync.Mutex
	idKnown bool // the content was read, so that buildID is final
	buildID string
}

// A source has the bytes of a File.
type source interface {
	open() (io.ReaderAt, int64, error)
}

// ErrGone and the other reasons why a file cannot be read; they are shown to
// users as the cause of unnamed frames.
var (
	ErrGone       = errors.New("file is gone")
	ErrReplaced   = errors.New("file was replaced")
	ErrDenied     = errors.New("permission denied")
	ErrNotRegular = errors.New("not a regular file")
	ErrOwner      = errors.New("file belongs to another user")
)

// NewFile is a File whose content the caller has.
func NewFile(kind Kind, path string, content io.ReaderAt, size int64) *File {
	return &File{Kind: kind, Path: path, content: held{content, size}}
}

// held is content that needs no opening.
type held struct {
	io.ReaderAt
	size int64
}

func (h held) open() (io.ReaderAt, int64, error) { return h.ReaderAt, h.size, nil }

// Open returns a reader over the file's content and its size, which for a
// PerfMap is that of now: the owner may still be writing it. Errors are one of
// the reasons above, wrapped, or the system's own. The reader stays valid until
// the Store is closed.
func (f *File) Open() (io.ReaderAt, int64, error) {
	if f.content == nil {
		return nil, 0, fmt.Errorf("%s: %w", f.Path, ErrGone)
	}
	return f.content.open()
}

// BuildID is the GNU build id in lower-case hex, or "".
func (f *File) BuildID() string {
	if f.Kind != ELF {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idKnown {
		return f.buildID
	}
	r, size, err := f.Open()
	if err != nil {
		return "" // another process may still make it readable
	}
	f.idKnown = true
	if h, err := ReadHeaders(r, size); err == nil {
		f.buildID = readBuildID(r, h)
	}
	return f.buildID
}
