// Package sampler turns perf events into Samples: it opens one sampling event
// per CPU or task, reads what the BPF program (or the kernel's own callchain)
// recorded, and joins each sample with the process it hit.
//
// Upstream: package bpf and perf_event_open. Downstream: package aggregate.
package sampler

// An Addr is a virtual address as the sampled CPU saw it, not adjusted in any
// way: return addresses still point behind the call.
type Addr uint64

// A Stack is the kernel half or the user half of one sampled stack. Sources
// intern stacks: while a recording lasts, equal pointers mean equal stacks,
// and a Stack is never modified once it was handed out. Unequal pointers may
// still hold equal stacks.
type Stack struct {
	Frames []Addr     // leaf first; Frames[0] is the PC, the rest are return addresses
	Stop   StopReason // why the walk ended
}

// A Sample is one hit of the sampling event, with raw addresses.
type Sample struct {
	Time     uint64 // CLOCK_MONOTONIC, ns
	PID, TID int32  // as the host's first pid namespace numbers them
	CPU      uint32
	Period   uint64 // events this sample stands for, in units of the event (ns for cpu-clock)
	Comm     Comm   // of the thread, when it was hit
	Cgroup   string // path within the cgroup hierarchy, "" when not known

	Kernel *Stack // nil when the CPU ran user code or kernel stacks are off
	User   *Stack // nil for kernel threads or when user stacks are off

	Process *Process // never nil
}

// Comm is a thread's name as the kernel keeps it: NUL-padded, any bytes.
type Comm [16]byte

// String returns the bytes before the first NUL, unescaped: a comm is chosen
// by the profiled process, so whoever prints it must escape it.
func (c Comm) String() string {
	for i, b := range c {
		if b == 0 {
			return string(c[:i])
		}
	}
	return string(c[:])
}

// NewComm truncates s to what a Comm holds.
func NewComm(s string) Comm {
	var c Comm
	copy(c[:len(c)-1], s)
	return c
}

// Info is how a Source samples.
type Info struct {
	Backend string   // "bpf", "perf", "replay"
	Event   string   // "cycles", "cpu-clock"
	GaveUp  []string // what this host did not permit, for the user to read
}

// A Source yields Samples. Its methods but Stop are called from one goroutine.
type Source interface {
	// Info tells what is sampled, and how.
	Info() Info
	// Read overwrites *s with the next sample and blocks until there is one.
	// It returns io.EOF once all samples are read after Stop was called, or
	// after the last task of the target has ended.
	Read(s *Sample) error
	// Stop ends sampling. Samples already taken stay readable.
	Stop() error
	// Stats returns the account of all timer ticks so far; it is complete
	// once Read returned io.EOF.
	Stats() Stats
	// KernelSymbols lists the code that the kernel made and removed since the
	// source was opened, by time.
	KernelSymbols() []KernelSymbol
	// Close releases the source.
	Close() error
}
