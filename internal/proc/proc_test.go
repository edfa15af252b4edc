package proc

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

const fixture = FS("testdata/root")

func TestLists(t *testing.T) {
	pids, err := fixture.PIDs()
	if err != nil || !slices.Equal(pids, []int32{1, 4242}) {
		t.Errorf("PIDs() = %v, %v; want 1 and 4242", pids, err)
	}
	tids, err := fixture.TIDs(4242)
	if err != nil || !slices.Equal(tids, []int32{4242, 4250}) {
		t.Errorf("TIDs(4242) = %v, %v; want 4242 and 4250", tids, err)
	}
	if _, err := fixture.TIDs(4243); !os.IsNotExist(err) {
		t.Errorf("TIDs of no process: %v, want that it does not exist", err)
	}
	cpus, err := fixture.OnlineCPUs()
	if err != nil || !slices.Equal(cpus, []int{0, 1, 2, 3, 5}) {
		t.Errorf("OnlineCPUs() = %v, %v", cpus, err)
	}
}

func TestStatus(t *testing.T) {
	got, err := fixture.Status(4242)
	want := Status{PID: 4242, PPID: 1, UID: 1001, NS: []int32{4242, 17}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Status(4242) = %+v, %v; want %+v", got, err, want)
	}
}

func TestParseStatusErrors(t *testing.T) {
	tests := []struct{ name, in string }{
		{"empty", ""},
		{"no Tgid", "Pid:\t7\n"},
		{"Tgid is no number", "Tgid:\tseven\n"},
		{"Tgid is negative", "Tgid:\t-7\n"},
		{"uid out of range", "Tgid:\t7\nUid:\t0 4294967296 0 0\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := parseStatus([]byte(tt.in)); err == nil {
				t.Errorf("parseStatus(%q) = %+v, want an error", tt.in, got)
			}
		})
	}
}

func TestComm(t *testing.T) {
	tests := []struct {
		name string
		tid  int32
		want string
	}{
		{"leader", 4242, "demo"},
		{"a name may hold a newline", 4250, "work\ner"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := fixture.Comm(4242, tt.tid); err != nil || got != tt.want {
				t.Errorf("Comm(4242, %d) = %q, %v; want %q", tt.tid, got, err, tt.want)
			}
		})
	}
}

func TestExe(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "proc", "9")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/a b (deleted)", filepath.Join(dir, "exe")); err != nil {
		t.Fatal(err)
	}
	if got, err := FS(root).Exe(9); err != nil || got != "/bin/a b (deleted)" {
		t.Errorf("Exe(9) = %q, %v", got, err)
	}
	if _, err := fixture.Exe(1); !os.IsNotExist(err) {
		t.Errorf("Exe of a process without one: %v, want that it does not exist", err)
	}
}

// TestThisProcess reads the real /proc, where there is one.
func TestThisProcess(t *testing.T) {
	fs, self := FS("/"), int32(os.Getpid())
	if _, err := os.Stat("/proc/self/maps"); err != nil {
		t.Skip(err)
	}
	maps, skipped, err := fs.Maps(self)
	if err != nil || len(maps) == 0 || skipped != 0 {
		t.Errorf("Maps(self) = %d mappings, %d skipped, %v", len(maps), skipped, err)
	}
	exe, err := fs.Exe(self)
	if err != nil || !slices.ContainsFunc(maps, func(m Mapping) bool { return m.Path == exe }) {
		t.Errorf("Exe(self) = %q, %v; none of the mappings", exe, err)
	}
	s, err := fs.Status(self)
	if err != nil || s.PID != self || s.UID != uint32(os.Geteuid()) || !slices.Contains(s.NS, self) {
		t.Errorf("Status(self) = %+v, %v", s, err)
	}
	if pids, err := fs.PIDs(); err != nil || !slices.Contains(pids, self) {
		t.Errorf("PIDs() = %v, %v; lacks %d", pids, err, self)
	}
	if path, err := fs.Cgroup(self); err != nil || path[0] != '/' {
		t.Errorf("Cgroup(self) = %q, %v", path, err)
	}
	if cpus, err := fs.OnlineCPUs(); err != nil || len(cpus) == 0 {
		t.Errorf("OnlineCPUs() = %v, %v", cpus, err)
	}
}
