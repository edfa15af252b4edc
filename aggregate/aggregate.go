// Package aggregate counts Samples into an unsymbolized pprof profile.
//
// Upstream: sampler. Downstream: symbolize.
package aggregate

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
	"hotframe/sampler"
)

// Config says what the samples are, and which of them count.
type Config struct {
	Host, Kernel string         // the machine's name and its kernel's release
	Event        string         // of the samples, as perf names it
	Frequency    int            // samples a second on one CPU
	Start        time.Time      // of the first window
	Comm         *regexp.Regexp // threads whose name does not match are filtered out; nil keeps all
	Main         string         // path of the profiled program, whose Mapping comes first; "" where there is none
}

// A Recording is what was counted between two Flushes.
type Recording struct {
	Profile *profile.Profile                  // unsymbolized, CheckValid() == nil
	Objects map[*profile.Mapping]*object.File // the files behind Profile.Mapping
	Bottoms map[*profile.Sample]bool          // those whose stack reaches the thread's bottom by its unwind information
	Stats   sampler.Stats                     // of this window, with what Config.Comm filtered out
}

// An Aggregator counts samples. Its methods are called from one goroutine.
type Aggregator struct {
	config   Config
	isClock  bool // the event counts ns, so a sample's Period is its share of cpu/nanoseconds
	interval int64

	window    *window
	start     time.Time // of the window
	before    sampler.Stats
	unmatched uint64 // samples that Comm filtered out and no Recording accounts for yet
	matches   map[sampler.Comm]bool
}

// New returns an Aggregator whose first window begins at c.Start.
func New(c Config) *Aggregator {
	a := &Aggregator{
		config:  c,
		window:  newWindow(),
		start:   c.Start,
		matches: make(map[sampler.Comm]bool),
	}
	event, _, _ := strings.Cut(c.Event, ":") // modifiers, as in cpu-clock:u
	a.isClock = event == "cpu-clock" || event == "task-clock"
	if c.Frequency > 0 {
		a.interval = int64(time.Second) / int64(c.Frequency)
	}
	return a
}

// Add counts one sample and keeps nothing of *s but what it points to. It
// allocates nothing for a stack that the window knows.
func (a *Aggregator) Add(s *sampler.Sample) {
	if a.config.Comm != nil && !a.match(s.Comm) {
		a.unmatched++
		return
	}
	ns := a.interval
	if a.isClock {
		ns = int64(s.Period)
	}
	counted := a.window.sample(s)
	counted.Value[0]++
	counted.Value[1] += ns
}

// match asks Config.Comm once for every name in a window.
func (a *Aggregator) match(c sampler.Comm) bool {
	m, known := a.matches[c]
	if !known {
		m = a.config.Comm.MatchString(c.String())
		a.matches[c] = m
	}
	return m
}

// Flush returns what was added since the last Flush and begins a new window
// at end. st is the source's account since it began.
func (a *Aggregator) Flush(end time.Time, st sampler.Stats) *Recording {
	r := &Recording{Bottoms: a.window.bottoms, Stats: a.account(st)}
	r.Profile, r.Objects = a.window.finish(a.config.Main)

	p := r.Profile
	p.SampleType = []*profile.ValueType{
		{Type: "samples", Unit: "count"},
		{Type: "cpu", Unit: "nanoseconds"},
	}
	p.DefaultSampleType = "cpu"
	p.PeriodType = &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	p.Period = a.interval
	p.TimeNanos = a.start.UnixNano()
	p.DurationNanos = max(0, end.Sub(a.start).Nanoseconds())
	p.Comments = a.comments(time.Duration(p.DurationNanos), &r.Stats)

	a.window = newWindow()
	a.start = end
	clear(a.matches)
	return r
}

// account is what became of the ticks since the last Flush. The kernel counts
// a sample before Add sees it, so one window's filtered samples may only be
// found in the next; they move from emitted to filtered as far as there are any.
func (a *Aggregator) account(st sampler.Stats) sampler.Stats {
	d := st
	d.Ticks -= a.before.Ticks
	for o, n := range a.before.Outcomes {
		d.Outcomes[o] -= n
	}
	d.SidebandLost -= a.before.SidebandLost
	a.before = st

	moved := min(a.unmatched, d.Outcomes[sampler.OutcomeEmitted])
	a.unmatched -= moved
	d.Outcomes[sampler.OutcomeEmitted] -= moved
	d.Outcomes[sampler.OutcomeFiltered] += moved
	return d
}

func (a *Aggregator) comments(d time.Duration, st *sampler.Stats) []string {
	lines := []string{
		"host: " + clean(a.config.Host),
		"kernel: " + clean(a.config.Kernel),
		"event: " + a.config.Event,
		fmt.Sprintf("frequency: %d Hz", a.config.Frequency),
		fmt.Sprintf("duration: %v", d),
		fmt.Sprintf("ticks: %d", st.Ticks),
	}
	for _, o := range sampler.Outcomes() {
		name := o.String()
		if o.Lost() {
			name = "lost, " + name
		}
		lines = append(lines, fmt.Sprintf("%s: %d", name, st.Outcomes[o]))
	}
	return append(lines, fmt.Sprintf("process records lost: %d", st.SidebandLost))
}
