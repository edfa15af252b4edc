//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"hotframe/internal/testutil"
)

// The tests of this file run the built binary on programs whose stacks and shares are known.

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hotframe-e2e")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hotframe")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, os.Chmod(dir, 0o755)
})

func binary(t *testing.T) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// An outcome is what one run of the binary left.
type outcome struct {
	profile *profile.Profile
	folded  []string
	svg     []byte
	summary string
	files   []string
}

// recordRun runs `hotframe record` with args and reads its three artefacts.
func recordRun(t *testing.T, args ...string) outcome {
	t.Helper()
	testutil.NeedPrivileges(t)
	dir := t.TempDir()
	r := outcome{files: []string{filepath.Join(dir, "out.pb.gz"), filepath.Join(dir, "out.folded"), filepath.Join(dir, "out.svg")}}
	all := []string{"record"}
	for _, f := range r.files {
		all = append(all, "-o", f)
	}
	cmd := exec.Command(binary(t), append(all, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("hotframe %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	r.read(t)
	r.summary = stderr.String()
	return r
}

// read parses the artefacts.
func (r *outcome) read(t *testing.T) {
	t.Helper()
	f, err := os.Open(r.files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r.profile, err = profile.Parse(f); err != nil {
		t.Fatal(err)
	}
	folded, err := os.ReadFile(r.files[1])
	if err != nil {
		t.Fatal(err)
	}
	r.folded = slices.Collect(strings.Lines(string(folded)))
	if r.svg, err = os.ReadFile(r.files[2]); err != nil {
		t.Fatal(err)
	}
}

// stacks yields the folded stacks, root first without the comm, with their counts.
func (r *outcome) stacks(t *testing.T, comm string, yield func(frames []string, n int)) {
	t.Helper()
	for _, line := range r.folded {
		line = strings.TrimSuffix(line, "\n")
		i := strings.LastIndexByte(line, ' ')
		n, err := strconv.Atoi(line[i+1:])
		if err != nil {
			t.Fatalf("folded line %q: %v", line, err)
		}
		frames := strings.Split(line[:i], ";")
		if frames[0] == comm {
			yield(frames[1:], n)
		}
	}
}

// samples sums the profile's samples.
func (r *outcome) samples() (n int64) {
	for _, s := range r.profile.Sample {
		n += s.Value[0]
	}
	return n
}

// comment finds the number in the first comment that the pattern's group matches.
func (r *outcome) comment(t *testing.T, pattern string) int64 {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for _, c := range r.profile.Comments {
		if m := re.FindStringSubmatch(c); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no comment matches %q in %q", pattern, r.profile.Comments)
	return 0
}

var frameFlags = []string{"-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"}

func TestSharesAreMeasuredWithinSamplingError(t *testing.T) {
	prog := testutil.Program(t, "shares.c", frameFlags...)
	r := recordRun(t, "-F", "999", "--", prog, "3")
	count := map[string]int{}
	total := 0
	r.stacks(t, "shares", func(frames []string, n int) {
		total += n
		for _, f := range []string{"hot", "warm", "cool"} {
			if slices.Contains(frames, f) {
				count[f] += n
			}
		}
	})
	for name, want := range map[string]float64{"hot": 0.7, "warm": 0.2, "cool": 0.1} {
		got := float64(count[name]) / float64(total)
		// Five standard deviations of a binomial share.
		if tolerance := 5 * math.Sqrt(want*(1-want)/float64(total)); math.Abs(got-want) > tolerance {
			t.Errorf("%s has %.1f %% of %d samples, want %.0f ± %.1f %%", name, 100*got, total, 100*want, 100*tolerance)
		}
	}
}

func TestDeepStackIsWholeAndInOrder(t *testing.T) {
	prog := testutil.Program(t, "deep.c", frameFlags...)
	for _, tt := range []struct {
		name          string
		depth, frames int // frames of the recursion expected in one stack
		truncated     bool
	}{
		{"as deep as programs are", 100, 100, false},
		{"deeper than the other profilers go", 400, 400, false},
		{"beyond the limit is marked", 2000, 500, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := recordRun(t, "-F", "499", "--", prog, strconv.Itoa(tt.depth), "1")
			good, all := 0, 0
			r.stacks(t, "deep", func(frames []string, n int) {
				levels, marked := 0, false
				for _, f := range frames {
					if f == "recurse" {
						levels++
					}
					marked = marked || f == "[unknown: max depth]"
				}
				if levels == 0 {
					return // start-up
				}
				all += n
				if levels >= tt.frames && marked == tt.truncated {
					good += n
				}
			})
			if all < 50 || float64(good) < 0.95*float64(all) {
				t.Errorf("%d of %d samples hold the %d levels (marked as cut: %v), want 95 %%", good, all, tt.frames, tt.truncated)
			}
		})
	}
}

// The same without frame pointers, as distributions build programs: down to _start.
func TestStacksWithoutFramePointers(t *testing.T) {
	prog := testutil.Program(t, "deep.c", "-fomit-frame-pointer", "-fno-optimize-sibling-calls")
	for _, depth := range []int{10, 400} {
		t.Run(strconv.Itoa(depth), func(t *testing.T) {
			r := recordRun(t, "-F", "499", "--", prog, strconv.Itoa(depth), "1.5")
			good, all := 0, 0
			r.stacks(t, "deep", func(frames []string, n int) {
				if !slices.Contains(frames, "bottom") {
					return // start-up
				}
				all += n
				want := append([]string{"main"}, slices.Repeat([]string{"recurse"}, depth)...)
				i := slices.Index(frames, "main")
				if frames[0] == "_start" && i > 0 && len(frames) > i+depth+1 && slices.Equal(frames[i:i+depth+1], want) && frames[i+depth+1] == "bottom" {
					good += n
				}
			})
			if all < 50 || float64(good) < 0.99*float64(all) {
				t.Errorf("%d of %d samples are whole, want 99 %%", good, all)
			}
		})
	}
}

func TestEveryTickIsAccountedFor(t *testing.T) {
	busy := testutil.Program(t, "deep.c", frameFlags...)
	for _, hz := range []int{99, 1000, 10000} {
		t.Run(fmt.Sprintf("%d Hz", hz), func(t *testing.T) {
			for range runtime.NumCPU() {
				c := exec.Command(busy, "20", "60")
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				defer c.Wait()
				defer c.Process.Kill()
			}
			r := recordRun(t, "-d", "3s", "-F", strconv.Itoa(hz))
			ticks := r.comment(t, `^ticks: (\d+)`)
			sum := int64(0)
			for _, o := range []string{"emitted", "idle", "filtered out", "lost, ring buffer full", "lost, undecodable record"} {
				sum += r.comment(t, "^"+o+`: (\d+)`)
			}
			if sum != ticks {
				t.Errorf("outcomes sum to %d, ticks are %d", sum, ticks)
			}
			if emitted := r.comment(t, `^emitted: (\d+)`); emitted != r.samples() {
				t.Errorf("%d ticks emitted, %d samples in the profile", emitted, r.samples())
			}
			late := r.comment(t, `^lost, not delivered by the kernel: (\d+)`)
			due := int64(3 * hz * runtime.NumCPU())
			if got := ticks + late; got < due*95/100 || got > due*120/100 {
				t.Errorf("%d ticks and %d not delivered in 3 s, about %d were due", ticks, late, due)
			}
		})
	}
}

func TestShortProcessesAreNamed(t *testing.T) {
	prog := testutil.Program(t, "churn.c", frameFlags...)
	r := recordRun(t, "-a", "-F", "999", "-d", "4s", "--", prog, "500", "4")
	named, all := 0, 0
	r.stacks(t, "churn", func(frames []string, n int) {
		user := slices.DeleteFunc(slices.Clone(frames), func(f string) bool { return strings.HasSuffix(f, "_[k]") })
		if len(user) == 0 {
			return
		}
		all += n
		if !strings.HasPrefix(user[len(user)-1], "[unknown") {
			named += n
		}
	})
	if all < 50 || float64(named) < 0.95*float64(all) {
		t.Errorf("%d of %d samples of short processes have a named user leaf, want 95 %%", named, all)
	}
}

func TestKernelFramesAreNamed(t *testing.T) {
	prog := testutil.Program(t, "syscalls.c", frameFlags...)
	r := recordRun(t, "-F", "999", "--", prog, "2")
	kernel, named, both := 0, 0, 0
	r.stacks(t, "syscalls", func(frames []string, n int) {
		if i := slices.IndexFunc(frames, func(f string) bool { return strings.HasSuffix(f, "_[k]") }); i >= 0 {
			kernel += n
			if i > 0 {
				both += n
			}
			if leaf := frames[len(frames)-1]; !strings.HasPrefix(leaf, "[") && !strings.HasPrefix(leaf, "0x") {
				named += n
			}
		}
	})
	if kernel < 50 || named < kernel || float64(both) < 0.95*float64(kernel) {
		t.Errorf("of %d samples in the kernel %d are named and %d have their user half", kernel, named, both)
	}
}

func TestStrippedGoProgramHasNames(t *testing.T) {
	prog := testutil.Program(t, "gowork.go", "-ldflags=-s -w")
	r := recordRun(t, "-F", "999", "--", prog, "2")
	named, all := 0, 0
	r.stacks(t, "gowork", func(frames []string, n int) {
		all += n
		if slices.ContainsFunc(frames, func(f string) bool { return strings.HasPrefix(f, "main.") || strings.HasPrefix(f, "runtime.") }) {
			named += n
		}
	})
	if all < 100 || float64(named) < 0.95*float64(all) {
		t.Errorf("%d of %d samples of a stripped Go program have Go names", named, all)
	}
}

func TestDeletedAndReplacedBinaries(t *testing.T) {
	built := testutil.Program(t, "shares.c", frameFlags...)
	for _, tt := range []struct {
		name    string
		disturb func(path string) error
	}{
		{"deleted while it runs", os.Remove},
		{"replaced while it runs", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("\x7fELF but not really"), 0o755)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testutil.NeedPrivileges(t)
			content, err := os.ReadFile(built)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(path, content, 0o755); err != nil {
				t.Fatal(err)
			}
			c := exec.Command(path, "30")
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer c.Wait()
			defer c.Process.Kill()
			time.Sleep(200 * time.Millisecond)
			if err := tt.disturb(path); err != nil {
				t.Fatal(err)
			}
			r := recordRun(t, "-F", "499", "-d", "1s", "-p", strconv.Itoa(c.Process.Pid))
			named, all := 0, 0
			r.stacks(t, "victim", func(frames []string, n int) {
				all += n
				if slices.Contains(frames, "hot") || slices.Contains(frames, "warm") || slices.Contains(frames, "cool") {
					named += n
				}
			})
			if all < 50 || float64(named) < 0.95*float64(all) {
				t.Errorf("%d of %d samples are named", named, all)
			}
		})
	}
}

func TestCgroupTarget(t *testing.T) {
	testutil.NeedPrivileges(t)
	mount := cgroup2(t)
	dir := filepath.Join(mount, fmt.Sprintf("hotframe-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	busy := testutil.Program(t, "deep.c", frameFlags...)
	inside, outside := exec.Command(busy, "10", "60"), exec.Command(busy, "10", "60")
	for _, c := range []*exec.Cmd{inside, outside} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer c.Wait()
		defer c.Process.Kill()
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(inside.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	r := recordRun(t, "-F", "499", "-d", "1s", "--cgroup", dir)
	for _, s := range r.profile.Sample {
		if pid := s.Label["pid"]; !slices.Equal(pid, []string{strconv.Itoa(inside.Process.Pid)}) {
			t.Fatalf("sample of pid %v in the profile of a cgroup that holds %d", pid, inside.Process.Pid)
		}
		if got, want := s.Label["cgroup"], "/"+filepath.Base(dir); !slices.Equal(got, []string{want}) {
			t.Fatalf("cgroup label %v, want %s", got, want)
		}
	}
	if r.samples() < 50 { // 499 are due on a CPU of its own
		t.Errorf("%d samples of a busy cgroup", r.samples())
	}
}

func cgroup2(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("no cgroup2 mount")
	return ""
}

func TestCommandIsProfiledFromItsFirstInstruction(t *testing.T) {
	// 20 ms of CPU in all: a profiler that attaches late sees nothing of it.
	prog := testutil.Program(t, "shares.c", frameFlags...)
	r := recordRun(t, "-F", "9999", "--", prog, "0.02")
	start, work := 0, 0
	r.stacks(t, "shares", func(frames []string, n int) {
		work += n
		for _, f := range frames {
			if strings.HasPrefix(f, "[ld-linux") || strings.Contains(f, "dl_start") || strings.Contains(f, "execve") {
				start += n
				return
			}
		}
	})
	if start == 0 || work < 100 {
		t.Errorf("%d samples, of which %d in exec and the dynamic loader; want both", work, start)
	}
}

func TestExecChangesTheName(t *testing.T) {
	prog := testutil.Program(t, "exec.c", frameFlags...)
	r := recordRun(t, "-F", "999", "--", prog, "2")
	comms := map[string]int64{}
	for _, s := range r.profile.Sample {
		comms[strings.Join(s.Label["comm"], "")] += s.Value[0]
	}
	if len(comms) < 2 {
		t.Errorf("a program that execs itself under a second name has the comms %v", comms)
	}
}

func TestHostileNamesStayData(t *testing.T) {
	prog := testutil.Program(t, "hostile.c", frameFlags...)
	r := recordRun(t, "-F", "499", "-a", "-d", "2s", "--", prog, "2", "</b>;\n\x1b\xff<\"")
	if len(r.folded) == 0 {
		t.Fatal("no folded lines")
	}
	for _, line := range r.folded {
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(c rune) bool { return c < ' ' || c == 0x7f }) {
			t.Errorf("control byte in folded line %q", line)
		}
	}
	if bytes.Contains(r.svg, []byte("<script>alert")) || bytes.Contains(r.svg, []byte("</script><script")) {
		t.Error("a hostile name is markup in the SVG")
	}
	if err := wellFormed(r.svg); err != nil {
		t.Errorf("the SVG is not well-formed: %v", err)
	}
}

func TestUnprivilegedUserRecordsOwnCommand(t *testing.T) {
	testutil.NeedPrivileges(t) // to become that user
	prog := testutil.Program(t, "shares.c", frameFlags...)
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for d := filepath.Dir(prog); d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out.folded")
	cmd := exec.Command(binary(t), "record", "-F", "499", "-o", out, "--", prog, "2")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	level, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Run()
	if n, _ := strconv.Atoi(strings.TrimSpace(string(level))); n > 2 {
		if err == nil || !strings.Contains(stderr.String(), "perf_event_paranoid") {
			t.Errorf("at perf_event_paranoid %d: %v, %s", n, err, stderr.String())
		}
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	folded, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	r := outcome{folded: slices.Collect(strings.Lines(string(folded)))}
	hot, all := 0, 0
	r.stacks(t, "shares", func(frames []string, n int) {
		all += n
		if slices.Contains(frames, "hot") {
			hot += n
		}
	})
	if all < 300 || hot < all/2 { // CPU time is what the program ends by: all of it is due
		t.Errorf("%d samples, %d in hot; about 1000 and 700 were due\n%s", all, hot, stderr.String())
	}
}

func TestInterruptKeepsTheData(t *testing.T) {
	testutil.NeedPrivileges(t)
	out := filepath.Join(t.TempDir(), "out.folded")
	cmd := exec.Command(binary(t), "record", "-d", "60s", "-o", out)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	said, _ := io.ReadAll(stderr)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("artefact of a whole host: %v, mode %v, want 0600", err, st.Mode())
	}
}

// wellFormed reads all of an XML document.
func wellFormed(doc []byte) error {
	d := xml.NewDecoder(bytes.NewReader(doc))
	for {
		if _, err := d.Token(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
