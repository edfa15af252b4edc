//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// waiting is argv[0] of the process until it executes the command. The rest is the
// descriptors to read the release from and to write to that it waits, or an errno, the
// path to execute and the command's own argv.
const waiting = "hotframe: waiting to start"

// ExecIfWaiting executes the command of Start when this process was started for
// that; it then does not return. It has to be called first in main.
func ExecIfWaiting() {
	if len(os.Args) < 5 || os.Args[0] != waiting {
		return
	}
	runtime.LockOSThread()
	os.Exit(wait(os.Args))
}

// wait returns only when the command could not be executed.
func wait(args []string) int {
	if unix.Gettid() != unix.Getpid() {
		// Perf events are bound to the first thread, so this has to run on it. The
		// scheduler has moved main off it already, which is rare: start over.
		return failed(syscall.Exec("/proc/self/exe", args, os.Environ()))
	}
	release, err := strconv.Atoi(args[1])
	if err != nil {
		return failed(err)
	}
	status, err := strconv.Atoi(args[2])
	if err != nil {
		return failed(err)
	}
	unix.CloseOnExec(release)
	unix.CloseOnExec(status)

	if _, err := unix.Write(status, []byte{0}); err != nil {
		return failed(err)
	}
	var b [1]byte
	n, err := unix.Read(release, b[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(release, b[:])
	}
	if err != nil {
		return failed(err)
	}
	if n == 0 { // the parent gave up or died
		return 1
	}

	path, argv := args[3], args[4:]
	err = syscall.Exec(path, argv, os.Environ())
	if errors.Is(err, unix.ENOEXEC) { // no #! line: POSIX has the shell run it
		err = syscall.Exec("/bin/sh", append([]string{"sh", path}, argv[1:]...), os.Environ())
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return failed(err)
	}
	if _, err := unix.Write(status, []byte(strconv.Itoa(int(errno)))); err != nil {
		return failed(err)
	}
	return StatusNotExecutable
}

func failed(err error) int {
	fmt.Fprintf(os.Stderr, "hotframe: start the command: %v\n", err)
	return StatusNotExecutable
}
