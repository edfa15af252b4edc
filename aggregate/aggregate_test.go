package aggregate

import (
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"hotframe/sampler"
)

func TestNanoseconds(t *testing.T) {
	tests := []struct {
		name      string
		event     string
		frequency int
		period    uint64
		want      int64 // cpu/nanoseconds of one sample
	}{
		{"a clock's period is the time", "cpu-clock", 99, 10_101_010, 10_101_010},
		{"a clock whose tick was late", "cpu-clock", 99, 20_202_020, 20_202_020},
		{"a task's clock", "task-clock:u", 99, 7, 7},
		{"cycles say nothing of time, the frequency does", "cycles", 100, 34_000_000, 10_000_000},
		{"an event without a frequency", "cache-misses", 0, 1000, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := New(Config{Event: tt.event, Frequency: tt.frequency})
			s := sampler.Sample{Period: tt.period, Process: process(1), User: stack(sampler.StopFPEnd, text)}
			a.Add(&s)
			a.Add(&s)
			p := a.Flush(time.Unix(1, 0), sampler.Stats{}).Profile
			if got := p.Sample[0].Value; got[0] != 2 || got[1] != 2*tt.want {
				t.Errorf("two samples have values %d, want [2 %d]", got, 2*tt.want)
			}
		})
	}
}

func stats(ticks, emitted, idle, filtered uint64) sampler.Stats {
	st := sampler.Stats{Ticks: ticks}
	st.Outcomes[sampler.OutcomeEmitted] = emitted
	st.Outcomes[sampler.OutcomeIdle] = idle
	st.Outcomes[sampler.OutcomeFiltered] = filtered
	return st
}

// TestAccount: what Comm filters out is no longer emitted, and over all
// windows every tick is accounted for once.
func TestAccount(t *testing.T) {
	a := New(Config{Event: "cpu-clock", Frequency: 99, Comm: regexp.MustCompile("^keep$")})
	windows := []struct {
		name       string
		keep, drop int           // samples added
		source     sampler.Stats // since the source began
		want       sampler.Stats // of the window
	}{
		{"all read", 3, 2, stats(10, 5, 5, 0), stats(10, 3, 5, 2)},
		{"nothing happened", 0, 0, stats(10, 5, 5, 0), stats(0, 0, 0, 0)},
		{"six taken, of which two are still unread", 1, 3, stats(16, 11, 5, 0), stats(6, 3, 0, 3)},
		{"these two, none taken", 0, 2, stats(16, 11, 5, 0), stats(0, 0, 0, 0)},
		{"the two are filtered now, the kernel filtered one itself", 1, 0, stats(20, 14, 5, 1), stats(4, 1, 0, 3)},
	}
	for _, w := range windows {
		t.Run(w.name, func(t *testing.T) {
			p := process(1)
			for _, comm := range slices.Concat(slices.Repeat([]string{"keep"}, w.keep), slices.Repeat([]string{"drop"}, w.drop)) {
				a.Add(&sampler.Sample{Process: p, Comm: sampler.NewComm(comm), User: stack(sampler.StopFPEnd, text)})
			}
			r := a.Flush(time.Unix(1, 0), w.source)
			checkProfile(t, r.Profile, w.keep)
			if r.Stats != w.want {
				t.Errorf("account is %v, want %v", r.Stats, w.want)
			}
		})
	}
}

func TestWindows(t *testing.T) {
	start := time.Unix(1000, 0)
	a := New(Config{Event: "cpu-clock", Frequency: 99, Start: start})
	first := sampler.Sample{PID: 1, Process: process(1), User: stack(sampler.StopDepth, text, libc+1)}
	second := sampler.Sample{PID: 2, Process: process(2), Kernel: stack(sampler.StopKernel, kernel)}

	a.Add(&first)
	a.Add(&first)
	one := a.Flush(start.Add(10*time.Second), sampler.Stats{}).Profile
	a.Add(&second)
	two := a.Flush(start.Add(15*time.Second), sampler.Stats{}).Profile
	a.Add(&first)
	three := a.Flush(start.Add(14*time.Second), sampler.Stats{}).Profile // the clock was set back
	empty := a.Flush(start.Add(20*time.Second), sampler.Stats{}).Profile

	tests := []struct {
		name string
		got  string
		want string
	}{
		{"first", fmt.Sprint(one.TimeNanos, one.DurationNanos, len(one.Sample), one.Sample[0].Value[0], len(one.Location), len(one.Mapping), len(one.Function)),
			"1000000000000 10000000000 1 2 3 2 1"},
		{"nothing of the first is in the second", fmt.Sprint(two.TimeNanos, two.DurationNanos, len(two.Sample), two.Sample[0].Value[0], len(two.Location), len(two.Mapping), len(two.Function)),
			"1010000000000 5000000000 1 1 1 1 0"},
		{"a stack known to an older window is new, time does not run backwards", fmt.Sprint(three.TimeNanos, three.DurationNanos, len(three.Sample), three.Sample[0].Value[0], len(three.Location)),
			"1015000000000 0 1 1 3"},
		{"empty", fmt.Sprint(empty.TimeNanos, len(empty.Sample), len(empty.Location), len(empty.Mapping)),
			"1014000000000 0 0 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("window is %s, want %s", tt.got, tt.want)
			}
		})
	}
	if one.Sample[0].Value[0] != 2 || one.Sample[0].Location[0] == three.Sample[0].Location[0] {
		t.Error("a later window reaches into the first")
	}
	checkProfile(t, empty, 0)
}

