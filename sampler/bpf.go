//go:build linux

package sampler

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"hotframe/bpf"
	"hotframe/internal/proc"
)

// pollInterval is how often the ring is read. The BPF program wakes nobody.
const pollInterval = 100 * time.Millisecond

// hotplugInterval is how often CPUs that came online are looked for.
const hotplugInterval = time.Second

// settle is the age at which samples and process records are used. A record gets its time a
// moment before it gets into a ring, and other CPUs' younger ones may be there first: by far,
// where a hypervisor stops a CPU in between. Out of order an exec would undo the mappings that
// followed it.
const settle = 50 * time.Millisecond

// batchSize bounds the samples held between two reads of the process records.
const batchSize = 8192

// A bpfSource samples through the BPF program. Its methods but Stop belong to
// the one goroutine that reads.
type bpfSource struct {
	config  Config
	info    Info
	objects bpfObjects
	events  *samplingEvents

	ring    *ringbuf.Reader
	record  ringbuf.Record
	stacks  *stackTable
	batch   []bpfSample
	ripe    int    // how many of batch, the eldest, may be handed out
	next    int    // of these
	settled uint64 // deferred samples of this time or before may be walked
	emptied bool   // the ring was, when the batch was read
	lost    [outcomeCount]uint64

	generation uint16    // of stack ids
	rotated    time.Time // when the generation changed, while the old one is not deleted

	unwinder  *unwinder // nil when stacks are walked by frame pointers only
	sideband  *sideband
	processes *processes
	cgroups   *proc.CgroupIDs // nil without cgroup version 2

	stop     chan struct{}
	stopping atomic.Bool
	disabled bool // the events are, after Stop
	drained  bool // the ring was read to its end after that
	timer    *time.Timer
	hotplug  time.Time // of the last look
}

// bpfObjects are what is loaded into the kernel: one of the two programs.
type bpfObjects struct {
	bpf.SamplerMaps
	bpf.SamplerVariables
	Tick *ebpf.Program `ebpf:"on_tick"`
}

func (o *bpfObjects) close() error {
	if o.Tick == nil {
		return nil // nothing was loaded
	}
	return errors.Join(o.Tick.Close(), o.SamplerMaps.Close())
}

// OpenBPF starts sampling c.Target with the BPF program on perf events. The
// sampling begins before it returns, for a command when it execs. It needs
// CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN.
func OpenBPF(c Config) (_ Source, err error) {
	s := &bpfSource{
		config:     c,
		stacks:     newStackTable(),
		batch:      make([]bpfSample, 0, 256),
		generation: 1,
		stop:       make(chan struct{}),
		timer:      time.NewTimer(0),
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := checkFrequency(c.frequency()); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.followProcesses(); err != nil {
		return nil, err
	}
	s.events, err = openSamplingEvents(c, uint32(s.objects.Tick.FD()))
	if err != nil {
		return nil, err
	}
	s.info = Info{Backend: "bpf", Event: s.events.name}
	return s, s.events.enable()
}

// load loads the BPF program and maps.
func (s *bpfSource) load() error {
	// Kernels before 5.11 charge BPF maps to RLIMIT_MEMLOCK. Where raising it
	// is not permitted the maps may still fit, or the kernel is newer and does not
	// look at it: loading tells.
	memlock := rlimit.RemoveMemlock()

	spec, err := bpf.LoadSampler()
	if err != nil {
		return fmt.Errorf("read the BPF program: %w", err)
	}
	if !haveLoop() {
		spec.Programs[bpf.SamplerProgOnTick] = spec.Programs[bpf.SamplerProgOnTickLegacy]
	}
	ticksPerSecond := s.config.frequency() * numPossibleCPUs()
	spec.Maps[bpf.SamplerMapRing].MaxEntries = ringSize(ticksPerSecond)
	spec.Maps[bpf.SamplerMapChunks].MaxEntries = chunkCount(ticksPerSecond)
	err = errors.Join(
		spec.Variables[bpf.SamplerVarMaxUserFrames].Set(uint32(s.config.maxDepth())),
		spec.Variables[bpf.SamplerVarWantKernel].Set(flag(!s.config.NoKernel)),
		spec.Variables[bpf.SamplerVarWantUser].Set(flag(!s.config.NoUser)),
		spec.Variables[bpf.SamplerVarWantIdle].Set(flag(s.config.IncludeIdle)),
		spec.Variables[bpf.SamplerVarWantTables].Set(flag(s.config.CallGraph != CallGraphFP)),
	)
	if err != nil {
		return fmt.Errorf("configure the BPF program: %w", err)
	}
	if err := spec.LoadAndAssign(&s.objects, nil); err != nil {
		if errors.Is(err, os.ErrPermission) && memlock != nil {
			return fmt.Errorf("load the BPF program: %w (raising RLIMIT_MEMLOCK: %w)", err, memlock)
		}
		return fmt.Errorf("load the BPF program: %w", err)
	}
	s.ring, err = ringbuf.NewReader(s.objects.Ring)
	if err != nil {
		return fmt.Errorf("map the ring buffer: %w", err)
	}
	s.ring.SetDeadline(time.Unix(1, 0)) // never wait: see pollInterval
	if s.config.CallGraph == CallGraphFP {
		return nil
	}
	s.unwinder, err = newUnwinder(&s.objects, &s.config)
	return err
}

// haveLoop reports whether the kernel has bpf_loop(), that is whether it is Linux 5.17 or newer.
func haveLoop() bool {
	return !errors.Is(features.HaveProgramHelper(ebpf.PerfEvent, asm.FnLoop), ebpf.ErrNotSupported)
}

// flag is how the BPF program's constants spell a truth value.
func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// ringSize is the ring's size in bytes, a power of two: a second and a half of
// samples of all CPUs, half of them with a new stack, as a busy host may leave the
// reader waiting; and no less than 1 MiB for the first moments, when all stacks are new.
func ringSize(ticksPerSecond int) uint32 {
	const perSample = 80 + 240/2
	return powerOfTwo(ticksPerSecond*perSample*3/2, 1<<20, 64<<20)
}

// chunkCount is the room of the kernel's table of stacks, in chunks of half a
// KiB: no less than a second of samples can fill.
func chunkCount(ticksPerSecond int) uint32 {
	return powerOfTwo(ticksPerSecond, 8192, 65536)
}

// powerOfTwo is the least power of two that is no less than n, within bounds
// that are powers of two.
func powerOfTwo(n, least, most int) uint32 {
	n = min(max(n, least), most)
	return 1 << bits.Len(uint(n-1))
}

func numPossibleCPUs() int {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return 1
	}
	return n
}

