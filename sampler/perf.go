//go:build linux

package sampler

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/elastic/go-perf"
	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
)

// samplePages is the size of a CPU's ring of samples. With sidebandPages/2 it
// is below what kernel.perf_event_mlock_kb grants by default, 129 pages a CPU.
const samplePages = 64

const (
	perfPoll    = 100 * time.Millisecond // the rings are read at least as often
	perfHotplug = time.Second            // CPUs that came online are looked for as often
)

// A perfSource samples with the callchains of the kernel, as it can without
// BPF. Its methods but Stop belong to the one goroutine that reads.
type perfSource struct {
	config Config
	info   Info
	event  Event

	samples   *rings
	sideband  *sideband
	processes *processes
	threads   *threads
	cgroup    *os.File

	decoded      perfSample
	kernel, user interner
	maxStack     int // frames of a callchain, kernel.perf_event_max_stack

	batch []perfHit // by time
	ripe  int       // how many of batch may be handed out
	next  int       // of these
	stats Stats

	poll     []unix.PollFd
	wakeup   int // eventfd that Stop writes to
	stopping atomic.Bool
	disabled bool // events, after Stop
	drained  bool
	hotplug  time.Time // of the last look for new CPUs
}

// A perfHit is a Sample before it is known whose it is.
type perfHit struct {
	time, period uint64
	pid, tid     int32
	cpu          uint32
	kernel, user *Stack
}

// OpenPerf starts sampling c.Target with perf events alone. The sampling begins
// before it returns, for a command when it execs. Without privileges it samples
// the user's own tasks if kernel.perf_event_paranoid is 2 or less.
func OpenPerf(c Config) (_ Source, err error) {
	event, err := ParseEvent(c.Event)
	if err != nil {
		return nil, err
	}
	if err := checkFrequency(c.frequency()); err != nil {
		return nil, err
	}
	s := &perfSource{config: c, event: event.resolve(), wakeup: -1, threads: newThreads("/")}
	s.info = Info{Backend: "perf", Event: s.event.Name}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := s.followProcesses(); err != nil {
		return nil, err
	}
	if err := s.openSamples(); err != nil {
		return nil, err
	}
	if c.CallGraph != CallGraphFP && !c.NoUser {
		s.info.GaveUp = append(s.info.GaveUp, "unwind tables: user stacks are followed by frame pointers only")
	}
	s.giveUpRings()
	if c.Target.Command != 0 {
		return s, nil
	}
	if err := s.samples.each((*perf.Event).Enable); err != nil {
		return nil, fmt.Errorf("enable the %s events: %w", s.event.Name, err)
	}
	return s, nil
}

// followProcesses begins to follow the target's processes.
func (s *perfSource) followProcesses() (err error) {
	t := s.config.Target
	for _, tid := range t.TIDs { // any thread of their processes may map files
		st, err := proc.FS("/").Status(tid)
		if err != nil {
			return fmt.Errorf("thread %d does not exist", tid)
		}
		t.PIDs = append(slices.Clip(t.PIDs), st.PID)
	}
	t.TIDs = nil
	slices.Sort(t.PIDs)
	t.PIDs = slices.Compact(t.PIDs)
	if s.sideband, err = openSideband(t, sidebandPages/2); err != nil {
		return err
	}
	s.processes = newProcesses("/", monotonicNow, s.config.opener())
	return nil
}

