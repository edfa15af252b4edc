package summary

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/pprof/profile"

	"hotframe/internal/frames"
	"hotframe/internal/testutil"
	"hotframe/sampler"
	"hotframe/symbolize"
)

func outcomes(n map[sampler.Outcome]uint64) sampler.Stats {
	var st sampler.Stats
	for o, v := range n {
		st.Outcomes[o] = v
		if o != sampler.OutcomeUndelivered {
			st.Ticks += v
		}
	}
	return st
}

func TestSummaryText(t *testing.T) {
	usual := Summary{
		Target:    "the whole host",
		Info:      sampler.Info{Backend: "bpf", Event: "cpu-clock"},
		Frequency: 99,
		Took:      30*time.Second + 12*time.Millisecond,
		Stats:     outcomes(map[sampler.Outcome]uint64{sampler.OutcomeEmitted: 5432, sampler.OutcomeIdle: 6448}),
		Shares: Shares{Samples: 5432, Complete: 5432, Frames: 100_000, Named: 99_999,
			Unnamed: []Tally{{"no symbol in libfoo.so", 1}}, Time: 1000,
			Hottest: []Tally{{"runtime.memmove", 123}, {"std::vector<int>::push_back(int&&)", 99}}},
		Cost:    Cost{CPU: 413 * time.Millisecond, Memory: 40_100_000},
		Written: []Written{{"hotframe.svg", 123_456}, {"hotframe.folded", 789}},
	}
	lossy := usual
	lossy.Stats = outcomes(map[sampler.Outcome]uint64{
		sampler.OutcomeEmitted: 5000, sampler.OutcomeFiltered: 10, sampler.OutcomeLostRing: 40,
		sampler.OutcomeLostDecode: 8, sampler.OutcomeUndelivered: 12})
	lossy.Stats.SidebandLost = 3
	lossy.Shares.Complete = 4999
	lossy.Shares.Cut = []Tally{{"stack unreadable in cc1plus", 300}, {"no unwind information in \x1b", 133}}
	lossy.Shares.Unnamed = []Tally{{"a", 9000}, {"b", 700}, {"c", 60}, {"d", 5}}
	lossy.Reasons = []symbolize.Reason{{File: "/usr/bin/chromium", Text: symbolize.NoSymbol, Locations: 900},
		{File: "/tmp/gone", Text: "file is gone", Locations: 12}, {File: "[kernel.kallsyms]", Text: "addresses hidden", Locations: 9},
		{File: "/a\x1b", Text: "permission denied", Locations: 2}, {File: "/b", Text: "file was replaced", Locations: 1}}
	gaveUp := usual
	gaveUp.Info = sampler.Info{Backend: "perf", Event: "cycles", GaveUp: []string{"kernel stacks (needs CAP_PERFMON)"}}
	gaveUp.Target = "process 12,34"
	wrong := usual
	wrong.Stats.Ticks -= 7
	empty := Summary{Target: "thread 5", Info: usual.Info, Frequency: 1, Took: time.Second,
		Written: []Written{{"/dev/null", 0}}}
	hostile := usual
	hostile.Target = "the command \x1b]0;pwned\a"
	hostile.Shares.Hottest = []Tally{{"\x1b[2J\n\xff" + strings.Repeat("é", 1000), 1000}}

	tests := []struct {
		name string // of the golden file
		s    Summary
	}{
		{"usual", usual}, {"lossy", lossy}, {"gave-up", gaveUp}, {"account-off", wrong}, {"empty", empty}, {"hostile", hostile},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			testutil.Golden(t, tt.s.Text(), tt.name+".txt")
		})
	}
}

// stack makes a sample of frames, leaf first; "k:" marks those of the kernel, and
// "|" joins those inlined into the next.
func stack(samples int64, names ...string) *profile.Sample {
	kernel := &profile.Mapping{ID: 1, File: "[kernel.kallsyms]"}
	user := &profile.Mapping{ID: 2, File: "/bin/prog"}
	s := &profile.Sample{Value: []int64{samples, 10 * samples}}
	for _, name := range names {
		l := &profile.Location{Mapping: user}
		if rest, ok := strings.CutPrefix(name, "k:"); ok {
			name, l.Mapping = rest, kernel
		}
		for part := range strings.SplitSeq(name, "|") {
			l.Line = append(l.Line, profile.Line{Function: &profile.Function{Name: part}})
		}
		s.Location = append(s.Location, l)
	}
	return s
}

