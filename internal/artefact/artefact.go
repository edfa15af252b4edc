// Package artefact writes output files that are either complete or not there: the
// bytes go to a temporary file in the same directory, which takes the final
// name only when everything is on disk.
//
// Upstream: whoever renders an output. Downstream: the file system.
package artefact

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// ErrSymlink refuses an output path that is a symbolic link to a regular file or
// to nothing. Replacing the link would surprise its owner, and following it
// would let whoever planted it choose the file.
var ErrSymlink = errors.New("is a symbolic link; name the file itself")

var errAborted = errors.New("aborted")

// Owner is whom new files are given to. The zero value leaves them as they are.
type Owner struct {
	UID, GID int
	Set      bool
}

// InvokingUser returns the user who ran sudo, when the process runs under it.
func InvokingUser(getenv func(string) string) Owner {
	if os.Geteuid() != 0 {
		return Owner{}
	}
	uid, err := strconv.ParseUint(getenv("SUDO_UID"), 10, 31)
	if err != nil {
		return Owner{}
	}
	gid, err := strconv.ParseUint(getenv("SUDO_GID"), 10, 31)
	if err != nil {
		return Owner{}
	}
	return Owner{UID: int(uid), GID: int(gid), Set: true}
}

// Config says what a new file is like.
type Config struct {
	Mode  fs.FileMode // before the umask
	Owner Owner
}

// A File is an output being written. Write and Commit are called from one
// goroutine; Abort may be called from any.
type File struct {
	Path string

	w    io.Writer
	size int64

	mu   sync.Mutex
	f    *os.File // nil once committed or aborted, and for a File made by To
	tmp  string   // "" when the output is written straight
	done bool
}

// Create opens the output path for writing. A path that names a device, a FIFO or
// the like is written straight; for all others Create makes the temporary file, so
// that an unwritable directory shows now.
func Create(path string, c Config) (*File, error) {
	f, err := open(path, c)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, cause(err))
	}
	return f, nil
}

func open(path string, c Config) (*File, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return createTemporary(path, c)
	case err != nil:
		return nil, err
	case info.Mode().IsRegular():
		return createTemporary(path, c)
	case info.IsDir():
		return nil, syscall.EISDIR
	case info.Mode()&fs.ModeSymlink != 0:
		if err := checkLink(path); err != nil {
			return nil, err
		}
	}
	return openStraight(path)
}

// checkLink allows links to devices and FIFOs, such as /dev/stdout, where only
// their owner can have put them.
func checkLink(path string) error {
	target, err := os.Stat(path)
	if err != nil || target.Mode().IsRegular() || target.IsDir() {
		return ErrSymlink
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if dir.Mode().Perm()&0o002 != 0 {
		return ErrSymlink
	}
	return nil
}

func openStraight(path string) (*File, error) {
	// O_CREATE makes the kernel apply fs.protected_fifos.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeCharDevice|fs.ModeSocket) == 0 {
		err = errors.New("neither a file, a FIFO nor a character device")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{Path: path, w: f, f: f}, nil
}

func createTemporary(path string, c Config) (*File, error) {
	var id [8]byte
	rand.Read(id[:]) // never fails, since Go 1.24
	tmp := filepath.Join(filepath.Dir(path), ".hotframe-"+hex.EncodeToString(id[:])+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, c.Mode)
	if err != nil {
		return nil, err
	}
	if c.Owner.Set {
		if err := f.Chown(c.Owner.UID, c.Owner.GID); err != nil {
			return nil, errors.Join(fmt.Errorf("give it to uid %d: %w", c.Owner.UID, cause(err)), f.Close(), os.Remove(tmp))
		}
	}
	return &File{Path: path, w: f, f: f, tmp: tmp}, nil
}

// To returns a File that passes on to w, which stays open. Path is how messages
// call it.
func To(path string, w io.Writer) *File { return &File{Path: path, w: w} }

func (f *File) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write %s: %w", f.Path, cause(err))
	}
	return n, nil
}

// Size is the number of bytes written.
func (f *File) Size() int64 { return f.size }

// Commit brings the file to disk and gives it its name. When that fails the
// temporary file is removed and what was there before is untouched.
func (f *File) Commit() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return fmt.Errorf("write %s: %w", f.Path, errAborted)
	}
	f.done = true
	if f.f == nil {
		return nil
	}
	if f.tmp == "" {
		if err := f.f.Close(); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, cause(err))
		}
		return nil
	}
	err := f.f.Sync()
	if cerr := f.f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.tmp, f.Path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", f.Path, cause(err)), os.Remove(f.tmp))
	}
	return nil
}

// Abort closes the file and removes the temporary one. It does nothing once the
// File is committed or aborted.
func (f *File) Abort() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return nil
	}
	f.done = true
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	if f.tmp != "" {
		err = errors.Join(err, os.Remove(f.tmp))
	}
	return err
}

// cause strips the operation and path off an error of package os: they name the
// temporary file, which tells the user nothing.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}
