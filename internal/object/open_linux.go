package object

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
)

// A Ref is a mapping of a file, as the kernel reported it.
type Ref struct {
	PID                int32
	Start, End, Offset uint64
	Path               string // with " (deleted)" behind it as the kernel shows it
	Device, Inode      uint64
}

// deletedSuffix is what the kernel appends to the path of a mapped file whose
// directory entry is gone (d_path in fs/d_path.c). A file may also be called so.
const deletedSuffix = " (deleted)"

// mappedFile is a File of a Store with the processes by which it may be opened.
//
// A file is taken for the mapped one if its inode number is the one of the
// mapping. Device numbers prove nothing: on overlayfs and btrfs the kernel's
// mmap records have the number of another (or the anonymous) device than
// stat. An inode number may be used again after the file was deleted, which
// is why Store.File opens at once.
type mappedFile struct {
	File
	kept kept

	// Guarded by kept.opening:
	first, latest Ref
	identity      unix.Stat_t // of the file when it was first opened; Ino 0 before
}

// File returns the File behind a mapping and opens it, if that was not done
// before. Whether that worked, Open tells.
func (s *Store) File(ref Ref) *File {
	key := fileKey{ref.Device, ref.Inode, ref.Path}
	s.mu.Lock()
	m := s.files[key]
	if m == nil {
		m = &mappedFile{File: File{Kind: ELF, Path: ref.Path, PID: ref.PID}, first: ref}
		m.kept = kept{store: s, name: ref.Path, opener: m.openAny}
		m.File.content = &m.kept
		s.files[key] = m
	}
	s.mu.Unlock()

	m.kept.opening.Lock()
	m.latest = ref
	m.kept.opening.Unlock()
	m.kept.get() // a failure shows in Open, which tries again
	return &m.File
}

// openAny opens the file through the process that mapped it last or first.
func (m *mappedFile) openAny() (*os.File, error) {
	f, st, err := m.kept.store.openRef(m.latest)
	if err != nil && m.first != m.latest {
		if g, gst, gerr := m.kept.store.openRef(m.first); gerr == nil {
			f, st, err = g, gst, nil
		}
	}
	if err != nil {
		return nil, err
	}
	was := &m.identity
	if was.Ino != 0 && (was.Dev != st.Dev || was.Ino != st.Ino || was.Mtim != st.Mtim || was.Size != st.Size) {
		f.Close()
		return nil, fmt.Errorf("changed since it was first opened: %w", ErrReplaced)
	}
	m.identity = st
	return f, nil
}

// openRef opens the file of a mapping: by the mapping itself, which is not
// fooled by deletion, mount namespaces or symbolic links; else by its path in
// the root of the process; else, if the process is gone or out of reach, by
// its path on the host.
func (s *Store) openRef(ref Ref) (*os.File, unix.Stat_t, error) {
	f, st, mappedErr := s.openMapped(ref)
	if mappedErr == nil {
		return f, st, nil
	}
	f, st, err := s.openPath(ref)
	// With rights to map_files the path would not have been needed.
	if errors.Is(err, ErrGone) && errors.Is(mappedErr, ErrDenied) {
		err = mappedErr
	}
	return f, st, err
}

// openMapped opens /proc/PID/map_files/START-END. That needs
// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
func (s *Store) openMapped(ref Ref) (f *os.File, st unix.Stat_t, err error) {
	link := fmt.Sprintf("%x-%x", ref.Start, ref.End)
	path := s.proc().Path(ref.PID, "map_files", link)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, reason("map_files", err)
	}
	defer unix.Close(fd)
	f, st, err = openRegular(fd, ref.Path)
	if err != nil {
		return nil, st, err
	}
	if ref.Inode != 0 && st.Ino != ref.Inode && s.mappedInode(ref) != ref.Inode {
		f.Close()
		return nil, st, fmt.Errorf("the process maps inode %d there now, not %d: %w", st.Ino, ref.Inode, ErrReplaced)
	}
	return f, st, nil
}

// mappedInode is the inode that /proc/PID/maps shows for the mapping. It comes
// from the same field as the mmap records', which stat need not agree with.
func (s *Store) mappedInode(ref Ref) uint64 {
	maps, _, err := s.proc().Maps(ref.PID)
	if err != nil {
		return 0
	}
	for _, m := range maps {
		if m.Start == ref.Start && m.End == ref.End {
			return m.Inode
		}
	}
	return 0
}

// openPath opens the path of a mapping and compares the inode.
func (s *Store) openPath(ref Ref) (f *os.File, st unix.Stat_t, err error) {
	if strings.HasSuffix(ref.Path, deletedSuffix) {
		// What has that path now is another file, even with the same inode
		// number.
		return nil, st, fmt.Errorf("deleted, and its mapping is not to be had: %w", ErrGone)
	}
	if ref.Inode == 0 || !filepath.IsAbs(ref.Path) {
		return nil, st, fmt.Errorf("a mapping without a file: %w", ErrGone)
	}
	f, st, err = openIn(s.proc().Path(ref.PID, "root"), ref.Path, 0)
	var noRoot *rootError
	if errors.As(err, &noRoot) {
		var hostErr error
		if f, st, hostErr = openIn(s.root, ref.Path, 0); hostErr == nil || errors.Is(err, ErrGone) {
			err = hostErr
		}
	}
	if err != nil {
		return nil, st, err
	}
	if st.Ino != ref.Inode {
		f.Close()
		return nil, st, fmt.Errorf("has inode %d, not %d: %w", st.Ino, ref.Inode, ErrReplaced)
	}
	return f, st, nil
}

// rootError says that the root directory itself could not be opened.
type rootError struct{ error }

func (e *rootError) Unwrap() error { return e.error }

// openIn opens a regular file by its path below a root directory. Symbolic
// links in it, absolute ones too, are followed within that root. flags are
// further open flags.
func openIn(root, path string, flags uint64) (f *os.File, st unix.Stat_t, err error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, &rootError{reason(root, err)}
	}
	defer unix.Close(dir)
	// Linux 5.6. O_PATH, since opening a FIFO or a device has effects.
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, st, reason("open", err)
	}
	defer unix.Close(fd)
	return openRegular(fd, path)
}

// openRegular opens for reading what fd, an O_PATH descriptor, stands for.
func openRegular(fd int, name string) (f *os.File, st unix.Stat_t, err error) {
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, reason("stat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, fmt.Errorf("mode %#o: %w", st.Mode, ErrNotRegular)
	}
	// O_NONBLOCK: not to wait for the holder of a lease (fcntl F_SETLEASE).
	r, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd),
		unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, reason("open", err)
	}
	return os.NewFile(uintptr(r), name), st, nil
}

// reason turns what the system says into one of the reasons that users see.
func reason(what string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESRCH):
		err = ErrGone
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		err = ErrDenied
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (s *Store) proc() proc.FS { return proc.FS(s.root) }