func TestMeasure(t *testing.T) {
	p := &profile.Profile{Sample: []*profile.Sample{
		stack(3, "k:copy", "read", "main", "_start"),
		stack(1, "inlined|f", "main", "[unknown: no frame pointer]"),
		stack(2, "[libfoo.so]"),
		stack(4, "read", "[unknown]", "clone3"),
	}}
	want := Shares{
		Samples:  10,
		Complete: 9, // the third by its unwind information
		Frames:   3*4 + 1*4 + 2 + 4*3,
		Named:    3*4 + 1*3 + 0 + 4*2,
		Unnamed:  []Tally{{"unknown", 4}, {"no symbol in libfoo.so", 2}, {"no frame pointer", 1}},
		Time:     100,
		Cut:      []Tally{{"no frame pointer in prog", 1}},
		Hottest:  []Tally{{"read", 40}, {"copy", 30}, {"[libfoo.so]", 20}, {"inlined", 10}},
	}
	got := Measure(p, map[*profile.Sample]bool{p.Sample[2]: true}, ProgramRoot)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Measure:\n got %+v\nwant %+v", got, want)
	}
}

func TestMeasureEmpty(t *testing.T) {
	p := &profile.Profile{Sample: []*profile.Sample{{Value: []int64{2, 20}}}} // without a location
	got := Measure(p, nil, ProgramRoot)
	if got.Samples != 2 || got.Complete != 0 || got.Frames != 0 || len(got.Hottest) != 0 {
		t.Errorf("Measure of a sample without stack: %+v", got)
	}
}

func TestTopBreaksTiesByName(t *testing.T) {
	got := top(map[string]int64{"c": 1, "a": 1, "b": 2, "d": 1}, 3)
	want := []Tally{{"b", 2}, {"a", 1}, {"c", 1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("top = %v, want %v", got, want)
	}
}

func TestRoots(t *testing.T) {
	const user, kernel = "/bin/prog", "[kernel.kallsyms]"
	tests := []struct {
		name, mapping      string
		complete, kernelOf bool // kernelOf: in a profile without user stacks
	}{
		{"_start", user, true, true},
		{"_start@@Base", user, true, true},
		{"__libc_start_main@@GLIBC_2.34", user, true, true},
		{"clone3", user, true, true},
		{"runtime.goexit.abi0", user, true, true},
		{"main", user, false, false},
		{"[unknown: no frame pointer]", "", false, false},
		{"[prog]", user, false, false},
		{"ret_from_fork_asm", kernel, true, true},
		{"common_startup_64", kernel, true, true},
		{"ret_from_fork", user, false, false}, // a name that a program chose
		{"clone", kernel, false, false},
		// A system call of a thread whose user stack is missing.
		{"entry_SYSCALL_64_after_hwframe", kernel, false, true},
		{"asm_sysvec_apic_timer_interrupt", kernel, false, true},
		{"el0t_64_sync", kernel, false, true},
		{"do_syscall_64", kernel, false, false},
	}
	for _, tt := range tests {
		f := frames.Frame{Name: tt.name, Mapping: tt.mapping}
		if got := ProgramRoot(f); got != tt.complete {
			t.Errorf("a stack from %s in %s is complete: %v, want %v", tt.name, tt.mapping, got, tt.complete)
		}
		if got := KernelRoot(f); got != tt.kernelOf {
			t.Errorf("a kernel stack from %s in %s is complete: %v, want %v", tt.name, tt.mapping, got, tt.kernelOf)
		}
	}
}

func TestPercentIsNeverRoundedUp(t *testing.T) {
	tests := []struct {
		n, of int64
		want  string
	}{
		{9999, 10000, "99.9 %"},
		{10000, 10000, "100.0 %"},
		{0, 5, "0.0 %"},
		{1, 5000, "<0.1 %"},
		{1, 3, "33.3 %"},
		{0, 0, "- %"},
	}
	for _, tt := range tests {
		if got := percent(tt.n, tt.of); got != tt.want {
			t.Errorf("percent(%d, %d) = %q, want %q", tt.n, tt.of, got, tt.want)
		}
	}
}

// FuzzPrintable: whatever a process calls its functions, the terminal gets one short
// line of printable text, and different names stay different.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"main", "\x1b[2J", "a\nb", "\xff\xfe", "é\u202e", "\uFFFD", strings.Repeat("x", 500)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(got) {
			t.Errorf("printable(%q) = %q", s, got)
		}
		if len(got) > 200*len(`\U0010ffff`)+len("...") {
			t.Errorf("printable of %d bytes has %d", len(s), len(got))
		}
		if !strings.Contains(s, `\`) {
			if back, err := strconv.Unquote(`"` + strings.ReplaceAll(Escape(s), `"`, `\"`) + `"`); err != nil || back != s {
				t.Errorf("Escape(%q) = %q, which stands for %q, %v", s, Escape(s), back, err)
			}
		}
	})
}
