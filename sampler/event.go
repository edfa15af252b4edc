//go:build linux

package sampler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-perf"
	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
)

// An Event is what makes the kernel take a sample.
type Event struct {
	Name   string
	typ    perf.EventType
	config uint64
}

// eventAuto stands for cycles where the machine counts them, else cpu-clock.
const eventAuto = "auto"

// knownEvents are the generic events of perf_event_open(2) that can take
// samples, by the names that perf gives them.
var knownEvents = []Event{
	{"cycles", perf.HardwareEvent, unix.PERF_COUNT_HW_CPU_CYCLES},
	{"cpu-clock", perf.SoftwareEvent, unix.PERF_COUNT_SW_CPU_CLOCK},
	{"task-clock", perf.SoftwareEvent, unix.PERF_COUNT_SW_TASK_CLOCK},
	{"instructions", perf.HardwareEvent, unix.PERF_COUNT_HW_INSTRUCTIONS},
	{"cache-references", perf.HardwareEvent, unix.PERF_COUNT_HW_CACHE_REFERENCES},
	{"cache-misses", perf.HardwareEvent, unix.PERF_COUNT_HW_CACHE_MISSES},
	{"branches", perf.HardwareEvent, unix.PERF_COUNT_HW_BRANCH_INSTRUCTIONS},
	{"branch-misses", perf.HardwareEvent, unix.PERF_COUNT_HW_BRANCH_MISSES},
	{"bus-cycles", perf.HardwareEvent, unix.PERF_COUNT_HW_BUS_CYCLES},
	{"ref-cycles", perf.HardwareEvent, unix.PERF_COUNT_HW_REF_CPU_CYCLES},
	{"stalled-cycles-frontend", perf.HardwareEvent, unix.PERF_COUNT_HW_STALLED_CYCLES_FRONTEND},
	{"stalled-cycles-backend", perf.HardwareEvent, unix.PERF_COUNT_HW_STALLED_CYCLES_BACKEND},
	{"page-faults", perf.SoftwareEvent, unix.PERF_COUNT_SW_PAGE_FAULTS},
	{"minor-faults", perf.SoftwareEvent, unix.PERF_COUNT_SW_PAGE_FAULTS_MIN},
	{"major-faults", perf.SoftwareEvent, unix.PERF_COUNT_SW_PAGE_FAULTS_MAJ},
	{"context-switches", perf.SoftwareEvent, unix.PERF_COUNT_SW_CONTEXT_SWITCHES},
	{"cpu-migrations", perf.SoftwareEvent, unix.PERF_COUNT_SW_CPU_MIGRATIONS},
}

// EventNames lists the names that ParseEvent knows.
func EventNames() []string {
	names := []string{eventAuto}
	for _, e := range knownEvents {
		names = append(names, e.Name)
	}
	return names
}

// ParseEvent finds an event by name; "" is "auto".
func ParseEvent(name string) (Event, error) {
	if name == "" || name == eventAuto {
		return Event{Name: eventAuto}, nil
	}
	for _, e := range knownEvents {
		if e.Name == name {
			return e, nil
		}
	}
	names := EventNames()
	near := func(known string) int {
		if strings.HasPrefix(known, name) {
			return 0
		}
		return distance(known, name)
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(near(a), near(b)) })
	return Event{}, fmt.Errorf("unknown event %q; known are %s", name, strings.Join(names, ", "))
}

// distance is the number of bytes to add, drop or change to make b from a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // [j]: from a[:i] to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// resolve is e, or what "auto" stands for on this machine.
func (e Event) resolve() Event {
	if e.Name != eventAuto {
		return e
	}
	cycles, clock := knownEvents[0], knownEvents[1]
	a := cycles.attr(DefaultFrequency)
	a.Options.ExcludeKernel = true // may be permitted when the kernel's cycles are not
	ev, err := openEvent(&a, perf.CallingThread, perf.AnyCPU)
	if err != nil {
		return clock
	}
	ev.Close()
	return cycles
}