// openSamples opens the sampling events, disabled.
func (s *perfSource) openSamples() (err error) {
	s.samples = newRings(s.attr(), samplePages)
	t := &s.config.Target
	if t.Cgroup != "" {
		if s.cgroup, err = os.Open(t.Cgroup); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := t.checkCPUs(); err != nil {
		return err
	}
	cpus, err := t.onlineCPUs()
	if err != nil {
		return err
	}
	if t.hostWide() {
		return s.samples.followCPUs(cpus, s.take, s.openCPU)
	}
	return openTasks(*t, func(tid int32) error {
		for _, cpu := range cpus {
			if err := s.samples.open(int(tid), cpu); err != nil {
				return err
			}
		}
		return nil
	})
}

// attr is the sampling event for the target, as far as it is permitted.
func (s *perfSource) attr() perf.Attr {
	a := s.event.attr(s.config.frequency())
	a.SampleFormat = perf.SampleFormat{IP: true, Tid: true, Time: true, CPU: true, Period: true, Callchain: true}
	a.SetWakeupWatermark(uint32(samplePages * unix.Getpagesize() / 4))
	a.Options.ExcludeKernelCallchain = s.config.NoKernel
	a.Options.ExcludeUserCallchain = s.config.NoUser
	a.Options.Inherit = !s.config.Target.hostWide() && len(s.config.Target.TIDs) == 0
	a.Options.EnableOnExec = s.config.Target.Command != 0
	if kernelDenied(a) {
		a.Options.ExcludeKernel = true
		s.giveUp("time in the kernel and its stacks", "perf_event_paranoid")
	}
	s.maxStack = 127 // PERF_MAX_STACK_DEPTH
	if n, err := sysctl("perf_event_max_stack"); err == nil {
		s.maxStack = n
	}
	if s.config.maxDepth() > s.maxStack {
		s.giveUp(fmt.Sprintf("stacks of more than %d frames", s.maxStack), "perf_event_max_stack")
	}
	return a
}

// kernelDenied reports whether the event is permitted only without the
// kernel's share, by trying it on this thread.
func kernelDenied(a perf.Attr) bool {
	ev, err := openEvent(&a, perf.CallingThread, perf.AnyCPU)
	if err == nil {
		ev.Close()
	}
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// giveUp notes what a sysctl takes from the user.
func (s *perfSource) giveUp(what, sysctlName string) {
	if n, err := sysctl(sysctlName); err == nil {
		what = fmt.Sprintf("%s (kernel.%s is %d)", what, sysctlName, n)
	}
	s.info.GaveUp = append(s.info.GaveUp, what)
}

// giveUpRings notes that rings are smaller than wanted.
func (s *perfSource) giveUpRings() {
	if s.samples.pages < samplePages || s.sideband.rings.pages < sidebandPages/2 {
		kib := s.samples.pages * unix.Getpagesize() >> 10
		s.giveUp(fmt.Sprintf("room for bursts: the rings have %d KiB a CPU", kib), "perf_event_mlock_kb")
	}
}

func (s *perfSource) openCPU(cpu int) error {
	if s.cgroup != nil {
		return s.samples.openCgroup(s.cgroup, cpu)
	}
	return s.samples.open(perf.AllThreads, cpu)
}

// Info tells what is sampled, and how.
func (s *perfSource) Info() Info { return s.info }

// KernelSymbols lists what the kernel told of, which it does to privileged users.
func (s *perfSource) KernelSymbols() []KernelSymbol { return s.processes.symbols }

// Read fills *out with the next sample, after all records about processes that
// are older than it were applied.
func (s *perfSource) Read(out *Sample) error {
	for {
		if s.next < s.ripe {
			s.join(out, &s.batch[s.next])
			s.next++
			return nil
		}
		if s.drained {
			return io.EOF
		}
		if err := s.fill(); err != nil {
			return err
		}
		if s.ripe == 0 && !s.drained {
			if err := s.wait(); err != nil {
				return err
			}
		}
	}
}

// fill adds what is in the rings to the samples that were not ripe.
func (s *perfSource) fill() error {
	if s.stopping.Load() && !s.disabled {
		s.disabled = true
		if err := s.samples.each((*perf.Event).Disable); err != nil {
			return fmt.Errorf("disable the %s events: %w", s.event.Name, err)
		}
	}
	ripe := monotonicNow() - uint64(settle)
	last := s.disabled || !s.samples.alive()
	if last {
		time.Sleep(settle)
		ripe = allTime
	}
	s.batch = append(s.batch[:0], s.batch[s.ripe:]...)
	if err := s.samples.read(s.take); err != nil {
		return err
	}
	slices.SortFunc(s.batch, func(a, b perfHit) int { return cmp.Compare(a.time, b.time) })
	s.next = 0
	s.ripe, _ = slices.BinarySearchFunc(s.batch, ripe, func(h perfHit, t uint64) int { return cmp.Compare(h.time, t) })
	// Records about processes are read after the samples, so that they are
	// there for each of them; younger ones wait for the samples of their time.
	if err := s.sideband.collect(); err != nil {
		return err
	}
	if s.ripe == 0 {
		s.sideband.until(ripe, s.apply)
	}
	s.followCPUs()
	s.drained = last
	return nil
}

// take decodes one record of a sampling ring.
func (s *perfSource) take(raw *perf.RawRecord) {
	switch typ := perfType(raw.Header.Type); typ {
	case perfSampleType:
		s.stats.Ticks++
		if err := s.decoded.decode(raw.Header.Misc, raw.Data); err != nil {
			s.stats.Outcomes[OutcomeLostDecode]++
			return
		}
		s.stats.Outcomes[s.keep(&s.decoded)]++
	case perfLost, perfLostSamples:
		var r perfRecord
		var d perfDecoder
		if d.decode(&r, typ, raw.Header.Misc, raw.Data) == nil {
			s.stats.Ticks += r.Lost
			s.stats.Outcomes[OutcomeLostRing] += r.Lost
		}
	}
}

// keep adds a sample to the batch. The idle tasks have pid 0, and so have tasks
// of other pid namespaces, which do have user frames.
func (s *perfSource) keep(d *perfSample) Outcome {
	if d.PID == 0 && len(d.User) == 0 && !s.config.IncludeIdle {
		return OutcomeIdle
	}
	hit := perfHit{time: d.Time, period: d.Period, pid: d.PID, tid: d.TID, cpu: d.CPU}
	cut := d.Frames >= s.maxStack
	if len(d.Kernel) > 0 && !s.config.NoKernel {
		stop := StopKernel
		if cut && len(d.User) == 0 {
			stop = StopKernelDepth
		}
		hit.kernel = s.kernel.stack(d.Kernel, stop)
	}
	if len(d.User) > 0 && !s.config.NoUser {
		stop, user := StopFPEnd, d.User
		if cut {
			stop = StopDepth
		}
		if limit := s.config.maxDepth(); user.len() > limit {
			stop, user = StopDepth, user[:limit*frameSize]
		}
		if n := user.plausible(); n < user.len() {
			stop, user = StopRAInvalid, user[:n*frameSize]
		}
		hit.user = s.user.stack(user, stop)
	}
	s.batch = append(s.batch, hit)
	return OutcomeEmitted
}

// join completes a sample with its process.
func (s *perfSource) join(out *Sample, h *perfHit) {
	s.sideband.until(h.time, s.apply)
	p := s.processes.at(h.pid, h.time)
	*out = Sample{
		Time: h.time, PID: h.pid, TID: h.tid, CPU: h.cpu, Period: h.period,
		Comm: s.threads.comm(p, h.tid), Cgroup: p.Cgroup,
		Kernel: h.kernel, User: h.user, Process: p,
	}
}

func (s *perfSource) apply(r *perfRecord) {
	s.processes.apply(r)
	var parent *Process
	if r.Type == perfFork {
		parent = s.processes.at(r.PPID, r.Time)
	}
	s.threads.apply(r, parent)
}

// wait sleeps until a ring fills, Stop was called, or perfPoll is over.
func (s *perfSource) wait() error {
	s.poll = append(s.poll[:0], unix.PollFd{Fd: int32(s.wakeup), Events: unix.POLLIN})
	s.poll = s.samples.pollFDs(s.poll)
	s.poll = s.sideband.rings.pollFDs(s.poll)
	_, err := unix.Poll(s.poll, int(perfPoll/time.Millisecond))
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

// followCPUs starts sampling CPUs that came online.
func (s *perfSource) followCPUs() {
	t := &s.config.Target
	now := time.Now()
	if !t.hostWide() || now.Sub(s.hotplug) < perfHotplug {
		return
	}
	s.hotplug = now
	s.sideband.followCPUs()
	online, err := t.onlineCPUs()
	if err != nil {
		return
	}
	// What failed is tried again the next time.
	_ = s.samples.followCPUs(online, s.take, func(cpu int) error {
		if err := s.openCPU(cpu); err != nil || s.disabled {
			return err
		}
		return s.samples.rings[s.samples.find(cpu)].Enable()
	})
}

// Stop ends sampling.
func (s *perfSource) Stop() error {
	if s.stopping.Swap(true) {
		return nil
	}
	one := [8]byte{1}
	if _, err := unix.Write(s.wakeup, one[:]); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// Stats is the account of all ticks.
func (s *perfSource) Stats() Stats {
	st := s.stats
	st.SidebandLost = s.sideband.lost
	st.Outcomes[OutcomeUndelivered] = s.undelivered()
	return st
}

// undelivered is how many ticks were due by the time that the events counted
// and did not come. Only clocks on whole CPUs can tell.
func (s *perfSource) undelivered() uint64 {
	if !s.event.isClock() || !s.config.Target.hostWide() || s.cgroup != nil || s.samples.attr.Options.ExcludeKernel {
		return 0
	}
	var due uint64
	for _, ring := range s.samples.rings {
		if count, err := ring.ReadCount(); err == nil {
			due += count.Value / s.event.period(s.config.frequency())
		}
	}
	return due - min(due, s.stats.Ticks)
}

// Close ends sampling and frees everything.
func (s *perfSource) Close() error {
	var errs []error
	if s.samples != nil {
		errs = append(errs, s.samples.close())
	}
	if s.sideband != nil {
		errs = append(errs, s.sideband.close())
	}
	if s.processes != nil {
		s.processes.close()
	}
	if s.cgroup != nil {
		errs = append(errs, s.cgroup.Close())
	}
	if s.wakeup >= 0 {
		errs = append(errs, unix.Close(s.wakeup))
	}
	return errors.Join(errs...)
}
