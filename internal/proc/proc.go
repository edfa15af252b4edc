// Package proc reads what Linux tells about processes, cgroups and CPUs under
// /proc and /sys. Paths and names in it are chosen by the processes described
// and may hold any bytes.
//
// Upstream: the kernel, or a fixture tree in tests. Downstream: sampler and
// internal/object.
package proc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// An FS is the directory that holds proc and sys: "/" on a running system.
type FS string

// maxFile bounds what is read of the small files of /proc and /sys. A cgroup
// line holds a path of at most PATH_MAX, 4096 bytes.
const maxFile = 64 << 10

func (fs FS) path(elem ...string) string {
	return filepath.Join(string(fs), filepath.Join(elem...))
}

// Path is a file of a process, as in Path(1, "exe"): "/proc/1/exe".
func (fs FS) Path(pid int32, elem ...string) string {
	return fs.path("proc", strconv.Itoa(int(pid)), filepath.Join(elem...))
}

// read returns the content of a small file, cut at maxFile.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// PIDs lists the processes, ascending.
func (fs FS) PIDs() ([]int32, error) { return numbers(fs.path("proc")) }

// TIDs lists the threads of a process, ascending.
func (fs FS) TIDs(pid int32) ([]int32, error) { return numbers(fs.Path(pid, "task")) }

// numbers lists the entries of a directory whose names are positive numbers.
func numbers(dir string) ([]int32, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []int32
	for _, name := range names {
		if n, err := strconv.ParseInt(name, 10, 32); err == nil && n > 0 {
			all = append(all, int32(n))
		}
	}
	slices.Sort(all)
	return all, nil
}

// Exe is the path of the executable as the process sees it, with " (deleted)"
// behind it when that file is gone. Kernel threads have none.
func (fs FS) Exe(pid int32) (string, error) { return os.Readlink(fs.Path(pid, "exe")) }

// Comm is the name of a thread: any bytes but NUL, at most 15 for user threads.
func (fs FS) Comm(pid, tid int32) (string, error) {
	b, err := read(fs.Path(pid, "task", strconv.Itoa(int(tid)), "comm"))
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSuffix(b, []byte("\n"))), nil
}

// A Status is what /proc/PID/status says, as far as it is used.
type Status struct {
	PID  int32   // of the process: the field Tgid
	PPID int32   // 0 when the parent is in another pid namespace
	UID  uint32  // effective
	NS   []int32 // PID from the reader's pid namespace to the process's own; the field NStgid
}

// Status reads /proc/PID/status.
func (fs FS) Status(pid int32) (Status, error) {
	b, err := read(fs.Path(pid, "status"))
	if err != nil {
		return Status{}, err
	}
	s, err := parseStatus(b)
	if err != nil {
		return Status{}, fmt.Errorf("status of process %d: %w", pid, err)
	}
	return s, nil
}

// parseStatus reads "Key:\tvalue ..." lines. The Name line is the process's
// own choice, but the kernel escapes newlines in it.
func parseStatus(b []byte) (Status, error) {
	var s Status
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		fields := bytes.Fields(value)
		switch string(key) {
		case "Tgid":
			s.PID = firstNumber(fields)
		case "PPid":
			s.PPID = firstNumber(fields)
		case "Uid": // real, effective, saved, file system
			if len(fields) == 4 {
				uid, err := strconv.ParseUint(string(fields[1]), 10, 32)
				if err != nil {
					return Status{}, fmt.Errorf("effective uid %q: %w", fields[1], err)
				}
				s.UID = uint32(uid)
			}
		case "NStgid":
			s.NS = nil
			for _, f := range fields {
				s.NS = append(s.NS, firstNumber([][]byte{f}))
			}
		}
	}
	if s.PID <= 0 {
		return Status{}, fmt.Errorf("no Tgid in %d bytes", len(b))
	}
	return s, nil
}

// firstNumber is the first field as a pid, 0 when it is none.
func firstNumber(fields [][]byte) int32 {
	if len(fields) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(fields[0]), 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}