// isClock reports whether the event counts nanoseconds.
func (e Event) isClock() bool {
	return e.typ == perf.SoftwareEvent && e.config <= unix.PERF_COUNT_SW_TASK_CLOCK
}

// period is the distance of samples in nanoseconds for a clock; other events
// have none, the kernel adapts it to the frequency.
func (e Event) period(frequency int) uint64 { return uint64(1e9 / frequency) }

// attr is a disabled event that fires with the given frequency.
func (e Event) attr(frequency int) perf.Attr {
	a := perf.Attr{Type: e.typ, Config: e.config}
	a.Options.Disabled = true
	useMonotonicClock(&a)
	if e.isClock() {
		a.SetSamplePeriod(e.period(frequency))
	} else {
		a.SetSampleFreq(uint64(frequency))
	}
	return a
}

// sidebandAttr is an event that records what becomes of processes, and counts nothing.
func sidebandAttr() perf.Attr {
	a := perf.Attr{Type: perf.SoftwareEvent, Config: unix.PERF_COUNT_SW_DUMMY}
	a.SampleFormat = perf.SampleFormat{Tid: true, Time: true, CPU: true} // perfDecoder knows no other
	a.Options = perf.Options{
		ExcludeKernel: true, // costs nothing, and is permitted more often
		Mmap:          true, // without it Mmap2 is without effect
		Mmap2:         true,
		Comm:          true,
		CommExec:      true,
		Task:          true,
		SampleIDAll:   true,
	}
	useMonotonicClock(&a)
	return a
}

// useMonotonicClock makes times comparable between CPUs and with bpf_ktime_get_ns.
func useMonotonicClock(a *perf.Attr) {
	a.Options.UseClockID = true
	a.ClockID = unix.CLOCK_MONOTONIC
}

// openEvent opens an event for a task on a CPU; perf.AllThreads and
// perf.AnyCPU widen it.
//
// perf.Open loses the descriptor when the event opens but does not tell its
// id. No kernel since 3.12 does that.
func openEvent(a *perf.Attr, pid, cpu int) (*perf.Event, error) {
	ev, err := perf.Open(a, pid, cpu, nil)
	if err != nil {
		return nil, explainOpen(err, pid, cpu)
	}
	return ev, nil
}

// openCgroupEvent opens an event for the tasks of a cgroup, named by a
// descriptor of its directory, on a CPU.
func openCgroupEvent(a *perf.Attr, cgroup, cpu int) (*perf.Event, error) {
	ev, err := perf.OpenCGroup(a, cgroup, cpu, nil)
	if errors.Is(err, unix.EBADF) {
		return nil, fmt.Errorf("%w (not a cgroup directory of version 2 or of the perf_event controller)", err)
	}
	if err != nil {
		return nil, explainOpen(err, perf.AllThreads, cpu)
	}
	return ev, nil
}

// explainOpen adds to an error of perf_event_open(2) what can be done about it.
func explainOpen(err error, pid, cpu int) error {
	switch {
	case errors.Is(err, unix.ESRCH):
		return fmt.Errorf("process %d does not exist: %w", pid, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (%s)", err, permissionHint(pid))
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w (raise the limit of open files, ulimit -n%s)", err, openFileLimit())
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w (this machine does not count that event; cpu-clock always works)", err)
	case cpu >= 0:
		return fmt.Errorf("cpu %d: %w", cpu, err)
	}
	return err
}

// permissionHint says what would permit an event; pid is as for openEvent.
func permissionHint(pid int) string {
	level, err := perfEventParanoid()
	switch {
	case err != nil:
		return "needs CAP_PERFMON"
	case pid < 0:
		return fmt.Sprintf("all CPUs need CAP_PERFMON or kernel.perf_event_paranoid <= 0, it is %d", level)
	case level > 2:
		return fmt.Sprintf("needs CAP_PERFMON or kernel.perf_event_paranoid <= 2, it is %d", level)
	}
	return fmt.Sprintf("process %d is not yours: needs CAP_PERFMON and CAP_SYS_PTRACE; kernel.perf_event_paranoid is %d", pid, level)
}

func openFileLimit() string {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return ""
	}
	return fmt.Sprintf(", from %d", limit.Cur)
}

