//go:build linux

package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	ExecIfWaiting()
	os.Exit(m.Run())
}

// start starts args and returns a function that waits for the end of its output.
func start(t *testing.T, c Config) (*Command, func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, w, w
	cmd, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, func() string {
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
}

// script writes an executable file.
func script(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStatus(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		status int
		output string
	}{
		{"success", []string{"true"}, 0, ""},
		{"own status", []string{"sh", "-c", "exit 3"}, 3, ""},
		{"killed", []string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{"arguments as they are", []string{"printf", "%s|", "", "a b", "--", "-x"}, 0, "|a b|--|-x|"},
		{"script without #! line", []string{script(t, "echo $1; exit 4\n", 0o755), "arg"}, 4, "arg\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd, output := start(t, Config{Args: tt.args})
			if err := cmd.Release(); err != nil {
				t.Fatal(err)
			}
			if status, err := cmd.Wait(); status != tt.status || err != nil {
				t.Errorf("Wait = %d, %v, want %d", status, err, tt.status)
			}
			if got := output(); got != tt.output {
				t.Errorf("output %q, want %q", got, tt.output)
			}
			if err := cmd.Signal(syscall.SIGTERM); err != nil {
				t.Errorf("Signal after the end = %v, want nothing to happen", err)
			}
		})
	}
}

func TestNotStarted(t *testing.T) {
	t.Setenv("PATH", "/nonexistent:"+os.Getenv("PATH"))
	tests := []struct {
		name, command string
		status        int
	}{
		{"not in $PATH", "no-such-command", StatusNotFound},
		{"no such file", "./no/such/file", StatusNotFound},
		{"below a file", "/dev/null/command", StatusNotFound},
		{"not executable", script(t, "#!/bin/sh\n", 0o644), StatusNotExecutable},
		{"directory", "/", StatusNotExecutable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd, err := Start(Config{Args: []string{tt.command}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
			var e *Error
			if cmd != nil || !errors.As(err, &e) || e.Status != tt.status {
				t.Fatalf("Start = %v, %v, want an Error with status %d", cmd, err, tt.status)
			}
			if !strings.Contains(e.Error(), strconv.Quote(tt.command)) {
				t.Errorf("error %q does not name the command", e)
			}
		})
	}
}

// TestExecFails has files that pass for executable until the kernel tries.
func TestExecFails(t *testing.T) {
	tests := []struct {
		name, content string
		want          error
	}{
		{"interpreter is missing", "#!/no/such/interpreter\n", syscall.ENOENT},
		{"interpreter is not executable", "#!/dev/null\n", syscall.EACCES},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd, output := start(t, Config{Args: []string{script(t, tt.content, 0o755)}})
			err := cmd.Release()
			var e *Error
			if !errors.As(err, &e) || e.Status != StatusNotExecutable || !errors.Is(err, tt.want) {
				t.Errorf("Release = %v, want %v", err, tt.want)
			}
			if got := output(); got != "" {
				t.Errorf("output %q, want none", got)
			}
		})
	}
}

func TestWaitsForRelease(t *testing.T) {
	proof := filepath.Join(t.TempDir(), "proof")
	cmd, output := start(t, Config{Args: []string{"sh", "-c", "echo $$ >" + proof}})
	// The one thread that perf events are opened on is the one that executes.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.PID))
	if err != nil || !bytes.HasPrefix(cmdline, []byte(waiting)) {
		t.Errorf("before Release pid %d runs %q, %v", cmd.PID, cmdline, err)
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("the command ran before Release")
	}
	if err := cmd.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	output()
	if got, err := os.ReadFile(proof); string(got) != strconv.Itoa(cmd.PID)+"\n" || err != nil {
		t.Errorf("the command ran as pid %q, %v, want %d", got, err, cmd.PID)
	}
}

func TestDiscard(t *testing.T) {
	proof := filepath.Join(t.TempDir(), "proof")
	cmd, output := start(t, Config{Args: []string{"touch", proof}})
	if err := cmd.Discard(); err != nil {
		t.Fatal(err)
	}
	if got := output(); got != "" {
		t.Errorf("output %q, want none", got)
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("the discarded command ran")
	}
}

func TestKilledWhileWaiting(t *testing.T) {
	cmd, _ := start(t, Config{Args: []string{"true"}})
	if err := cmd.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Release(); err != nil {
		t.Errorf("Release = %v, want Wait to tell", err)
	}
	if status, err := cmd.Wait(); status != 128+9 || err != nil {
		t.Errorf("Wait = %d, %v, want 137", status, err)
	}
}

// TestInheritance: environment, directory and descriptors are those of a plain child.
func TestInheritance(t *testing.T) {
	t.Setenv("HOTFRAME_TEST", "a b")
	extra, err := os.Open(script(t, "through\n", 0o644))
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	fd, err := syscall.Dup(int(extra.Fd())) // without FD_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)

	args := []string{"sh", "-c", fmt.Sprintf("echo $HOTFRAME_TEST; cat <&%d; ls /proc/$$/fd; pwd", fd)}

	cmd, output := start(t, Config{Args: args})
	if err := cmd.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := extra.Seek(0, io.SeekStart); err != nil { // fd shares its offset
		t.Fatal(err)
	}
	plain := exec.Command(args[0], args[1:]...)
	plain.Stdin, plain.Stderr = os.Stdin, os.Stderr
	want, err := plain.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := output(); got != string(want) || !strings.HasPrefix(got, "a b\nthrough\n0\n") {
		t.Errorf("output %q, want %q as without hotframe", got, want)
	}
}

func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	for _, name := range []string{"nobody", nobody.Uid} {
		cmd, output := start(t, Config{User: name, Args: []string{"sh", "-c",
			`id -u; id -g; id -G; echo "$HOME $USER $LOGNAME"`}})
		if err := cmd.Release(); err != nil {
			t.Fatal(err)
		}
		if _, err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%s\n%s\n%s\n%s nobody nobody\n", nobody.Uid, nobody.Gid, nobody.Gid, nobody.HomeDir)
		if got := output(); got != want {
			t.Errorf("as user %q the command printed %q, want %q", name, got, want)
		}
	}
}

func TestUserErrors(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	if _, _, err := identity("no-such-user"); err == nil || err.Error() != `no user "no-such-user"` {
		t.Errorf("unknown user: %v", err)
	}
	if _, _, err := identity(me.Username); err != nil {
		t.Errorf("the caller itself: %v", err)
	}
	if os.Geteuid() != 0 {
		if _, _, err := identity("root"); !errors.Is(err, syscall.EPERM) {
			t.Errorf("root as an ordinary user: %v, want EPERM", err)
		}
	}
}
