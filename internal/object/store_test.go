package object

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
	"hotframe/internal/testutil"
)

const fixturePID = 4711

// fixture is a root directory in which process fixturePID has a root directory.
func fixture(t *testing.T) (root, procRoot string) {
	t.Helper()
	root = t.TempDir()
	procRoot = filepath.Join(root, "proc", fmt.Sprint(fixturePID), "root")
	for _, dir := range []string{procRoot, filepath.Join(root, "tmp"), filepath.Join(procRoot, "tmp")} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return root, procRoot
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func content(t *testing.T, f *File) string {
	t.Helper()
	r, size, err := f.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	b := make([]byte, size)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatalf("ReadAt: %v", err)
	}
	return string(b)
}

func store(t *testing.T, c Config) *Store {
	t.Helper()
	s := NewStore(c)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestFileByPath(t *testing.T) {
	root, procRoot := fixture(t)
	write(t, filepath.Join(procRoot, "bin/x"), "in the container")
	write(t, filepath.Join(root, "bin/x"), "on the host")
	write(t, filepath.Join(root, "bin/host"), "only on the host")
	write(t, filepath.Join(root, "secret"), "secret")
	write(t, filepath.Join(procRoot, "bin/y (deleted)"), "another")
	write(t, filepath.Join(procRoot, "bin/y"), "another")
	if err := os.Mkdir(filepath.Join(procRoot, "dir"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(procRoot, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"abs":    "/bin/x",
		"up":     "../../../../secret",
		"outer":  filepath.Join(root, "secret"),
		"magic":  "/proc/self/root/secret",
		"linked": "/bin",
	} {
		if err := os.Symlink(target, filepath.Join(procRoot, link)); err != nil {
			t.Fatal(err)
		}
	}
	x, hostX, secret := inode(t, procRoot+"/bin/x"), inode(t, root+"/bin/x"), inode(t, root+"/secret")
	y := inode(t, procRoot+"/bin/y")
	fifo := inode(t, procRoot+"/fifo")

	tests := []struct {
		name string
		ref  Ref
		want string
		err  error
	}{
		{"in the root of the process", Ref{PID: fixturePID, Path: "/bin/x", Inode: x}, "in the container", nil},
		{"device number differs, as on overlayfs", Ref{PID: fixturePID, Path: "/bin/x", Inode: x, Device: 0xffff}, "in the container", nil},
		{"replaced", Ref{PID: fixturePID, Path: "/bin/x", Inode: x + 1e6}, "", ErrReplaced},
		{"the host's file of the same name", Ref{PID: fixturePID, Path: "/bin/x", Inode: hostX}, "", ErrReplaced},
		{"process gone", Ref{PID: 1 << 22, Path: "/bin/host", Inode: inode(t, root+"/bin/host")}, "only on the host", nil},
		{"process gone, its container too", Ref{PID: 1 << 22, Path: "/bin/x", Inode: x}, "", ErrReplaced},
		{"process gone, file too", Ref{PID: 1 << 22, Path: "/nowhere", Inode: x}, "", ErrGone},
		{"not on the host while the process lives", Ref{PID: fixturePID, Path: "/bin/host", Inode: inode(t, root+"/bin/host")}, "", ErrGone},
		{"absolute link stays inside", Ref{PID: fixturePID, Path: "/abs", Inode: x}, "in the container", nil},
		{"linked directory stays inside", Ref{PID: fixturePID, Path: "/linked/x", Inode: x}, "in the container", nil},
		{"link above the root", Ref{PID: fixturePID, Path: "/up", Inode: secret}, "", ErrGone},
		{"link to a host path", Ref{PID: fixturePID, Path: "/outer", Inode: secret}, "", ErrGone},
		{"dots above the root", Ref{PID: fixturePID, Path: "/../../../secret", Inode: secret}, "", ErrGone},
		{"magic link", Ref{PID: fixturePID, Path: "/magic", Inode: secret}, "", ErrGone},
		{"path through a file", Ref{PID: fixturePID, Path: "/bin/x/y", Inode: x}, "", ErrGone},
		{"FIFO", Ref{PID: fixturePID, Path: "/fifo", Inode: fifo}, "", ErrNotRegular},
		{"directory", Ref{PID: fixturePID, Path: "/dir", Inode: 1}, "", ErrNotRegular},
		{"deleted: a later file of that path, inode used again", Ref{PID: fixturePID, Path: "/bin/y (deleted)", Inode: y}, "", ErrGone},
		{"deleted: a file called so", Ref{PID: fixturePID, Path: "/bin/y (deleted)", Inode: inode(t, procRoot+"/bin/y (deleted)")}, "", ErrGone},
		{"no inode to check", Ref{PID: fixturePID, Path: "/bin/x"}, "", ErrGone},
		{"no path", Ref{PID: fixturePID, Path: "//anon", Inode: x}, "", ErrGone},
		{"relative path", Ref{PID: fixturePID, Path: "bin/x", Inode: x}, "", ErrGone},
		{"NUL in the path", Ref{PID: fixturePID, Path: "/bin/x\x00", Inode: x}, "", unix.EINVAL},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := store(t, Config{Root: root})
			f := s.File(tt.ref)
			if f.Path != tt.ref.Path || f.PID != tt.ref.PID || f.Kind != ELF {
				t.Errorf("File = {%v %q %d}, want {%v %q %d}", f.Kind, f.Path, f.PID, ELF, tt.ref.Path, tt.ref.PID)
			}
			_, _, err := f.Open()
			if tt.err != nil {
				if !errors.Is(err, tt.err) {
					t.Errorf("Open error %v, want %v", err, tt.err)
				}
				return
			}
			if got := content(t, f); got != tt.want {
				t.Errorf("content %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDenied(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("nothing is denied to root")
	}
	root, procRoot := fixture(t)
	path := filepath.Join(procRoot, "x")
	write(t, path, "x")
	ref := Ref{PID: fixturePID, Path: "/x", Inode: inode(t, path)}
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store(t, Config{Root: root}).File(ref).Open(); !errors.Is(err, ErrDenied) {
		t.Errorf("Open error %v, want %v", err, ErrDenied)
	}
}

func TestFileIsCachedAndStaysOpen(t *testing.T) {
	root, procRoot := fixture(t)
	path := filepath.Join(procRoot, "x")
	write(t, path, "old")
	s := store(t, Config{Root: root})
	ref := Ref{PID: fixturePID, Path: "/x", Inode: inode(t, path)}
	f := s.File(ref)

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "new")
	if got := content(t, f); got != "old" {
		t.Errorf("content %q, want %q", got, "old")
	}
	ref.PID = fixturePID + 1
	if s.File(ref) != f {
		t.Error("another process with the same file got another File")
	}
	ref.Path = "/y"
	if s.File(ref) == f {
		t.Error("another path got the same File")
	}
}

func TestAnotherProcessMakesAFileReadable(t *testing.T) {
	root, procRoot := fixture(t)
	path := filepath.Join(procRoot, "x")
	write(t, path, "x")
	s := store(t, Config{Root: root})
	ref := Ref{PID: 1 << 22, Path: "/x", Inode: inode(t, path)}
	f := s.File(ref)
	if _, _, err := f.Open(); !errors.Is(err, ErrGone) {
		t.Fatalf("Open error %v, want %v", err, ErrGone)
	}
	ref.PID = fixturePID
	s.File(ref)
	if got := content(t, f); got != "x" {
		t.Errorf("content %q, want %q", got, "x")
	}
}

func TestOpenFileLimit(t *testing.T) {
	const limit, files = 4, 20
	root, procRoot := fixture(t)
	s := store(t, Config{Root: root, MaxOpenFiles: limit})
	var all []*File
	var want []string
	for i := range files {
		path := filepath.Join(procRoot, fmt.Sprint("f", i))
		want = append(want, strings.Repeat(fmt.Sprint(i), 100))
		write(t, path, want[i])
		all = append(all, s.File(Ref{PID: fixturePID, Path: fmt.Sprint("/f", i), Inode: inode(t, path)}))
	}
	readers := make([]io.ReaderAt, files)
	for i, f := range all {
		r, _, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		readers[i] = r
	}
	if n := s.open.Len(); n != limit {
		t.Errorf("%d files open, want %d", n, limit)
	}

	// All at once, so that files are closed under readers.
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			for range 50 {
				b := make([]byte, len(want[i]))
				if _, err := readers[i].ReadAt(b, 0); err != nil {
					t.Errorf("file %d: %v", i, err)
					return
				}
				if string(b) != want[i] {
					t.Errorf("file %d: read %q, want %q", i, b, want[i])
					return
				}
			}
		})
	}
	wg.Wait()
	if n := s.open.Len(); n != limit {
		t.Errorf("%d files open, want %d", n, limit)
	}
}

func TestReopenChecksIdentity(t *testing.T) {
	root, procRoot := fixture(t)
	path := filepath.Join(procRoot, "x")
	write(t, path, "old")
	write(t, filepath.Join(procRoot, "y"), "y")
	s := store(t, Config{Root: root, MaxOpenFiles: 1})
	f := s.File(Ref{PID: fixturePID, Path: "/x", Inode: inode(t, path)})
	s.File(Ref{PID: fixturePID, Path: "/y", Inode: inode(t, procRoot+"/y")}) // closes x

	write(t, path, "rewritten in place") // the inode stays
	if _, _, err := f.Open(); !errors.Is(err, ErrReplaced) {
		t.Errorf("Open error %v, want %v", err, ErrReplaced)
	}
}

func TestClose(t *testing.T) {
	root, procRoot := fixture(t)
	path := filepath.Join(procRoot, "x")
	write(t, path, "x")
	s := NewStore(Config{Root: root})
	ref := Ref{PID: fixturePID, Path: "/x", Inode: inode(t, path)}
	f := s.File(ref)
	r, _, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, errStoreClosed) {
		t.Errorf("ReadAt error %v, want %v", err, errStoreClosed)
	}
	if _, _, err := s.File(ref).Open(); !errors.Is(err, errStoreClosed) {
		t.Errorf("Open error %v, want %v", err, errStoreClosed)
	}
}

