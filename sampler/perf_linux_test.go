package sampler

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hotframe/internal/testutil"
)

// openPerf opens the perf backend, or skips the test where perf events are not
// permitted at all.
func openPerf(t *testing.T, c Config) Source {
	t.Helper()
	src, err := OpenPerf(c)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		if level, perr := perfEventParanoid(); perr != nil || level > 2 {
			t.Skip(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

// readAll reads samples to the end and checks the account.
func readAll(t *testing.T, src Source) []Sample {
	t.Helper()
	var all []Sample
	for {
		var s Sample
		err := src.Read(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if s.Process == nil {
			t.Fatalf("sample without process: %+v", s)
		}
		all = append(all, s)
	}
	st := src.Stats()
	var sum uint64
	for o, n := range st.Outcomes {
		if Outcome(o) != OutcomeUndelivered {
			sum += n
		}
	}
	if sum != st.Ticks || st.Outcomes[OutcomeEmitted] != uint64(len(all)) {
		t.Errorf("account of %d samples: %+v", len(all), st)
	}
	return all
}

// waiting starts a program that waits for release before it executes.
func waiting(t *testing.T, args ...string) (cmd *exec.Cmd, release func()) {
	t.Helper()
	cmd = exec.Command("/bin/sh", append([]string{"-c", `read -r line; exec "$@"`, "sh"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, func() { in.Write([]byte("\n")) }
}

// functions counts samples by the name of the function at the leaf, which is
// one of the program's or "elsewhere".
func functions(t *testing.T, program string, samples []Sample) map[string]int {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	name := func(s *Sample) string {
		if s.User == nil {
			return "elsewhere"
		}
		m := s.Process.Lookup(s.User.Frames[0])
		if m == nil || filepath.Base(m.Path) != filepath.Base(program) {
			return "elsewhere"
		}
		off := uint64(s.User.Frames[0]-m.Start) + m.Offset
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && p.Off <= off && off < p.Off+p.Filesz {
				addr := off - p.Off + p.Vaddr
				for _, sym := range symbols {
					if elf.ST_TYPE(sym.Info) == elf.STT_FUNC && sym.Value <= addr && addr < sym.Value+sym.Size {
						return sym.Name
					}
				}
			}
		}
		return "elsewhere"
	}
	counts := make(map[string]int)
	for i := range samples {
		counts[name(&samples[i])]++
	}
	return counts
}

// testProgram is testutil.Program, or what TestUnprivileged compiled for its child.
func testProgram(t *testing.T, source string) string {
	if dir := os.Getenv("SAMPLER_TEST_PROGRAMS"); dir != "" {
		return filepath.Join(dir, strings.TrimSuffix(source, ".c"))
	}
	return testutil.Program(t, source, "-pthread", "-fno-omit-frame-pointer")
}

// TestPerfCommand samples a command from its exec on until it ends.
func TestPerfCommand(t *testing.T) {
	const hz = 499
	program := testProgram(t, "shares.c")
	cmd, release := waiting(t, program, "1")
	src := openPerf(t, Config{Event: "cpu-clock", Frequency: hz, Target: Target{Command: int32(cmd.Process.Pid)}})
	release()
	samples := readAll(t, src)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	counts := functions(t, program, samples)
	own := counts["hot"] + counts["warm"] + counts["cool"]
	// CPU time includes what a hypervisor took away, when no tick comes.
	expected := int(cmd.ProcessState.UserTime().Seconds() * hz)
	t.Logf("%d samples of %d expected, by function: %v; %+v", len(samples), expected, counts, src.Info())
	if own < expected*6/10 || own < len(samples)*9/10 || len(samples) > expected*12/10+hz/10 {
		t.Errorf("%d samples in the program's functions of %d, expected %d: %v", own, len(samples), expected, counts)
	}
	if share := float64(counts["hot"]) / float64(own); share < 0.6 || share > 0.8 {
		t.Errorf("%.2f of the samples are in hot, want 0.7", share)
	}
	last := uint64(0)
	stacks := make(map[*Stack]bool)
	for _, s := range samples {
		if s.PID != int32(cmd.Process.Pid) || s.Comm.String() != "shares" && s.Comm.String() != "sh" || s.Period == 0 || s.Time < last {
			t.Fatalf("sample %+v", s)
		}
		last = s.Time
		if s.User != nil {
			stacks[s.User] = true
		}
	}
	if len(stacks) > len(samples)*9/10 {
		t.Errorf("%d stacks in %d samples: equal ones are not shared", len(stacks), len(samples))
	}
	if p := samples[len(samples)-1].Process; p.Exe != program {
		t.Errorf("process %s, want %s", describe(p), program)
	}
}

// waitForThread waits until a process has a thread of that name.
func waitForThread(t *testing.T, pid int, comm string) {
	t.Helper()
	for range 500 {
		names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == comm {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d has no thread %q", pid, comm)
}

// TestPerfProcess samples a process with several threads that runs already.
func TestPerfProcess(t *testing.T) {
	program := testProgram(t, "threads.c")
	cmd := exec.Command(program, "2")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	waitForThread(t, cmd.Process.Pid, "gamma delta") // the last one
	src := openPerf(t, Config{Event: "cpu-clock", Frequency: 499, MaxDepth: 1, Target: Target{PIDs: []int32{int32(cmd.Process.Pid)}}})
	samples := readAll(t, src)
	byComm := make(map[string]int)
	for _, s := range samples {
		byComm[s.Comm.String()]++
		if s.User != nil && len(s.User.Frames) > 1 {
			t.Errorf("a stack of %d frames, more than MaxDepth", len(s.User.Frames))
		}
	}
	// On a busy machine one of them may not have run since.
	if threads := byComm["alpha"] + byComm["beta"] + byComm["gamma delta"]; len(byComm) < 2 || threads < len(samples)*9/10 {
		t.Errorf("samples by thread: %v", byComm)
	}
	counts := functions(t, program, samples)
	if own := counts["alpha_work"] + counts["beta_work"] + counts["gamma_work"]; own < len(samples)*9/10 {
		t.Errorf("by function: %v", counts)
	}
}

// TestPerfThread samples one thread of a process.
func TestPerfThread(t *testing.T) {
	cmd := exec.Command(testProgram(t, "threads.c"), "1.5")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	var tid int32
	for range 250 { // until beta has its name
		time.Sleep(5 * time.Millisecond)
		tids, err := newThreads("/").fs.TIDs(int32(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range tids {
			if comm, err := newThreads("/").fs.Comm(int32(cmd.Process.Pid), id); err == nil && comm == "beta" {
				tid = id
			}
		}
		if tid != 0 {
			break
		}
	}
	if tid == 0 {
		t.Fatal("there is no thread beta")
	}
	samples := readAll(t, openPerf(t, Config{Event: "cpu-clock", Frequency: 499, Target: Target{TIDs: []int32{tid}}}))
	if len(samples) == 0 {
		t.Fatal("no samples")
	}
	for _, s := range samples {
		if s.TID != tid || s.Comm.String() != "beta" {
			t.Fatalf("sample of thread %d %q, want %d", s.TID, s.Comm, tid)
		}
	}
}

// TestPerfExec: one process that executes another program is two images.
func TestPerfExec(t *testing.T) {
	program := testProgram(t, "exec.c")
	cmd, release := waiting(t, program, "0.6")
	src := openPerf(t, Config{Event: "cpu-clock", Frequency: 499, Target: Target{Command: int32(cmd.Process.Pid)}})
	release()
	samples := readAll(t, src)
	byExe := make(map[string]int)
	for _, s := range samples {
		byExe[filepath.Base(s.Process.Exe)]++
	}
	if byExe["exec"] == 0 || byExe["second"] == 0 || byExe["exec"]+byExe["second"] < len(samples)*8/10 {
		t.Errorf("samples by executable: %v", byExe)
	}
}

func TestPerfErrors(t *testing.T) {
	tests := []struct {
		name   string
		config Config
		want   string
	}{
		{"unknown event", Config{Event: "cpu"}, `unknown event "cpu"; known are cpu-clock`},
		{"no such process", Config{Target: Target{PIDs: []int32{1<<22 + 1}}}, "process 4194305 does not exist"},
		{"no such thread", Config{Target: Target{TIDs: []int32{1<<22 + 1}}}, "thread 4194305 does not exist"},
		{"frequency", Config{Frequency: 1e9}, "perf_event_max_sample_rate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src, err := OpenPerf(tt.config)
			if err == nil {
				src.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q lacks %q", err, tt.want)
			}
		})
	}
}

// nobody is the user and group without any rights on most systems.
const nobody = 65534

// TestUnprivileged runs the tests above as the user nobody, who has no rights
// at all, where this is root.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the other tests run without privileges")
	}
	if level, err := perfEventParanoid(); err != nil || level > 2 {
		t.Skipf("kernel.perf_event_paranoid is %d, %v", level, err)
	}
	dir, err := os.MkdirTemp("", "sampler")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/proc/self/exe", filepath.Join(dir, "sampler.test"))
	for _, source := range []string{"shares.c", "threads.c", "exec.c"} {
		program := testProgram(t, source)
		copyFile(t, program, filepath.Join(dir, filepath.Base(program)))
	}
	cmd := exec.Command(filepath.Join(dir, "sampler.test"), "-test.v", "-test.run=^(TestPerf.*|TestAllCPUsNeedRights|TestMapRing.*)$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SAMPLER_TEST_PROGRAMS="+dir, "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: TestPerfCommand") {
		t.Error("TestPerfCommand did not run")
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(to, nobody, nobody); err != nil { // exec.c makes a link to itself
		t.Fatal(err)
	}
}

// TestAllCPUsNeedRights: without rights there is one error that says what to do.
func TestAllCPUsNeedRights(t *testing.T) {
	src, err := OpenPerf(Config{Event: "cpu-clock"})
	if err == nil {
		src.Close()
		t.Skip("they are permitted here")
	}
	for _, want := range []string{"CAP_PERFMON", "kernel.perf_event_paranoid <= 0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

// TestPerfHost samples all CPUs while short processes come and go.
func TestPerfHost(t *testing.T) {
	if os.Getenv("SAMPLER_TEST_PROGRAMS") != "" {
		t.Skip("needs rights")
	}
	testutil.NeedPrivileges(t)
	program := testProgram(t, "churn.c")
	src := openPerf(t, Config{Event: "cpu-clock", Frequency: 999})
	go func() {
		if out, err := exec.Command(program, "200", "1").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if err := src.Stop(); err != nil {
			t.Error(err)
		}
	}()
	samples := readAll(t, src)
	st := src.Stats()
	var mine, named int
	pids := make(map[int32]bool)
	for _, s := range samples {
		if s.Comm.String() != "churn" && filepath.Base(s.Process.Exe) != "churn" {
			continue
		}
		mine++
		pids[s.PID] = true
		if s.Process.Exe == program {
			named++
		}
	}
	inChild := functions(t, program, samples)["churn_child"]
	t.Logf("%d samples, %d of %d processes of churn, %d named, %d in churn_child; %+v", len(samples), mine, len(pids), named, inChild, st)
	if len(pids) < 50 || inChild < 50 || named < mine*95/100 {
		t.Errorf("%d samples of %d processes, %d named, %d in churn_child", mine, len(pids), named, inChild)
	}
	for _, s := range samples {
		if s.PID == 0 && s.User == nil {
			t.Fatalf("an idle sample: %+v", s)
		}
	}
}

// TestPerfStackHalves: what of the stacks is left away is left away everywhere.
func TestPerfStackHalves(t *testing.T) {
	program := testProgram(t, "threads.c")
	for _, c := range []Config{{NoKernel: true}, {NoUser: true}} {
		cmd, release := waiting(t, program, "0.2")
		c.Event, c.Frequency, c.Target = "cpu-clock", 499, Target{Command: int32(cmd.Process.Pid)}
		src := openPerf(t, c)
		release()
		samples := readAll(t, src)
		if len(samples) == 0 {
			t.Error("no samples")
		}
		for _, s := range samples {
			if c.NoKernel && s.Kernel != nil || c.NoUser && s.User != nil {
				t.Fatalf("config %+v: sample %+v", c, s)
			}
		}
	}
}
