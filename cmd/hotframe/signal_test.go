//go:build linux

package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A child is this test binary running as hotframe with a fake source.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *bufio.Reader
	said   bytes.Buffer // what was read of stderr
}

// startChild runs it in the working directory of the test.
func startChild(t *testing.T, source string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command("/proc/self/exe", args...)}
	c.cmd.Env = append(os.Environ(), fakeEnv+"="+source)
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill() })
	c.stdin, c.stdout, c.stderr = stdin, bufio.NewReader(stdout), bufio.NewReader(stderr)
	return c
}

// expect reads lines up to one that contains text.
func (c *child) expect(r *bufio.Reader, text string) {
	c.t.Helper()
	for {
		line, err := r.ReadString('\n')
		if r == c.stderr {
			c.said.WriteString(line)
		}
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			c.t.Fatalf("no %q: %v; it said:\n%s", text, err, &c.said)
		}
	}
}

func (c *child) signal(s unix.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// status waits for the end and returns the exit status, -1 when it was killed.
func (c *child) status() int {
	c.t.Helper()
	if _, err := io.Copy(&c.said, c.stderr); err != nil {
		c.t.Fatal(err)
	}
	c.cmd.Wait() // the status says it
	return c.cmd.ProcessState.ExitCode()
}

func TestFirstSignalEndsTheRecording(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			t.Chdir(t.TempDir())
			c := startChild(t, "fake", "record", "-d", "0", "-o", "x.folded")
			c.expect(c.stderr, "opened")
			c.signal(s)
			if status := c.status(); status != 0 || files(t) != "x.folded" {
				t.Errorf("exit status %d, left %q:\n%s", status, files(t), &c.said)
			}
		})
	}
}

func TestSecondSignalAborts(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "stuck", "record", "-d", "0", "-o", "x.folded")
	c.expect(c.stderr, "opened")
	c.signal(unix.SIGINT)
	c.expect(c.stderr, "stopped")
	c.signal(unix.SIGINT)
	if status := c.status(); status != statusAborted || files(t) != "" {
		t.Errorf("exit status %d, want %d; left %q:\n%s", status, statusAborted, files(t), &c.said)
	}
}

// TestSignalWhileOpening: nobody reads the FIFO, so there is nothing to complete.
func TestSignalWhileOpening(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := unix.Mkfifo("fifo.svg", 0o600); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, "fake", "record", "-d", "0", "-o", "new.folded", "-o", "fifo.svg")
	for !strings.Contains(files(t), ".tmp") { // of new.folded, just before the FIFO
		time.Sleep(time.Millisecond)
	}
	c.signal(unix.SIGINT)
	if status := c.status(); status != statusAborted || files(t) != "fifo.svg" {
		t.Errorf("exit status %d, left %q:\n%s", status, files(t), &c.said)
	}
}

func TestTerminationReachesTheCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "fake", "record", "-o", "x.folded", "--", "sh", "-c",
		`trap "exit 7" TERM; echo up; while :; do sleep 0.02; done`)
	c.expect(c.stdout, "up")
	c.signal(unix.SIGTERM)
	if status := c.status(); status != 7 || files(t) != "x.folded" {
		t.Errorf("exit status %d, left %q:\n%s", status, files(t), &c.said)
	}
}

func TestInterruptIsNotDoubled(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "fake", "record", "-o", "x.folded", "--", "cat")
	c.expect(c.stderr, "opened")
	if _, err := io.WriteString(c.stdin, "up\n"); err != nil {
		t.Fatal(err)
	}
	c.expect(c.stdout, "up")
	c.signal(unix.SIGINT)
	c.expect(c.stderr, "waiting for the command to exit")
	if got := files(t); got != "x.folded" {
		t.Errorf("left %q while it waits, want the artefact", got)
	}
	c.stdin.Close()
	if status := c.status(); status != 0 {
		t.Errorf("exit status %d: the command got the signal\n%s", status, &c.said)
	}
}

func TestCommandOutlivesTheRecording(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "fake", "record", "-d", "1ms", "-o", "x.folded", "--", "sh", "-c", "read line; exit 3")
	c.expect(c.stderr, "waiting for the command to exit")
	c.stdin.Close()
	if status := c.status(); status != 3 || files(t) != "x.folded" {
		t.Errorf("exit status %d, left %q:\n%s", status, files(t), &c.said)
	}
}

// TestFailureWhileCommandRuns: the failure is told at once, and wins over the command's status.
func TestFailureWhileCommandRuns(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "broken", "record", "-o", "x.folded", "--", "sh", "-c", "read line; exit 0")
	c.expect(c.stderr, "read samples: the ring is broken")
	c.expect(c.stderr, "waiting for the command to exit")
	c.stdin.Close()
	if status := c.status(); status != statusFailure || files(t) != "" {
		t.Errorf("exit status %d, left %q:\n%s", status, files(t), &c.said)
	}
}

// TestCommandGetsDefaultSignals: hotframe ignores two signals, its command does not.
func TestCommandGetsDefaultSignals(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "fake", "record", "-o", "x.folded", "--", "grep", "SigIgn", "/proc/self/status")
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(own), line) {
		t.Errorf("the command has %q, hotframe was started with others:\n%s", line, own)
	}
	if status := c.status(); status != 0 {
		t.Errorf("exit status %d:\n%s", status, &c.said)
	}
}

func TestCommandOutputMakesRoomForTheProfile(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startChild(t, "fake", "record", "--format", "folded", "-o", "-", "--", "echo", "from the command")
	out, err := io.ReadAll(c.stdout)
	if err != nil {
		t.Fatal(err)
	}
	if status := c.status(); status != 0 || !strings.HasPrefix(string(out), "busy;") {
		t.Errorf("exit status %d, stdout %q, want folded stacks", status, out)
	}
	if !strings.Contains(c.said.String(), "from the command\n") {
		t.Errorf("stderr %q lacks what the command wrote", &c.said)
	}
}

func TestClosedPipe(t *testing.T) {
	t.Chdir(t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := exec.Command("/proc/self/exe", "record", "-d", "1ms", "-o", "x.svg", "-o", "-", "--format", "folded")
	cmd.Env = append(os.Environ(), fakeEnv+"=fake")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	err = cmd.Run()
	if cmd.ProcessState.ExitCode() != statusFailure || files(t) != "" ||
		!strings.Contains(stderr.String(), "hotframe: write standard output: broken pipe\n") {
		t.Errorf("%v, left %q:\n%s", err, files(t), &stderr)
	}
}

func TestFileSizeLimit(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("x.folded", []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sh, "-c", `ulimit -f 0; exec "$0" record -d 1ms -o new.svg -o x.folded`, exe)
	cmd.Env = append(os.Environ(), fakeEnv+"=fake")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != statusFailure || !strings.Contains(string(out), ": file too large\n") {
		t.Errorf("%v, want exit status %d for a file too large:\n%s", err, statusFailure, out)
	}
	if got, err := os.ReadFile("x.folded"); files(t) != "x.folded" || string(got) != "old" {
		t.Errorf("left %q, x.folded holds %q, %v", files(t), got, err)
	}
}