// sleeper runs a copy of sleep(1) and returns the Ref of its text.
func sleeper(t *testing.T) (ref Ref, path string) {
	t.Helper()
	from := testutil.NeedTool(t, "sleep")
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "sleeper")
	if err := os.WriteFile(path, b, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "60")
	// ETXTBSY while another goroutine's child still has the file open for writing.
	for i := range 100 {
		if err = cmd.Start(); !errors.Is(err, unix.ETXTBSY) {
			break
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
		cmd = exec.Command(path, "60")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	pid := int32(cmd.Process.Pid)
	maps, _, err := proc.FS("/").Maps(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if m.Path == path {
			return Ref{pid, m.Start, m.End, m.Offset, m.Path, m.Device, m.Inode}, path
		}
	}
	t.Skipf("sleep is no program of its own here: its maps have no %s", path)
	return Ref{}, ""
}

func TestMappedFile(t *testing.T) {
	ref, path := sleeper(t)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, store(t, Config{}).File(ref)); got != string(want) {
		t.Errorf("read %d bytes, not the %d of the program", len(got), len(want))
	}
}

func TestDeletedWhileMapped(t *testing.T) {
	testutil.NeedPrivileges(t) // map_files
	ref, path := sleeper(t)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", deletedSuffix} {
		ref.Path = path + suffix
		if got := content(t, store(t, Config{}).File(ref)); got != string(want) {
			t.Errorf("%s: read %d bytes, not the %d of the program", ref.Path, len(got), len(want))
		}
	}
}

