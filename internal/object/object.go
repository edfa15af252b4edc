// Package object opens the files behind mappings, while the process that maps
// them still lives where that is possible, checks that they are the files that
// were mapped, and keeps them open for naming addresses later.
//
// Upstream: sampler's mappings. Downstream: symbolize reads from the Files.
package object

import (
	"errors"
	"io"
)

// Kind is what a File holds.
type Kind uint8

const (
	ELF     Kind = iota // an executable or a shared library, on disk or the vDSO in memory
	PerfMap             // /tmp/perf-PID.map, names of run-time compiled code
)

// A File is one mapped file. It is safe for concurrent use.
type File struct {
	Kind Kind
	Path string // as the mapping process names it
	PID  int32  // a process that maps it (the owner, for a PerfMap)
}

// ErrGone and the other reasons why a file cannot be read; they are shown to
// users as the cause of unnamed frames.
var (
	ErrGone     = errors.New("file is gone")
	ErrReplaced = errors.New("file was replaced")
	ErrDenied   = errors.New("permission denied")
)

// Open returns a reader over the file's content and its size. Errors are one of the
// reasons above, wrapped. The reader stays valid until the Store is closed.
func (f *File) Open() (io.ReaderAt, int64, error) { return nil, 0, ErrGone }

// BuildID is the GNU build id in lower-case hex, or "".
func (f *File) BuildID() string { return "" }
