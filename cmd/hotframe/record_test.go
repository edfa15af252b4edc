//go:build linux

package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"hotframe/sampler"
)

func TestDefaultOutputs(t *testing.T) {
	a, src, stdout, stderr := testApp(t)
	var log strings.Builder
	src.log = &log
	if status := a.run(context.Background(), []string{"record", "-d", "1ms"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if got := files(t); got != "hotframe.folded hotframe.pb.gz hotframe.svg" {
		t.Errorf("left %q", got)
	}
	for _, name := range strings.Fields(files(t)) {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
			t.Errorf("%s: %v, %v, want content and mode 600 for a profile of the whole host", name, info, err)
		}
	}
	if stdout.Len() > 0 || !strings.Contains(stderr.String(), "hotframe.folded (") {
		t.Errorf("stdout %q, stderr %q, want a summary on stderr", stdout, stderr)
	}
	if strings.Contains(stderr.String(), "\r") {
		t.Errorf("progress in %q, which is no terminal", stderr)
	}
	if log.String() != "opened\nstopped\nclosed\n" {
		t.Errorf("source saw %q", log.String())
	}

	f, err := os.Open("hotframe.pb.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Parse(z)
	if err != nil {
		t.Fatal(err)
	}
	if p.CheckValid() != nil || len(p.Sample) != 1 || p.Sample[0].Value[0] != fakeSamples {
		t.Errorf("profile is %v", p)
	}
	if !slices.Contains(p.Comments, "frequency: 99 Hz") {
		t.Errorf("comments %q lack the frequency", p.Comments)
	}
}

func TestStandardOutput(t *testing.T) {
	a, _, stdout, stderr := testApp(t)
	if status := a.run(context.Background(), []string{"record", "-d", "1ms", "-o", "-", "--format", "folded"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if !strings.HasPrefix(stdout.String(), "busy;") || strings.Count(stdout.String(), "\n") != 1 {
		t.Errorf("stdout %q, want folded stacks only", stdout)
	}
	if got := files(t); got != "" {
		t.Errorf("left %q", got)
	}
}

func TestNoBinaryOnTerminal(t *testing.T) {
	a, _, stdout, stderr := testApp(t)
	a.terminal = func(io.Writer) bool { return true }
	status := a.run(context.Background(), []string{"record", "-d", "1ms", "-o", "-", "--format", "pprof"})
	if status != statusUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), "not for a terminal") {
		t.Errorf("exit status %d, stdout %q: %s", status, stdout, stderr)
	}
}

func TestComm(t *testing.T) {
	a, _, _, stderr := testApp(t)
	if status := a.run(context.Background(), []string{"record", "-d", "1ms", "--comm", "^idle$", "-o", "x.folded"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if want := "120 = 0 emitted + 20 idle + 100 filtered out\n"; !strings.Contains(stderr.String(), want) {
		t.Errorf("summary %q lacks %q", stderr, want)
	}
}

// TestFailures: one line on stderr, status 1, and no new file; what was there stays.
func TestFailures(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Skip(err)
	}
	tests := []struct {
		name, args string
		change     func(a *app, src *fakeSource)
		want       string // begin of the message
	}{
		{name: "pid that does not exist", args: "-p " + strconv.Itoa(gone.Process.Pid), want: "no process or thread has the id "},
		{name: "tid that does not exist", args: "-t 2147483647", want: "no process or thread has the id 2147483647\n"},
		{name: "cpu that is not online", args: "-C 60000", want: "cpu 60000 is not online\n"},
		{name: "cgroup that does not exist", args: "--cgroup /no/such", want: "no cgroup \"/no/such\"\n"},
		{name: "directory that does not exist", args: "-o none/x.svg", want: "create none/x.svg: no such file or directory\n"},
		{name: "second output cannot be created", args: "-o new.svg -o none/x.svg", want: "create none/x.svg: no such file or directory\n"},
		{name: "output is a directory", args: "-o dir.svg", want: "create dir.svg: is a directory\n"},
		{name: "output is a symbolic link", args: "-o link.svg", want: "create link.svg: is a symbolic link; "},
		{name: "disk full", args: "-o new.pb.gz -o full.svg", want: "flame graph: write full.svg: no space left on device\n"},
		{name: "unknown user", args: "--user no-such-user -- true", want: "no user \"no-such-user\"\n"},
		{name: "source fails on the way", args: "-d 0", change: func(_ *app, src *fakeSource) { src.name = "broken" },
			want: "read samples: the ring is broken\n"},
		{name: "no rights", change: func(a *app, _ *fakeSource) { a.openBPF = denied("load the BPF program") },
			want: "sampling the whole host is not permitted (load the BPF program: operation not permitted; perf_event_open: operation not permitted): use sudo, "},
		{name: "no rights, as the process knows", change: func(a *app, _ *fakeSource) {
			a.openBPF = denied("a long story")
			a.mayLoadBPF = func() bool { return false }
			a.openPerf = func(sampler.Config) (sampler.Source, error) {
				return nil, errors.Join(unix.EACCES, unix.EACCES, unix.EACCES)
			}
		}, want: "sampling the whole host is not permitted (BPF needs CAP_BPF and CAP_PERFMON: operation not permitted; " +
			"permission denied): use sudo, "},
		{name: "no rights for BPF, which was asked for", args: "--backend bpf",
			change: func(a *app, _ *fakeSource) { a.openPerf, a.openBPF = a.openBPF, denied("load the BPF program") },
			want:   "sampling the whole host is not permitted (load the BPF program: operation not permitted): use sudo, "},
		{name: "BPF fails for another reason than rights", change: func(a *app, _ *fakeSource) {
			a.openPerf, a.openBPF = a.openBPF, func(sampler.Config) (sampler.Source, error) { return nil, unix.ENOMEM }
		}, want: "cannot allocate memory\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, src, _, stderr := testApp(t)
			if err := os.WriteFile("hotframe.svg", []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir("dir.svg", 0o777); err != nil {
				t.Fatal(err)
			}
			for name, target := range map[string]string{"link.svg": "hotframe.svg", "full.svg": "/dev/full"} {
				if err := os.Symlink(target, name); err != nil {
					t.Fatal(err)
				}
			}
			before := files(t)
			if tt.change != nil {
				tt.change(a, src)
			}
			status := a.run(context.Background(), append([]string{"record", "-d", "1ms"}, strings.Fields(tt.args)...))
			if status != statusFailure {
				t.Errorf("exit status %d, want %d", status, statusFailure)
			}
			if got := stderr.String(); !strings.HasPrefix(got, "hotframe: "+tt.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("stderr %q, want one line that begins with %q", got, "hotframe: "+tt.want)
			}
			if got := files(t); got != before {
				t.Errorf("left %q, want %q", got, before)
			}
			if got, err := os.ReadFile("hotframe.svg"); string(got) != "old" {
				t.Errorf("hotframe.svg holds %q, %v, want what it held", got, err)
			}
		})
	}
}

func TestFallsBackToPerf(t *testing.T) {
	a, src, _, stderr := testApp(t)
	a.openPerf, a.openBPF = a.openBPF, denied("load the BPF program")
	src.info = sampler.Info{Backend: "perf", Event: "cpu-clock", GaveUp: []string{"kernel stacks", "other users' processes"}}
	if status := a.run(context.Background(), []string{"record", "-d", "1ms"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	for _, want := range []string{
		"hotframe: no BPF here (load the BPF program: operation not permitted): perf rings are used instead\n",
		"  gave up  kernel stacks\n",
		"  gave up  other users' processes\n",
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, stderr)
		}
	}
}

// TestEndsByItself: a recording without a limit ends with what it records.
func TestEndsByItself(t *testing.T) {
	t.Run("source has no more samples", func(t *testing.T) {
		a, src, _, stderr := testApp(t)
		src.name = "ends"
		if status := a.run(context.Background(), []string{"record", "-d", "0"}); status != 0 || files(t) == "" {
			t.Errorf("exit status %d: %s", status, stderr)
		}
	})
	t.Run("process exits", func(t *testing.T) {
		a, _, _, stderr := testApp(t)
		sleep := exec.Command("sleep", "0.2")
		if err := sleep.Start(); err != nil {
			t.Skip(err)
		}
		go sleep.Wait()
		if status := a.run(context.Background(), []string{"record", "-d", "0", "-p", strconv.Itoa(sleep.Process.Pid)}); status != 0 || files(t) == "" {
			t.Errorf("exit status %d: %s", status, stderr)
		}
	})
	t.Run("caller cancels", func(t *testing.T) {
		a, _, _, stderr := testApp(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if status := a.run(ctx, []string{"record", "-d", "0"}); status != 0 || files(t) == "" {
			t.Errorf("exit status %d: %s", status, stderr)
		}
	})
}

func TestCommandStatus(t *testing.T) {
	const all = "hotframe.folded hotframe.pb.gz hotframe.svg"
	tests := []struct {
		name    string
		args    []string
		status  int
		files   string
		message string // begin of stderr
	}{
		{"success", []string{"true"}, 0, all, "hotframe: cpu-clock at 99 Hz on the command true for "},
		{"own status", []string{"sh", "-c", "exit 3"}, 3, all, "hotframe: cpu-clock at "},
		{"killed", []string{"sh", "-c", "kill -TERM $$"}, 128 + 15, all, "hotframe: cpu-clock at "},
		{"flags of its own", []string{"sh", "-c", `exit $#`, "-d", "-F"}, 1, all, "hotframe: cpu-clock at "},
		{"not found", []string{"no-such-command"}, 127, "", "hotframe: command \"no-such-command\" not found\n"},
		{"not executable", []string{"/"}, 126, "", "hotframe: run command \"/\": "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, src, _, stderr := testApp(t)
			status := a.run(context.Background(), append([]string{"record", "--"}, tt.args...))
			if status != tt.status {
				t.Errorf("exit status %d, want %d: %s", status, tt.status, stderr)
			}
			if got := files(t); got != tt.files {
				t.Errorf("left %q, want %q", got, tt.files)
			}
			if !strings.HasPrefix(stderr.String(), tt.message) {
				t.Errorf("stderr %q, want it to begin with %q", stderr, tt.message)
			}
			if started := tt.files != ""; started != (src.config.Target.Command > 0) {
				t.Errorf("sampled command %d, started: %v", src.config.Target.Command, started)
			}
		})
	}
}

// TestExecFailure: the kernel finds out only after the sampling began.
func TestExecFailure(t *testing.T) {
	a, src, _, stderr := testApp(t)
	var log strings.Builder
	src.log = &log
	if err := os.WriteFile("script", []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	status := a.run(context.Background(), []string{"record", "--", "./script"})
	if status != 126 || files(t) != "script" || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("exit status %d, left %q: %s", status, files(t), stderr)
	}
	if log.String() != "opened\nclosed\n" {
		t.Errorf("source saw %q", log.String())
	}
}

// TestNoRightsForCommand: the command must not run unsampled.
func TestNoRightsForCommand(t *testing.T) {
	a, _, _, stderr := testApp(t)
	a.openBPF = denied("load the BPF program")
	status := a.run(context.Background(), []string{"record", "--", "touch", "ran"})
	if status != statusFailure || files(t) != "" || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("exit status %d, left %q: %s", status, files(t), stderr)
	}
}

func TestModeAndOwner(t *testing.T) {
	defer unix.Umask(unix.Umask(0o022))
	owner := func(name string) string {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o777)
	}
	me := fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
	sudoer := me
	if os.Geteuid() == 0 {
		sudoer = "1234:5678"
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"whole host", []string{"-d", "1ms"}, sudoer + " 600"},
		{"process", []string{"-d", "1ms", "-p", strconv.Itoa(os.Getpid())}, sudoer + " 600"},
		{"whole host while a command runs", []string{"-a", "--", "true"}, sudoer + " 600"},
		{"command", []string{"--", "true"}, sudoer + " 644"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, _, _, stderr := testApp(t)
			env := map[string]string{"SUDO_UID": "1234", "SUDO_GID": "5678"}
			a.getenv = func(k string) string { return env[k] }
			if status := a.run(context.Background(), append([]string{"record", "-o", "x.svg"}, tt.args...)); status != 0 {
				t.Fatalf("exit status %d: %s", status, stderr)
			}
			if got := owner("x.svg"); got != tt.want {
				t.Errorf("file is %s, want %s", got, tt.want)
			}
		})
	}
}

func TestProgressLine(t *testing.T) {
	a, _, _, stderr := testApp(t)
	a.terminal = func(io.Writer) bool { return true }
	if status := a.run(context.Background(), []string{"record", "-d", "1100ms"}); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if c := "\x1b[K"; strings.Count(stderr.String(), c) != 2 {
		t.Errorf("stderr %q, want one line of progress and its removal", stderr)
	}
	want := "\r1s of 1.1s, 100 samples, 0 lost\x1b[K\r\x1b[K"
	if got := stderr.String(); !strings.HasPrefix(got, want) {
		t.Errorf("stderr begins with %q, want %q", got[:min(len(got), 60)], want)
	}
}
