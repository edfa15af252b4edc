//go:build linux

package sampler

import (
	"io"
	"strings"

	"hotframe/internal/object"
)

// A Config says what to sample. Its zero value samples all CPUs at the default frequency.
type Config struct {
	Event     string // as ParseEvent knows it; "" is "auto"
	Frequency int    // Hz, 0 = DefaultFrequency
	Target    Target

	NoKernel, NoUser bool // leave these stacks away
	IncludeIdle      bool // sample idle CPUs as well
	MaxDepth         int  // user frames of a stack, 0 = DefaultMaxDepth
	CallGraph        CallGraph

	// UnwindMemory is the most that unwind tables take in the kernel, bytes; 0 is
	// DefaultUnwindMemory. What was not used for longest makes room.
	UnwindMemory int64

	Objects *object.Store // opens the files behind mappings; nil leaves them closed
}

// CallGraph is how user stacks are walked.
type CallGraph uint8

const (
	CallGraphAuto CallGraph = iota // by unwind tables, and by frame pointers where there are none
	CallGraphFP                    // by frame pointers only
)

// DefaultFrequency is 99 Hz, not 100: it avoids lockstep with timers of 10 ms.
const DefaultFrequency = 99

// DefaultMaxDepth is the number of user frames that the BPF program has room for.
const DefaultMaxDepth = 512

// DefaultUnwindMemory has room for the tables of over 1 GB of code.
const DefaultUnwindMemory = 64 << 20

func (c *Config) frequency() int {
	if c.Frequency <= 0 {
		return DefaultFrequency
	}
	return c.Frequency
}

func (c *Config) maxDepth() int {
	if c.MaxDepth <= 0 {
		return DefaultMaxDepth
	}
	return min(c.MaxDepth, DefaultMaxDepth)
}

func (c *Config) unwindMemory() int64 {
	if c.UnwindMemory <= 0 {
		return DefaultUnwindMemory
	}
	return c.UnwindMemory
}

// A Target is whom to sample. Its zero value is everything on all CPUs. CPUs narrow
// the other targets down; of PIDs, TIDs, Cgroup and Command no more than one kind is set.
type Target struct {
	CPUs    []int
	PIDs    []int32 // with all their threads
	TIDs    []int32
	Cgroup  string // path of a cgroup directory
	Command int32  // pid of a child that waits to exec: sampled from its exec on, with all its descendants
}

// hostWide reports whether the target is no set of tasks.
func (t *Target) hostWide() bool {
	return len(t.PIDs) == 0 && len(t.TIDs) == 0 && t.Command == 0
}

// opener finds the files behind mappings in c.Objects.
func (c *Config) opener() opener {
	store := c.Objects
	if store == nil {
		return nil
	}
	return func(pid int32, m *Mapping) *object.File {
		if m.Path == "[vdso]" {
			return store.VDSO()
		}
		if m.isAnonymous() {
			return store.PerfMap(m.pid) // of who made it, be it before a fork
		}
		f := store.File(object.Ref{PID: pid, Start: uint64(m.Start), End: uint64(m.End), Offset: m.Offset,
			Path: m.Path, Device: m.Device, Inode: m.Inode})
		// Programs run from a memfd, and run-times compile into one.
		if strings.HasPrefix(m.Path, "/memfd:") && !isELF(f) {
			return store.PerfMap(m.pid)
		}
		return f
	}
}

func isELF(f *object.File) bool {
	r, size, err := f.Open()
	if err != nil || size < 4 {
		return false
	}
	var magic [4]byte
	_, err = io.ReadFull(io.NewSectionReader(r, 0, size), magic[:])
	return err == nil && string(magic[:]) == "\x7fELF"
}