// perfEventParanoid is the sysctl: -1 permits all, 0 CPU events, 1 kernel
// samples of own tasks, 2 user samples of own tasks; distributions add 3 and 4, nothing.
func perfEventParanoid() (int, error) { return sysctl("perf_event_paranoid") }

func sysctl(name string) (int, error) {
	b, err := os.ReadFile("/proc/sys/kernel/" + name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// mapRing maps an event's ring with the given number of pages, a power of two,
// or as many as the kernel lets this user lock in memory.
func mapRing(ev *perf.Event, pages int) (got int, err error) {
	for got = pages; ; got /= 2 {
		err = ev.MapRingNumPages(got)
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOMEM) {
			return 0, fmt.Errorf("perf ring: %w", err)
		}
		if got == 1 {
			return 0, fmt.Errorf("perf ring: %w (raise kernel.perf_event_mlock_kb or ulimit -l)", err)
		}
	}
}

// checkFrequency says so when the kernel would take fewer samples than asked for.
func checkFrequency(hz int) error {
	if limit, err := sysctl("perf_event_max_sample_rate"); err == nil && hz > limit {
		return fmt.Errorf("frequency %d is above kernel.perf_event_max_sample_rate, %d", hz, limit)
	}
	return nil
}

// rings are equal perf events on many CPUs, or of many tasks on many CPUs, that
// write their records into one ring for each CPU. They belong to one goroutine.
type rings struct {
	attr  perf.Attr
	pages int // of a ring, a power of two; fewer after the kernel refused that many

	rings   []cpuRing
	tasks   []*perf.Event // that write into the ring of their CPU
	expired context.Context
}

// cpuRing is the event that owns the ring of a CPU.
type cpuRing struct {
	*perf.Event
	cpu int
}

// newRings returns rings without events. attr is completed with what rings need.
func newRings(attr perf.Attr, pages int) *rings {
	expired, cancel := context.WithDeadline(context.Background(), time.Unix(0, 0))
	cancel()
	attr.Options.SampleIDAll = true
	return &rings{attr: attr, pages: pages, expired: expired}
}

// open opens an event of a task, or of all with perf.AllThreads, on a CPU.
func (r *rings) open(tid, cpu int) error {
	ev, err := openEvent(&r.attr, tid, cpu)
	if err != nil {
		return err
	}
	return r.attach(ev, cpu)
}

// openCgroup is open for all tasks of a cgroup.
func (r *rings) openCgroup(dir *os.File, cpu int) error {
	ev, err := openCgroupEvent(&r.attr, int(dir.Fd()), cpu)
	if err != nil {
		return err
	}
	return r.attach(ev, cpu)
}

// attach gives ev the ring of its CPU, or makes it that. It closes ev on error.
func (r *rings) attach(ev *perf.Event, cpu int) (err error) {
	defer func() {
		if err != nil {
			ev.Close()
		}
	}()
	if i := r.find(cpu); i >= 0 {
		if err := ev.SetOutput(r.rings[i].Event); err != nil {
			return fmt.Errorf("share the perf ring of cpu %d: %w", cpu, err)
		}
		r.tasks = append(r.tasks, ev)
		return nil
	}
	if r.pages, err = mapRing(ev, r.pages); err != nil {
		return err
	}
	r.rings = append(r.rings, cpuRing{ev, cpu})
	return nil
}

func (r *rings) find(cpu int) int {
	return slices.IndexFunc(r.rings, func(c cpuRing) bool { return c.cpu == cpu })
}

// read calls f with each record that is in the rings now. The record's data is
// overwritten by the next one.
func (r *rings) read(f func(*perf.RawRecord)) error {
	for _, ring := range r.rings {
		if err := r.readRing(ring, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *rings) readRing(ring cpuRing, f func(*perf.RawRecord)) error {
	var raw perf.RawRecord
	for ring.HasRecord() {
		err := ring.ReadRawRecord(r.expired, &raw)
		if errors.Is(err, context.DeadlineExceeded) {
			return nil // the ring was damaged, and is empty now
		}
		if err != nil {
			return fmt.Errorf("read the perf ring of cpu %d: %w", ring.cpu, err)
		}
		f(&raw)
	}
	return nil
}

// followCPUs closes the rings of CPUs that are not online any more, which f is
// given the rest of, and calls open for the CPUs that have none. A CPU that comes
// back needs a new event, as its old one counts no more.
func (r *rings) followCPUs(online []int, f func(*perf.RawRecord), open func(cpu int) error) error {
	var errs []error
	r.rings = slices.DeleteFunc(r.rings, func(ring cpuRing) bool {
		if slices.Contains(online, ring.cpu) {
			return false
		}
		errs = append(errs, r.readRing(ring, f), ring.Close())
		return true
	})
	for _, cpu := range online {
		if r.find(cpu) >= 0 {
			continue
		}
		if err := open(cpu); err != nil && !errors.Is(err, unix.ENODEV) { // it went offline again
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// each calls f with all events.
func (r *rings) each(f func(*perf.Event) error) error {
	var errs []error
	for _, ring := range r.rings {
		errs = append(errs, f(ring.Event))
	}
	for _, ev := range r.tasks {
		errs = append(errs, f(ev))
	}
	return errors.Join(errs...)
}

// alive reports whether a task is left that could be sampled. Events of CPUs
// never end.
func (r *rings) alive() bool {
	for _, ring := range r.rings {
		if !hungUp(ring.Event) {
			return true
		}
	}
	return slices.ContainsFunc(r.tasks, func(ev *perf.Event) bool { return !hungUp(ev) })
}

// hungUp reports whether an event's task exited, and all that inherited the
// event from it.
func hungUp(ev *perf.Event) bool {
	fd, err := ev.FD()
	if err != nil {
		return true
	}
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLHUP != 0
}

// pollFDs appends the descriptors to poll for records.
func (r *rings) pollFDs(fds []unix.PollFd) []unix.PollFd {
	for _, ring := range r.rings {
		if fd, err := ring.FD(); err == nil && !hungUp(ring.Event) { // else poll would not wait
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	return fds
}

func (r *rings) close() error {
	// The events of tasks first: they write into the others' rings.
	slices.Reverse(r.tasks)
	var errs []error
	for _, ev := range r.tasks {
		errs = append(errs, ev.Close())
	}
	for _, ring := range r.rings {
		errs = append(errs, ring.Close())
	}
	r.tasks, r.rings = nil, nil
	return errors.Join(errs...)
}

// openTasks calls open for every task of the target: for all threads of its
// processes, and again until no thread was started meanwhile by one that had
// no event yet to inherit.
func openTasks(t Target, open func(tid int32) error) error {
	if t.Command != 0 {
		return open(t.Command)
	}
	for _, tid := range t.TIDs {
		if err := open(tid); err != nil {
			return err
		}
	}
	for _, pid := range t.PIDs {
		if err := openThreads(pid, open); err != nil {
			return err
		}
	}
	return nil
}

func openThreads(pid int32, open func(tid int32) error) error {
	opened := make(map[int32]bool)
	for grown := true; grown; {
		grown = false
		tids, err := proc.FS("/").TIDs(pid)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("process %d does not exist", pid)
		}
		if err != nil {
			return err
		}
		for _, tid := range tids {
			if opened[tid] {
				continue
			}
			err := open(tid)
			if err != nil && (tid == pid || !errors.Is(err, unix.ESRCH)) { // other threads may end meanwhile
				return err
			}
			opened[tid], grown = true, true
		}
	}
	return nil
}
