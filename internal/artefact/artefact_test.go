package artefact

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var private = Config{Mode: 0o600}

// entries lists a directory, hidden files included.
func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommitReplacesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Create(path, private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("new content")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "old" {
		t.Errorf("before Commit the file holds %q, want the old content", got)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "new content" || f.Size() != int64(len(got)) {
		t.Errorf("after Commit the file holds %q, size %d", got, f.Size())
	}
	if err := f.Abort(); err != nil {
		t.Errorf("Abort after Commit = %v, want nothing to happen", err)
	}
	if got := entries(t, filepath.Dir(path)); got != "out" {
		t.Errorf("directory holds %q, want only out", got)
	}
}

func TestAbortLeavesNoTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := Create(path, private)
	if err != nil {
		t.Fatal(err)
	}
	if got := entries(t, filepath.Dir(path)); !strings.HasSuffix(got, ".tmp") {
		t.Errorf("directory holds %q, want the temporary file", got)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, errAborted) {
		t.Errorf("Commit after Abort = %v, want %v", err, errAborted)
	}
	if got := entries(t, filepath.Dir(path)); got != "" {
		t.Errorf("directory holds %q, want nothing", got)
	}
}

func TestFullDiskKeepsOldFile(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := old
	limit.Cur = 4096
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Create(path, private)
	if err != nil {
		t.Fatal(err)
	}

	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 10000))
	if rerr := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); rerr != nil {
		t.Fatal(rerr)
	}

	if !errors.Is(err, syscall.EFBIG) || !strings.HasPrefix(err.Error(), "write "+path+": ") {
		t.Errorf("Write beyond the limit = %v, want EFBIG that names %s", err, path)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "old" {
		t.Errorf("file holds %q, want the old content", got)
	}
	if got := entries(t, filepath.Dir(path)); got != "out" {
		t.Errorf("directory holds %q, want only out", got)
	}
}

// TestFailedRename: a directory took the name while the file was written.
func TestFailedRename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := Create(path, private)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err == nil || !strings.HasPrefix(err.Error(), "write "+path+": ") {
		t.Errorf("Commit over a directory = %v, want an error that names %s", err, path)
	}
	if got := entries(t, filepath.Dir(path)); got != "out" {
		t.Errorf("directory holds %q, want only out", got)
	}
}

func TestMode(t *testing.T) {
	defer unix.Umask(unix.Umask(0o027))
	tests := []struct {
		name string
		mode fs.FileMode
		want fs.FileMode
	}{
		{"of the whole host", 0o600, 0o600},
		{"of an own command, less the umask", 0o666, 0o640},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			f, err := Create(path, Config{Mode: tt.mode})
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != tt.want {
				t.Errorf("mode %v, want %v", got, tt.want)
			}
		})
	}
}

func TestUnusablePaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": file, "dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o1777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(open, "planted")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		want       error
	}{
		{"no such directory", filepath.Join(dir, "none", "out"), fs.ErrNotExist},
		{"directory is a file", filepath.Join(file, "out"), syscall.ENOTDIR},
		{"a directory", dir, syscall.EISDIR},
		{"link to a file", filepath.Join(dir, "link"), ErrSymlink},
		{"link to nothing", filepath.Join(dir, "dangling"), ErrSymlink},
		{"link to a device that anybody can have planted", filepath.Join(open, "planted"), ErrSymlink},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Create(tt.path, private)
			if f != nil || !errors.Is(err, tt.want) {
				t.Fatalf("Create(%q) = %v, %v, want %v", tt.path, f, err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.path) || strings.Contains(err.Error(), ".tmp") {
				t.Errorf("error %q does not name %q, or names a temporary file", err, tt.path)
			}
		})
	}
}

func TestWrittenStraight(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0) // keeps Create from blocking
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := os.Symlink("/dev/null", filepath.Join(dir, "sink")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/dev/null", filepath.Join(dir, "sink")} {
		f, err := Create(path, private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("bytes")); err != nil {
			t.Fatal(err)
		}
		if err := f.Commit(); err != nil {
			t.Errorf("Commit of %s = %v", path, err)
		}
	}
	got := make([]byte, 5)
	if _, err := reader.Read(got); err != nil || string(got) != "bytes" {
		t.Errorf("read %q, %v from the FIFO, want %q", got, err, "bytes")
	}
	if got := entries(t, dir); got != "fifo sink" {
		t.Errorf("directory holds %q, want no temporary files", got)
	}

	full, err := Create("/dev/full", private)
	if err != nil {
		t.Skip(err)
	}
	defer full.Abort()
	if _, err := full.Write([]byte("bytes")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write to /dev/full = %v, want ENOSPC", err)
	}
}

func TestTo(t *testing.T) {
	var b bytes.Buffer
	f := To("standard output", &b)
	if _, err := f.Write([]byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil || b.String() != "bytes" || f.Size() != 5 {
		t.Errorf("wrote %q, size %d, Commit = %v", b.String(), f.Size(), err)
	}
}

func TestInvokingUser(t *testing.T) {
	tests := []struct {
		name, uid, gid string
		root           Owner // what root sees; everybody else sees the zero Owner
	}{
		{"no sudo", "", "", Owner{}},
		{"sudo", "1000", "100", Owner{UID: 1000, GID: 100, Set: true}},
		{"no gid", "1000", "", Owner{}},
		{"chown would take -1 as unchanged", "-1", "0", Owner{}},
		{"too large for a uid", "4294967295", "0", Owner{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"SUDO_UID": tt.uid, "SUDO_GID": tt.gid}
			want := tt.root
			if os.Geteuid() != 0 {
				want = Owner{}
			}
			if got := InvokingUser(func(k string) string { return env[k] }); got != want {
				t.Errorf("InvokingUser = %+v, want %+v", got, want)
			}
		})
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	path := filepath.Join(t.TempDir(), "out")
	f, err := Create(path, Config{Mode: 0o600, Owner: Owner{UID: 12345, GID: 54321, Set: true}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 12345 || st.Gid != 54321 || st.Mode&0o777 != 0o600 {
		t.Errorf("file has owner %d:%d mode %o, want 12345:54321 600", st.Uid, st.Gid, st.Mode&0o777)
	}
}