// followProcesses begins to follow all processes of the host: those of the
// target may be anywhere.
func (s *bpfSource) followProcesses() (err error) {
	if s.sideband, err = openSideband(Target{}, sidebandPages); err != nil {
		return err
	}
	s.processes = newProcesses("/", monotonicNow, s.config.opener())
	if s.unwinder != nil {
		s.processes.watcher = s.unwinder.spaces
	}
	s.cgroups, _ = proc.FS("/").CgroupIDs() // samples then have the cgroups of /proc
	return nil
}

// Info tells what is sampled, and how.
func (s *bpfSource) Info() Info { return s.info }

// KernelSymbols lists what the kernel told of.
func (s *bpfSource) KernelSymbols() []KernelSymbol { return s.processes.symbols }

// Read fills *out with the next sample. Process records that came before a
// sample are applied before it is returned.
func (s *bpfSource) Read(out *Sample) error {
	for {
		for s.next < s.ripe {
			b := &s.batch[s.next]
			s.next++
			if s.join(out, b) {
				return nil
			}
			s.lost[OutcomeLostDecode]++
		}
		if s.unwinder != nil && s.joinDeferred(out) {
			return nil
		}
		if s.drained {
			return io.EOF
		}
		if s.stopping.Load() && !s.disabled {
			if err := s.events.disable(); err != nil {
				return err
			}
			s.disabled = true
			time.Sleep(settle)
		}
		if s.emptied && !s.disabled {
			s.wait()
		}
		if err := s.fill(); err != nil {
			return err
		}
		s.drained = s.disabled && s.emptied && (s.unwinder == nil || s.unwinder.finish())
	}
}

