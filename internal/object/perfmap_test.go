package object

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hotframe/internal/testutil"
)

// perfMapFixture is a process that runs as this user and has pid 7 in its own
// pid namespace.
func perfMapFixture(t *testing.T) (root, inContainer, onHost string) {
	root, procRoot := fixture(t)
	write(t, filepath.Join(root, "proc", fmt.Sprint(fixturePID), "status"), fmt.Sprintf(
		"Name:\tx\nTgid:\t%d\nUid:\t1\t%d\t1\t1\nNStgid:\t%[1]d\t7\n", fixturePID, os.Geteuid()))
	return root, filepath.Join(procRoot, "tmp/perf-7.map"), filepath.Join(root, fmt.Sprintf("tmp/perf-%d.map", fixturePID))
}

func TestPerfMapPlaces(t *testing.T) {
	root, inContainer, onHost := perfMapFixture(t)
	s := store(t, Config{Root: root})
	f := s.PerfMap(fixturePID)
	if want := fmt.Sprintf("/tmp/perf-%d.map", fixturePID); f.Kind != PerfMap || f.Path != want || f.PID != fixturePID {
		t.Errorf("PerfMap = {%v %q %d}", f.Kind, f.Path, f.PID)
	}
	_, _, err := f.Open()
	if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "no perf map") {
		t.Errorf("Open error %v, want one that says there is no perf map", err)
	}

	write(t, onHost, "host")
	if got := content(t, f); got != "host" { // written after the first call
		t.Errorf("content %q, want that of the host", got)
	}
	write(t, inContainer, "container")
	if got := content(t, store(t, Config{Root: root}).PerfMap(fixturePID)); got != "container" {
		t.Errorf("content %q, want that of the container", got)
	}
	if s.PerfMap(fixturePID) != f {
		t.Error("the same process got another File")
	}
	if f.BuildID() != "" {
		t.Error("a perf map has a build id")
	}
}

func TestPerfMapGrows(t *testing.T) {
	root, inContainer, _ := perfMapFixture(t)
	write(t, inContainer, "one\n")
	f := store(t, Config{Root: root}).PerfMap(fixturePID)
	content(t, f)
	write(t, inContainer, "one\ntwo\n")
	if got := content(t, f); got != "one\ntwo\n" {
		t.Errorf("content %q, want both lines", got)
	}
}

func TestPerfMapSurvivesItsProcess(t *testing.T) {
	root, inContainer, _ := perfMapFixture(t)
	write(t, inContainer, "x")
	f := store(t, Config{Root: root}).PerfMap(fixturePID)
	if err := os.RemoveAll(filepath.Join(root, "proc")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, f); got != "x" {
		t.Errorf("content %q, want %q", got, "x")
	}
}

func TestPerfMapRefused(t *testing.T) {
	tests := []struct {
		name  string
		plant func(t *testing.T, path string)
		want  error
	}{
		{"symbolic link", func(t *testing.T, path string) {
			write(t, path+".target", "x")
			if err := os.Symlink(filepath.Base(path)+".target", path); err != nil {
				t.Fatal(err)
			}
		}, ErrNotRegular},
		{"FIFO", func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o666); err != nil {
				t.Fatal(err)
			}
		}, ErrNotRegular},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o777); err != nil {
				t.Fatal(err)
			}
		}, ErrNotRegular},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, inContainer, onHost := perfMapFixture(t)
			tt.plant(t, inContainer)
			write(t, onHost, "must not be used instead")
			if _, _, err := store(t, Config{Root: root}).PerfMap(fixturePID).Open(); !errors.Is(err, tt.want) {
				t.Errorf("Open error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestPerfMapOwner(t *testing.T) {
	testutil.NeedPrivileges(t) // chown
	const user, other = 1234, 4321
	tests := []struct {
		name   string
		owner  int
		status string
		ok     bool
	}{
		{"the process's effective user", user, "Uid:\t1\t1234\t1\t1\n", true},
		{"root", 0, "Uid:\t1\t1234\t1\t1\n", true},
		{"another user", other, "Uid:\t1\t1234\t1\t1\n", false},
		{"the process's real user only", other, "Uid:\t4321\t1234\t1\t1\n", false},
		{"process gone", user, "", false},
		{"process gone, root's", 0, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, inContainer, onHost := perfMapFixture(t)
			status := filepath.Join(root, "proc", fmt.Sprint(fixturePID), "status")
			path := inContainer
			if tt.status == "" {
				path = onHost
				if err := os.RemoveAll(filepath.Join(root, "proc")); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, status, "Tgid:\t1\nNStgid:\t1\t7\n"+tt.status)
			}
			write(t, path, "x")
			if err := os.Chown(path, tt.owner, -1); err != nil {
				t.Fatal(err)
			}
			_, _, err := store(t, Config{Root: root}).PerfMap(fixturePID).Open()
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrOwner) {
				t.Errorf("Open error %v", err)
			}
		})
	}
}
