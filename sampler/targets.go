//go:build linux

package sampler

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/elastic/go-perf"
	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
)

// onlineCPUs are those of the target's CPUs that are online.
func (t *Target) onlineCPUs() ([]int, error) {
	online, err := proc.FS("/").OnlineCPUs()
	if err != nil || len(t.CPUs) == 0 {
		return online, err
	}
	return slices.DeleteFunc(online, func(cpu int) bool { return !slices.Contains(t.CPUs, cpu) }), nil
}

// checkCPUs reports the first of the target's CPUs that is not online.
func (t *Target) checkCPUs() error {
	online, err := t.onlineCPUs()
	if err != nil {
		return err
	}
	for _, cpu := range t.CPUs {
		if !slices.Contains(online, cpu) {
			return fmt.Errorf("cpu %d is not online", cpu)
		}
	}
	return nil
}

// samplingEvents are the events that run the BPF program on each tick: one for
// each CPU, or for each task of the target.
type samplingEvents struct {
	name   string
	attr   perf.Attr
	target Target
	period uint64 // ns, 0 for events that are no clocks
	prog   uint32 // descriptor of the BPF program

	wantIdle bool // ticks of idle CPUs are samples
	cgroup   *os.File
	open     []samplingEvent

	idleBefore map[int]time.Duration // of each CPU, when sampling began
	idleTotal  map[int]time.Duration // idle time from then to when it ended
}

type samplingEvent struct {
	*perf.Event
	cpu int // perf.AnyCPU for the event of a task
}

// openSamplingEvents opens the events of c.Target, disabled, with the BPF
// program attached. On error those that were opened are returned for the caller to close.
func openSamplingEvents(c Config, prog uint32) (*samplingEvents, error) {
	event, err := ParseEvent(c.Event)
	if err != nil {
		return nil, err
	}
	event = event.resolve()
	e := &samplingEvents{name: event.Name, attr: event.attr(c.frequency()), target: c.Target, prog: prog, wantIdle: c.IncludeIdle}
	if event.isClock() {
		e.period = event.period(c.frequency())
	}
	// Not ExcludeKernel and ExcludeUser for NoKernel and NoUser: ticks there are samples
	// all the same, with the other half of the stack.
	if !c.Target.hostWide() {
		e.attr.Options.Inherit = len(c.Target.TIDs) == 0
		e.attr.Options.EnableOnExec = c.Target.Command != 0
		return e, openTasks(c.Target, e.openTask)
	}
	if c.Target.Cgroup != "" {
		if e.cgroup, err = os.Open(c.Target.Cgroup); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	return e, e.openCPUs()
}

// openCPUs opens an event on each wanted CPU. That one goes offline meanwhile is no
// error; naming one that is not there is.
func (e *samplingEvents) openCPUs() error {
	if err := e.target.checkCPUs(); err != nil {
		return err
	}
	cpus, err := e.target.onlineCPUs()
	if err != nil {
		return err
	}
	for _, cpu := range cpus {
		if err := e.openCPU(cpu); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// openCPU opens the event of a CPU if it has none.
func (e *samplingEvents) openCPU(cpu int) error {
	if slices.ContainsFunc(e.open, func(o samplingEvent) bool { return o.cpu == cpu }) {
		return nil
	}
	if e.cgroup != nil {
		ev, err := openCgroupEvent(&e.attr, int(e.cgroup.Fd()), cpu)
		return e.attach(ev, cpu, err)
	}
	ev, err := openEvent(&e.attr, perf.AllThreads, cpu)
	return e.attach(ev, cpu, err)
}

// openTask opens the events of one task: on any CPU, or on each wanted one.
func (e *samplingEvents) openTask(tid int32) error {
	cpus := e.target.CPUs
	if len(cpus) == 0 {
		cpus = []int{perf.AnyCPU}
	}
	for _, cpu := range cpus {
		ev, err := openEvent(&e.attr, int(tid), cpu)
		if err := e.attach(ev, perf.AnyCPU, err); err != nil {
			return err
		}
	}
	return nil
}

// attach makes the BPF program run on each tick of ev.
func (e *samplingEvents) attach(ev *perf.Event, cpu int, err error) error {
	if err != nil {
		return err
	}
	if err := ev.SetBPF(e.prog); err != nil {
		ev.Close()
		return fmt.Errorf("attach the BPF program to the %s event: %w", e.name, err)
	}
	e.open = append(e.open, samplingEvent{ev, cpu})
	return nil
}

// followCPUs starts sampling on CPUs that came online. A CPU that went offline
// and comes back needs a new event, as its old one counts no more.
func (e *samplingEvents) followCPUs() {
	if !e.target.hostWide() {
		return
	}
	cpus, err := e.target.onlineCPUs()
	if err != nil {
		return
	}
	e.open = slices.DeleteFunc(e.open, func(o samplingEvent) bool {
		gone := !slices.Contains(cpus, o.cpu)
		if gone {
			o.Close()
		}
		return gone
	})
	for _, cpu := range cpus {
		before := len(e.open)
		if e.openCPU(cpu) == nil && len(e.open) > before {
			e.open[before].Enable()
		}
	}
}

// enable starts sampling, but for a command, which starts it by its exec.
func (e *samplingEvents) enable() error {
	if e.target.Command != 0 {
		return nil
	}
	for _, ev := range e.open {
		if err := ev.Enable(); err != nil {
			return fmt.Errorf("enable the %s event: %w", e.name, err)
		}
	}
	e.idleBefore, _ = proc.FS("/").IdleTimes() // without it idle CPUs' late ticks count as lost
	return nil
}

// disable ends sampling.
func (e *samplingEvents) disable() error {
	e.idleTotal = e.idleTime()
	var errs []error
	for _, ev := range e.open {
		if err := ev.Disable(); err != nil {
			errs = append(errs, fmt.Errorf("disable the %s event: %w", e.name, err))
		}
	}
	return errors.Join(errs...)
}

// idleTime is how long each CPU was idle while sampling was on.
func (e *samplingEvents) idleTime() map[int]time.Duration {
	if e.idleTotal != nil {
		return e.idleTotal
	}
	idle, err := proc.FS("/").IdleTimes()
	if err != nil {
		return nil
	}
	for cpu := range idle {
		idle[cpu] -= e.idleBefore[cpu]
	}
	return idle
}

// undelivered is how many samples of each CPU are missing because ticks that were due, by the
// time that the CPU's event counted, did not come. Only clocks on whole CPUs can
// tell. ticks and idle are what came, and how many of these hit an idle CPU.
//
// Timers of an idle virtual CPU are often late or dropped. If idle CPUs are
// not wanted that loses nothing, so the idle time without ticks is taken off.
func (e *samplingEvents) undelivered(ticks, idle []uint64) (missing uint64) {
	if e.period == 0 || e.cgroup != nil || !e.target.hostWide() {
		return 0
	}
	idleTime := e.idleTime()
	for _, ev := range e.open {
		count, err := ev.ReadCount()
		if err != nil || ev.cpu >= len(ticks) {
			continue
		}
		due := count.Value / e.period
		late := due - min(due, ticks[ev.cpu])
		if !e.wantIdle {
			idleDue := uint64(max(0, idleTime[ev.cpu])) / e.period
			late -= min(late, idleDue-min(idleDue, idle[ev.cpu]))
		}
		missing += late
	}
	return missing
}

func (e *samplingEvents) close() error {
	var errs []error
	for _, ev := range e.open {
		errs = append(errs, ev.Close())
	}
	if e.cgroup != nil {
		errs = append(errs, e.cgroup.Close())
	}
	return errors.Join(errs...)
}