// fill adds what is in the ring to the samples that were not ripe, and applies
// the process records that are.
func (s *bpfSource) fill() error {
	if err := s.rotateStacks(); err != nil {
		return err
	}
	s.batch = append(s.batch[:0], s.batch[s.ripe:]...)
	s.next, s.ripe, s.emptied = 0, 0, false
	if s.unwinder != nil { // before the main ring, which has the kernel stacks that deferred samples name
		bad, err := s.unwinder.begin(s.disabled)
		if err != nil {
			return err
		}
		s.lost[OutcomeLostDecode] += bad
	}
	for len(s.batch) < batchSize {
		err := s.ring.ReadInto(&s.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.emptied = true
			break
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		s.take(s.record.RawSample)
	}
	ripe := uint64(allTime)
	if !s.disabled {
		ripe = monotonicNow() - uint64(settle)
	}
	if err := s.sideband.collect(); err != nil {
		return err
	}
	s.sideband.until(ripe, s.processes.apply)
	slices.SortFunc(s.batch, func(a, b bpfSample) int { return cmp.Compare(a.time, b.time) })
	s.ripe, _ = slices.BinarySearchFunc(s.batch, ripe, func(b bpfSample, t uint64) int { return cmp.Compare(b.time, t) })
	s.settled = 0
	if s.emptied { // else the main ring may yet define a stack that a deferred sample names
		s.settled = ripe
	}
	s.followCPUs()
	return nil
}

// take decodes one ring record into the batch or the stack table.
func (s *bpfSource) take(rec []byte) {
	var err error
	switch recordType(rec) {
	case recordSample:
		s.batch = append(s.batch, bpfSample{})
		if err = decodeSample(&s.batch[len(s.batch)-1], rec); err != nil {
			s.batch = s.batch[:len(s.batch)-1]
		}
	case recordStack:
		if err = s.stacks.define(rec); err == nil {
			return
		}
	default:
		err = errBadRecord
	}
	if err != nil {
		s.lost[OutcomeLostDecode]++
	}
}

// join completes a sample with its stacks and its process. It is false if a
// stack is not known.
func (s *bpfSource) join(out *Sample, b *bpfSample) bool {
	user := s.stacks.byID[b.user]
	return s.complete(out, b, user) && (b.user == 0) == (user == nil)
}

// joinDeferred is join for the next sample whose stack was left to the unwinder.
func (s *bpfSource) joinDeferred(out *Sample) bool {
	for {
		d, user := s.unwinder.walk(s.settled, s.processes)
		if d == nil {
			return false
		}
		if s.complete(out, &d.bpfSample, user) {
			return true
		}
		s.lost[OutcomeLostDecode]++
	}
}

// complete fills *out but is false if the kernel's stack is not known.
func (s *bpfSource) complete(out *Sample, b *bpfSample, user *Stack) bool {
	*out = Sample{
		Time: b.time, PID: b.pid, TID: b.tid, CPU: b.cpu, Period: b.period, Comm: b.comm,
		Kernel: s.stacks.byID[b.kernel], User: user,
		Process: s.processes.at(b.pid, b.time),
	}
	if s.cgroups != nil {
		out.Cgroup = s.cgroups.Path(b.cgroup)
	}
	if out.Cgroup == "" || out.Cgroup == "/" { // all are in the root where version 1 is in use
		out.Cgroup = out.Process.Cgroup
	}
	if s.unwinder != nil && s.processes.current(out.Process) {
		s.unwinder.spaces.publish(out.Process)
	}
	return (b.kernel == 0) == (out.Kernel == nil)
}

// rotateStacks begins a new generation of stack ids when the kernel's table is
// three quarters full. A second later no program can still use the old one, and it
// is deleted: a chunk is never freed under a program that compares it.
func (s *bpfSource) rotateStacks() error {
	switch {
	case s.rotated.IsZero():
		if s.stacks.chunks < int(s.objects.Chunks.MaxEntries())*3/4 {
			return nil
		}
		s.generation = max(s.generation+1, 1) // an id is never 0
		if err := s.objects.StackGeneration.Set(uint32(s.generation)); err != nil {
			return fmt.Errorf("begin a new generation of stacks: %w", err)
		}
		s.stacks.chunks = 0
		s.rotated = time.Now()
	case time.Since(s.rotated) > time.Second:
		s.stacks.retire(s.generation, s.forget)
		s.rotated = time.Time{}
	}
	return nil
}

// forget deletes a stack from the kernel's table. Chunks that never got in are no error.
func (s *bpfSource) forget(id uint64, frames int) {
	for i := range stackChunks(frames) {
		_ = s.objects.Chunks.Delete(bpf.SamplerChunkKey{Id: id, Index: uint32(i)})
	}
}

// wait sleeps until the ring is to be read again or Stop was called.
func (s *bpfSource) wait() {
	s.timer.Reset(pollInterval)
	select {
	case <-s.timer.C:
	case <-s.stop:
	}
}

// followCPUs starts sampling CPUs that came online.
func (s *bpfSource) followCPUs() {
	now := time.Now()
	if now.Sub(s.hotplug) < hotplugInterval {
		return
	}
	s.hotplug = now
	s.sideband.followCPUs()
	s.events.followCPUs()
}

// Stop makes Read end sampling.
func (s *bpfSource) Stop() error {
	if !s.stopping.Swap(true) {
		close(s.stop)
	}
	return nil
}

// Stats sums the BPF program's counts over all CPUs.
func (s *bpfSource) Stats() Stats {
	st := Stats{Outcomes: s.lost, SidebandLost: s.sideband.lost}
	var perCPU []bpf.SamplerTickCounts
	if err := s.objects.Counts.Lookup(uint32(0), &perCPU); err != nil {
		return st
	}
	ticks, idle := make([]uint64, len(perCPU)), make([]uint64, len(perCPU))
	for cpu, c := range perCPU {
		ticks[cpu], idle[cpu] = c.Ticks, c.Outcomes[OutcomeIdle]
		st.Ticks += c.Ticks
		for o, n := range c.Outcomes {
			st.Outcomes[o] += n
		}
	}
	st.Outcomes[OutcomeUndelivered] += s.events.undelivered(ticks, idle)
	st.Outcomes[OutcomeEmitted] -= s.lost[OutcomeLostDecode]
	return st
}

// Close ends sampling and frees everything.
func (s *bpfSource) Close() error {
	var errs []error
	if s.events != nil {
		errs = append(errs, s.events.close())
	}
	if s.sideband != nil {
		errs = append(errs, s.sideband.close())
	}
	if s.processes != nil {
		s.processes.close()
	}
	if s.unwinder != nil {
		errs = append(errs, s.unwinder.close())
	}
	if s.ring != nil {
		errs = append(errs, s.ring.Close())
	}
	return errors.Join(append(errs, s.objects.close())...)
}