func TestReplacedWhileMapped(t *testing.T) {
	testutil.NeedPrivileges(t) // map_files
	ref, path := sleeper(t)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write(t, path, "another program")
	want, err := os.ReadFile(path + ".old")
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, store(t, Config{}).File(ref)); got != string(want) {
		t.Errorf("read %d bytes, not the %d of the mapped program", len(got), len(want))
	}

	// A later process has the number and maps another file there.
	ref.Inode += 1e9
	if _, _, err := store(t, Config{}).File(ref).Open(); !errors.Is(err, ErrReplaced) {
		t.Errorf("Open error %v, want %v", err, ErrReplaced)
	}
}

func TestReplacedWithoutMapFiles(t *testing.T) {
	ref, path := sleeper(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path+".other", "keeps the inode number in use")
	write(t, path, "another program")
	ref.Start++ // no such entry in map_files
	if inode(t, path) == ref.Inode {
		t.Skip("the file system gave out the inode number again")
	}
	if _, _, err := store(t, Config{}).File(ref).Open(); !errors.Is(err, ErrReplaced) {
		t.Errorf("Open error %v, want %v", err, ErrReplaced)
	}
}

func TestVDSO(t *testing.T) {
	s := store(t, Config{})
	f := s.VDSO()
	if f.Path != "[vdso]" || f.Kind != ELF || s.VDSO() != f {
		t.Errorf("VDSO = {%v %q}", f.Kind, f.Path)
	}
	r, size, err := f.Open()
	if errors.Is(err, ErrGone) {
		t.Skip("no vDSO here")
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := ReadHeaders(r, size)
	if err != nil {
		t.Fatal(err)
	}
	if h.Type != TypeDyn || h.Section(".dynsym") == nil {
		t.Errorf("type %d, .dynsym %v: not a vDSO", h.Type, h.Section(".dynsym"))
	}
	if f.BuildID() == "" {
		t.Error("no build id")
	}
}

func TestZeroFileIsGone(t *testing.T) {
	f := &File{Path: "/x"}
	if _, _, err := f.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("Open error %v, want %v", err, ErrGone)
	}
	if id := f.BuildID(); id != "" {
		t.Errorf("BuildID = %q", id)
	}
}

func TestNewFile(t *testing.T) {
	if got := content(t, NewFile(PerfMap, "x", bytes.NewReader([]byte("abc")), 3)); got != "abc" {
		t.Errorf("content %q", got)
	}
}