func TestMainComesFirst(t *testing.T) {
	samples := []*sampler.Sample{
		{Process: process(1), Kernel: stack(sampler.StopKernel, kernel), User: stack(sampler.StopFPEnd, libc, text+1)},
	}
	tests := []struct {
		name, main string
		want       []string
	}{
		{"not named", "", []string{"[kernel.kallsyms]", "/lib/libc.so.6", "/bin/p"}},
		{"named", "/bin/p", []string{"/bin/p", "[kernel.kallsyms]", "/lib/libc.so.6"}},
		{"never hit", "/bin/other", []string{"[kernel.kallsyms]", "/lib/libc.so.6", "/bin/p"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := New(Config{Main: tt.main})
			for _, s := range samples {
				a.Add(s)
			}
			p := a.Flush(time.Unix(1, 0), sampler.Stats{}).Profile
			checkProfile(t, p, len(samples))
			var files []string
			for i, m := range p.Mapping {
				files = append(files, m.File)
				if m.ID != uint64(i+1) {
					t.Errorf("mapping %d has id %d", i, m.ID)
				}
			}
			if !slices.Equal(files, tt.want) {
				t.Errorf("mappings are %q, want %q", files, tt.want)
			}
		})
	}
}

// BenchmarkAdd counts samples of stacks that are known, as nearly all are.
func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		name := fmt.Sprint("stacks=", n)
		if n >= 1000 {
			name = fmt.Sprintf("stacks=%dk", n/1000)
		}
		b.Run(name, func(b *testing.B) {
			samples := benchmarkSamples(n)
			a := New(Config{Event: "cpu-clock", Frequency: 99})
			for i := range samples {
				a.Add(&samples[i])
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				a.Add(&samples[i])
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

// BenchmarkAddNew counts samples of stacks seen for the first time.
func BenchmarkAddNew(b *testing.B) {
	samples := benchmarkSamples(1000)
	b.ReportAllocs()
	for b.Loop() {
		a := New(Config{Event: "cpu-clock", Frequency: 99})
		for i := range samples {
			a.Add(&samples[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(samples)), "ns/stack")
}

// benchmarkSamples are 20 processes' stacks of 20 user and 10 kernel frames.
func benchmarkSamples(n int) []sampler.Sample {
	processes := make([]*sampler.Process, 20)
	for i := range processes {
		processes[i] = process(int32(i))
	}
	samples := make([]sampler.Sample, n)
	for i := range samples {
		user, kern := stack(sampler.StopFPEnd, text+sampler.Addr(i%4096)), stack(sampler.StopKernel, kernel+sampler.Addr(i))
		for f := range sampler.Addr(19) {
			user.Frames = append(user.Frames, libc+0x100*f+sampler.Addr(i%100)+1)
		}
		for f := range sampler.Addr(9) {
			kern.Frames = append(kern.Frames, kernel+0x100*f)
		}
		p := processes[i%len(processes)]
		samples[i] = sampler.Sample{
			PID: p.PID, TID: p.PID, Period: 10_101_010, Comm: sampler.NewComm("benchmark"),
			Cgroup: "/system.slice/benchmark.service", Kernel: kern, User: user, Process: p,
		}
	}
	return samples
}

func TestAddOfKnownStackAllocatesNothing(t *testing.T) {
	samples := benchmarkSamples(100)
	a := New(Config{Event: "cpu-clock", Frequency: 99, Comm: regexp.MustCompile("bench")})
	add := func() {
		for i := range samples {
			a.Add(&samples[i])
		}
	}
	add()
	if n := testing.AllocsPerRun(10, add); n != 0 {
		t.Errorf("100 samples of known stacks allocate %v times", n)
	}
}
