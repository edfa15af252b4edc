package proc

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestCgroupIDs(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	id := func(dir string) uint64 {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(root, dir), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	write("proc/self/mounts", "none /sys/fs/cgroup cgroup2 rw 0 0\n")
	write("sys/fs/cgroup/a/b/cgroup.procs", "")

	ids, err := FS(root).CgroupIDs()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{"": "/", "/a": "/a", "/a/b": "/a/b"} {
		if got := ids.Path(id("sys/fs/cgroup" + dir)); got != want {
			t.Errorf("path of %q = %q, want %q", dir, got, want)
		}
	}
	gone := id("sys/fs/cgroup/a/b")
	if err := os.RemoveAll(filepath.Join(root, "sys/fs/cgroup/a/b")); err != nil {
		t.Fatal(err)
	}
	write("sys/fs/cgroup/new/cgroup.procs", "")
	added := id("sys/fs/cgroup/new")
	if added == gone {
		t.Skip("the file system reuses inode numbers at once")
	}
	if got := ids.Path(added); got != "" {
		t.Errorf("path of a cgroup made since the last scan = %q, want none within a second", got)
	}
	ids.scanned = time.Now().Add(-cgroupScanWait)
	if got := ids.Path(added); got != "/new" {
		t.Errorf("path of a new cgroup = %q, want /new", got)
	}
	if got := ids.Path(gone); got != "/a/b" {
		t.Errorf("path of a removed cgroup = %q, want /a/b", got)
	}
}

func TestCgroupIDsWithoutMount(t *testing.T) {
	if _, err := FS(t.TempDir()).CgroupIDs(); !os.IsNotExist(err) {
		t.Errorf("CgroupIDs() = %v, want that mounts does not exist", err)
	}
}
