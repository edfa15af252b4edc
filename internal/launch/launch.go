//go:build linux

// Package launch starts a command that waits before its first instruction until
// it is released, so that perf events can be opened on it first.
//
// The process that waits is this executable under the name in waiting; it
// executes the command, which so keeps its pid and its one thread. That needs no
// ptrace, under which set-user-ID commands would lose their rights.
//
// Upstream: the command line. Downstream: the kernel.
package launch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit statuses of a shell for commands that cannot be run (POSIX XCU 2.8.2).
const (
	StatusNotExecutable = 126
	StatusNotFound      = 127
	statusSignal        = 128 // plus the signal's number
)

// An Error says why the command did not start, and the status to exit with.
type Error struct {
	Name   string
	Status int
	Err    error
}

func (e *Error) Error() string {
	if e.Status == StatusNotFound {
		return fmt.Sprintf("command %q not found", e.Name)
	}
	return fmt.Sprintf("run command %q: %v", e.Name, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Config is the command to start.
type Config struct {
	Args   []string // Args[0] is searched in $PATH
	User   string   // name or uid to run as; "" for the caller's
	Stdin  *os.File
	Stdout *os.File
	Stderr *os.File
}

// A Command is a started process. Wait may run in a goroutine of its own.
type Command struct {
	PID  int
	Path string // of the executable, found in $PATH

	name    string
	proc    *os.Process
	release *os.File // closed unreleased, it makes the process exit
	status  *os.File // one byte when waiting, then the errno of an execve that did not work, else EOF
}

// Start starts the process and returns when it waits for Release.
func Start(c Config) (*Command, error) {
	path, err := lookPath(c.Args[0])
	if err != nil {
		return nil, err
	}
	env, credential, err := identity(c.User)
	if err != nil {
		return nil, err
	}

	releaseR, releaseW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer releaseR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, releaseW.Close())
	}
	files, err := inherited()
	if err != nil {
		return nil, errors.Join(err, releaseW.Close(), statusR.Close(), statusW.Close())
	}
	copy(files, []uintptr{c.Stdin.Fd(), c.Stdout.Fd(), c.Stderr.Fd()})
	argv := slices.Concat(
		[]string{waiting, strconv.Itoa(len(files)), strconv.Itoa(len(files) + 1), path}, c.Args)
	files = append(files, releaseR.Fd(), statusW.Fd())

	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Credential: credential},
	})
	runtime.KeepAlive(c)
	err = errors.Join(err, statusW.Close()) // or its end would not be seen here
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a process for %q: %w", c.Args[0], err),
			releaseW.Close(), statusR.Close())
	}
	proc, err := os.FindProcess(pid) // of a child, which cannot be gone before Wait
	if err != nil {
		return nil, errors.Join(err, releaseW.Close(), statusR.Close())
	}
	cmd := &Command{PID: pid, Path: path, name: c.Args[0], proc: proc, release: releaseW, status: statusR}
	// ForkExec returns while the execve of the waiting process is still under way: an
	// event that is to begin with the next execve would begin with this one.
	if _, err := io.ReadFull(statusR, make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("start a process for %q: %w", c.Args[0], err), cmd.Discard())
	}
	return cmd, nil
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil || errors.Is(err, exec.ErrDot): // a $PATH with "." is the user's choice
		return path, nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return "", &Error{Name: name, Status: StatusNotFound, Err: err}
	}
	var ee *exec.Error
	if errors.As(err, &ee) {
		err = ee.Err
	}
	return "", &Error{Name: name, Status: StatusNotExecutable, Err: err}
}

// identity returns the environment and the credentials to run the command as a
// user with.
func identity(name string) ([]string, *syscall.Credential, error) {
	env := os.Environ()
	if name == "" {
		return env, nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("no user %q", name)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, nil, fmt.Errorf("user %q: uid: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, nil, fmt.Errorf("user %q: gid: %w", name, err)
	}
	env = slices.DeleteFunc(env, func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return key == "HOME" || key == "USER" || key == "LOGNAME"
	})
	env = append(env, "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username)
	if os.Geteuid() != 0 {
		if uint64(os.Geteuid()) == uid {
			return env, nil, nil
		}
		return nil, nil, fmt.Errorf("run as user %q: %w (needs root: use sudo)", name, syscall.EPERM)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, nil, fmt.Errorf("groups of user %q: %w", name, err)
	}
	groups := make([]uint32, len(ids))
	for i, id := range ids {
		g, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("groups of user %q: %w", name, err)
		}
		groups[i] = uint32(g)
	}
	return env, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: groups}, nil
}

// inherited lists the file descriptors that the command gets under the same
// numbers, as far as they are not closed on exec: whoever started this process
// may have opened some for it. The first three are for the caller to set.
func inherited() ([]uintptr, error) {
	const closed = ^uintptr(0)
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	files := []uintptr{closed, closed, closed}
	for _, e := range dir {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 { // an error: it was the directory's
			continue
		}
		for len(files) <= fd {
			files = append(files, closed)
		}
		files[fd] = uintptr(fd)
	}
	return files, nil
}

// Release lets the command begin. An Error means that it could not and that the
// process is gone.
func (c *Command) Release() error {
	_, err := c.release.Write([]byte{1})
	err = errors.Join(err, c.release.Close())
	if err != nil && !errors.Is(err, syscall.EPIPE) { // EPIPE: killed while it waited, as Wait will say
		return errors.Join(fmt.Errorf("release command %q: %w", c.name, err), c.Discard())
	}
	msg, err := io.ReadAll(io.LimitReader(c.status, 16))
	err = errors.Join(err, c.status.Close())
	if err != nil {
		return fmt.Errorf("release command %q: %w", c.name, err)
	}
	if len(msg) == 0 {
		return nil
	}
	if _, err := c.Wait(); err != nil {
		return err
	}
	errno, err := strconv.Atoi(string(msg))
	if err != nil {
		return fmt.Errorf("release command %q: %w", c.name, err)
	}
	e := &Error{Name: c.name, Status: StatusNotExecutable, Err: syscall.Errno(errno)}
	if errors.Is(e.Err, fs.ErrNotExist) { // the interpreter of a script, for one
		e.Err = fmt.Errorf("%w (or its interpreter)", e.Err)
	}
	return e
}

// Discard ends a process that is not to be released.
func (c *Command) Discard() error {
	err := errors.Join(c.release.Close(), c.status.Close())
	_, werr := c.Wait()
	return errors.Join(err, werr)
}

// Signal sends a signal to the command. It does nothing once the command was
// waited for.
func (c *Command) Signal(s os.Signal) error {
	if err := c.proc.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal command %q: %w", c.name, err)
	}
	return nil
}

// Wait waits for the end of the command, but not of its children, and returns
// its exit status as a shell would: 128 plus the signal that killed it.
func (c *Command) Wait() (int, error) {
	state, err := c.proc.Wait()
	if err != nil {
		return 0, fmt.Errorf("wait for command %q: %w", c.name, err)
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return statusSignal + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}
