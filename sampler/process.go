package sampler

import (
	"cmp"
	"slices"
	"sync"

	"hotframe/internal/object"
)

// A Process is one program image of a process, from its start or exec to the
// next exec, or to a mapping that replaces another. A fork without exec shares
// nothing with its parent's Process but the content. Processes are immutable
// for readers except that mappings are added; equal pointers mean that equal
// addresses lie in equal mappings.
type Process struct {
	PID    int32
	Start  uint64 // CLOCK_MONOTONIC ns of the record that began it; 0 when it ran before the recording
	Exe    string // path of the executable as the process sees it, "" when not known
	Cgroup string // path from /proc/PID/cgroup when it could be read, else ""

	mu       sync.RWMutex
	mappings []*Mapping // by Start, not overlapping
}

// A Mapping is one executable mapping of a Process.
type Mapping struct {
	Start, End Addr   // [Start, End)
	Offset     uint64 // of Start in the file
	Path       string // as the kernel names it: a path, "[vdso]", "//anon"
	Device     uint64 // st_dev encoding of unix.Mkdev; 0 without a file
	Inode      uint64

	// Object opens the file behind the mapping when it is first called and
	// keeps it open; it never returns nil. A nil Object function stands for a
	// file that is not to be had, as in replays.
	Object func() *object.File
}

// NewProcess returns a Process with the given mappings, which do not overlap.
func NewProcess(pid int32, mappings ...*Mapping) *Process {
	mappings = slices.Clone(mappings)
	slices.SortFunc(mappings, func(a, b *Mapping) int { return cmp.Compare(a.Start, b.Start) })
	return &Process{PID: pid, mappings: mappings}
}

// Mappings returns the mappings known so far, by Start.
func (p *Process) Mappings() []*Mapping {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(p.mappings)
}

// Lookup returns the mapping that holds a, or nil.
func (p *Process) Lookup(a Addr) *Mapping {
	p.mu.RLock()
	defer p.mu.RUnlock()
	i, found := slices.BinarySearchFunc(p.mappings, a, func(m *Mapping, a Addr) int {
		switch {
		case a < m.Start:
			return 1
		case a >= m.End:
			return -1
		}
		return 0
	})
	if !found {
		return nil
	}
	return p.mappings[i]
}
