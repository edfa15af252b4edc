package sampler

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-perf"
	"golang.org/x/sys/unix"
)

func TestParseEvent(t *testing.T) {
	for _, name := range EventNames() {
		if e, err := ParseEvent(name); err != nil || e.Name != name {
			t.Errorf("ParseEvent(%q) = %v, %v", name, e, err)
		}
	}
	if e, err := ParseEvent(""); err != nil || e.Name != "auto" {
		t.Errorf(`ParseEvent("") = %v, %v; want auto`, e, err)
	}
}

func TestParseEventSuggests(t *testing.T) {
	tests := []struct{ in, first string }{
		{"cylces", "cycles"},
		{"cpuclock", "cpu-clock"},
		{"instruction", "instructions"},
		{"context-switch", "context-switches"},
		{"branch-miss", "branch-misses"},
		{"cpu", "cpu-clock"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			_, err := ParseEvent(tt.in)
			if err == nil || !strings.Contains(err.Error(), "known are "+tt.first+", ") {
				t.Errorf("ParseEvent(%q) = %v, want %q as the first name", tt.in, err, tt.first)
			}
		})
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"abc", "", 3}, {"", "abc", 3}, {"abc", "abc", 0},
		{"abc", "abd", 1}, {"abc", "ac", 1}, {"kitten", "sitting", 3},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestEventAttr(t *testing.T) {
	tests := []struct {
		event  string
		freq   bool
		sample uint64
	}{
		{"cpu-clock", false, 10101010}, // a fixed period: 1e9/99 ns
		{"task-clock", false, 10101010},
		{"cycles", true, 99},
		{"page-faults", true, 99},
	}
	for _, tt := range tests {
		t.Run(tt.event, func(t *testing.T) {
			e, err := ParseEvent(tt.event)
			if err != nil {
				t.Fatal(err)
			}
			a := e.attr(99)
			if a.Options.Freq != tt.freq || a.Sample != tt.sample || !a.Options.Disabled ||
				!a.Options.UseClockID || a.ClockID != unix.CLOCK_MONOTONIC {
				t.Errorf("attr = %+v", a)
			}
		})
	}
}

// TestAuto: what auto stands for can be opened here, unless nothing can.
func TestAuto(t *testing.T) {
	e := Event{Name: eventAuto}.resolve()
	if e.Name != "cycles" && e.Name != "cpu-clock" {
		t.Fatalf("auto is %q", e.Name)
	}
	a := e.attr(99)
	a.Options.ExcludeKernel = true
	ev, err := openEvent(&a, perf.CallingThread, perf.AnyCPU)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := ev.Close(); err != nil {
		t.Error(err)
	}
}

// TestExplainOpen: each error names what to do.
func TestExplainOpen(t *testing.T) {
	tests := []struct {
		name     string
		err      error
		pid, cpu int
		want     []string
	}{
		{"no such process", unix.ESRCH, 4711, 0, []string{"process 4711 does not exist"}},
		{"all CPUs", unix.EACCES, perf.AllThreads, 0, []string{"CAP_PERFMON", "kernel.perf_event_paranoid <= 0"}},
		{"a process", unix.EPERM, 4711, 0, []string{"CAP_PERFMON", "kernel.perf_event_paranoid"}},
		{"too many open files", unix.EMFILE, 1, 0, []string{"ulimit -n, from "}},
		{"no PMU", unix.ENOENT, 1, 0, []string{"does not count that event", "cpu-clock"}},
		{"anything else", unix.EINVAL, 1, 3, []string{"cpu 3"}},
		{"a CPU that is offline", unix.ENODEV, perf.AllThreads, 3, []string{"cpu 3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := explainOpen(os.NewSyscallError("perf_event_open", tt.err), tt.pid, tt.cpu)
			if !errors.Is(got, tt.err) {
				t.Errorf("%v does not wrap %v", got, tt.err)
			}
			for _, want := range tt.want {
				if !strings.Contains(got.Error(), want) {
					t.Errorf("%q lacks %q", got, want)
				}
			}
		})
	}
}

func TestOpenEventOfNoProcess(t *testing.T) {
	e, err := ParseEvent("cpu-clock")
	if err != nil {
		t.Fatal(err)
	}
	a := e.attr(99)
	a.Options.ExcludeKernel = true
	const none = 1<<22 + 1 // above the largest pid_max
	_, err = openEvent(&a, none, perf.AnyCPU)
	if err == nil || !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOSYS) {
		t.Errorf("openEvent = %v, want that the process does not exist", err)
	}
}

func TestCheckFrequency(t *testing.T) {
	limit, err := sysctl("perf_event_max_sample_rate")
	if err != nil {
		t.Skip(err)
	}
	if err := checkFrequency(limit); err != nil {
		t.Error(err)
	}
	if err := checkFrequency(limit + 1); err == nil || !strings.Contains(err.Error(), "perf_event_max_sample_rate") {
		t.Errorf("checkFrequency(%d) = %v", limit+1, err)
	}
}

func TestOpenTasks(t *testing.T) {
	self := int32(os.Getpid())
	var opened []int32
	open := func(tid int32) error {
		opened = append(opened, tid)
		return nil
	}
	if err := openTasks(Target{PIDs: []int32{self}}, open); err != nil || !slices.Contains(opened, self) {
		t.Errorf("openTasks = %v, opened %v", err, opened)
	}
	seen := make(map[int32]bool)
	for _, tid := range opened {
		if seen[tid] {
			t.Errorf("thread %d is opened twice", tid)
		}
		seen[tid] = true
	}
	err := openTasks(Target{PIDs: []int32{1<<22 + 1}}, open)
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("openTasks of no process = %v", err)
	}
	err = openTasks(Target{PIDs: []int32{self}}, func(tid int32) error {
		if tid != self {
			return unix.ESRCH // it ended
		}
		return nil
	})
	if err != nil {
		t.Errorf("openTasks with threads that end = %v", err)
	}
}

// TestMapRingHalves: a user who may not lock that much memory gets a smaller ring.
func TestMapRingHalves(t *testing.T) {
	e, err := ParseEvent("cpu-clock")
	if err != nil {
		t.Fatal(err)
	}
	a := e.attr(99)
	a.Options.ExcludeKernel = true
	ev, err := openEvent(&a, perf.CallingThread, perf.AnyCPU)
	if err != nil {
		t.Skip(err)
	}
	defer ev.Close()
	const pages = 1 << 16 // 256 MiB
	got, err := mapRing(ev, pages)
	if err != nil || got < 1 || got&(got-1) != 0 {
		t.Fatalf("mapRing = %d, %v", got, err)
	}
	if mlock, err := sysctl("perf_event_mlock_kb"); os.Geteuid() != 0 && err == nil && mlock < 4096 && got == pages {
		t.Errorf("mapRing = %d pages, though kernel.perf_event_mlock_kb is %d", got, mlock)
	}
}
