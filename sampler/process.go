package sampler

import (
	"cmp"
	"slices"
	"strings"
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
	shared   bool       // mappings is another Process's too: to be copied before a change
	version  uint32     // grows with each change of mappings' ranges
	open     opener     // nil in replays
}

// An opener finds the file behind a mapping of the process pid.
type opener func(pid int32, m *Mapping) *object.File

// A Mapping is one executable mapping of a Process.
type Mapping struct {
	Start, End Addr   // [Start, End)
	Offset     uint64 // of Start in the file
	Path       string // as the kernel names it: a path, "[vdso]", "//anon"
	Device     uint64 // st_dev encoding of unix.Mkdev; 0 without a file
	Inode      uint64
	pid        int32 // who made the mapping: an ancestor of the process, if not itself

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
	m := p.find(a)
	p.mu.RUnlock()
	if m == nil || m.Object != nil || p.open == nil {
		return m
	}
	return p.bind(a)
}

// find is Lookup under the lock.
func (p *Process) find(a Addr) *Mapping {
	if i := p.after(a); i < len(p.mappings) && p.mappings[i].Start <= a {
		return p.mappings[i]
	}
	return nil
}

// after is the index of the first mapping that ends behind a.
func (p *Process) after(a Addr) int {
	i, _ := slices.BinarySearchFunc(p.mappings, a, func(m *Mapping, a Addr) int {
		if m.End <= a {
			return -1
		}
		return 1
	})
	return i
}

// bind gives the mapping that holds a its Object. Mappings that are never
// sampled do without, and a forked process shares them with its parent; a
// sampled one is opened through the process that was sampled, which lives
// longest.
func (p *Process) bind(a Addr) *Mapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(a)
	if m == nil || m.Object != nil {
		return m
	}
	bound := *m
	bound.Object = sync.OnceValue(func() *object.File { return p.open(p.PID, &bound) })
	p.own()
	p.mappings[p.after(a)] = &bound
	return &bound
}

// maxMappings bounds the executable mappings kept of one process. Mappings that
// were removed again count too, as the kernel does not tell of that.
const maxMappings = 16384

// anonymous is the Path of memory without a file, as the kernel's mmap records
// have it; /proc/PID/maps has no name for it.
const anonymous = "//anon"

// A fit is how a new mapping goes with those that a Process has.
type fit uint8

const (
	fits      fit = iota // it was added, or known already
	conflicts            // it lies over a mapping of something else
	overflows            // the process has maxMappings
)

// insert adds m to p unless it conflicts or overflows; then p stays as it was.
func (p *Process) insert(m *Mapping) fit {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, j := p.overlap(m)
	for _, old := range p.mappings[i:j] {
		if !old.continues(m) {
			return conflicts
		}
	}
	switch {
	case j-i == 1 && p.mappings[i].Start <= m.Start && m.End <= p.mappings[i].End:
		return fits
	case i == j && len(p.mappings) >= maxMappings:
		return overflows
	case i < j:
		m = p.mappings[i].union(m).union(p.mappings[j-1])
	}
	p.own()
	p.version++
	p.mappings = slices.Replace(p.mappings, i, j, m)
	return fits
}

// overlap returns the range of indices of the mappings that m lies over.
// Anonymous memory joins its neighbours, as code that is compiled at run time
// comes in many small steps.
func (p *Process) overlap(m *Mapping) (i, j int) {
	i = p.after(m.Start)
	for j = i; j < len(p.mappings) && p.mappings[j].Start < m.End; j++ {
	}
	if m.Path != anonymous {
		return i, j
	}
	if i > 0 && p.mappings[i-1].End == m.Start && p.mappings[i-1].continues(m) {
		i--
	}
	if j < len(p.mappings) && p.mappings[j].Start == m.End && p.mappings[j].continues(m) {
		j++
	}
	return i, j
}

// own makes p.mappings p's alone.
func (p *Process) own() {
	if p.shared {
		p.mappings = slices.Clone(p.mappings)
		p.shared = false
	}
}

// continues reports whether an address means the same in both mappings.
func (m *Mapping) continues(n *Mapping) bool {
	if m.Inode == 0 || n.Inode == 0 {
		return m.Inode == n.Inode && m.Path == n.Path
	}
	return m.Device == n.Device && m.Inode == n.Inode &&
		uint64(m.Start)-m.Offset == uint64(n.Start)-n.Offset
}

// union is a mapping of the range of both, which continue each other.
func (m *Mapping) union(n *Mapping) *Mapping {
	u := *m
	u.Object = nil
	if n.Start < u.Start {
		u.Start, u.Offset = n.Start, n.Offset
	}
	u.End = max(u.End, n.End)
	return &u
}

// fork is a Process with the mappings of p.
func (p *Process) fork(pid int32, time uint64) *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = true
	return &Process{
		PID: pid, Start: time, Exe: p.Exe, Cgroup: p.Cgroup,
		mappings: p.mappings, shared: true, version: p.version, open: p.open,
	}
}

// replace is p with m in place of what m lies over, from the given time on.
func (p *Process) replace(m *Mapping, time uint64) *Process {
	p.mu.RLock()
	defer p.mu.RUnlock()
	q := &Process{PID: p.PID, Start: time, Exe: p.Exe, Cgroup: p.Cgroup, open: p.open}
	i, j := p.overlap(m)
	q.mappings = make([]*Mapping, 0, len(p.mappings)+2)
	q.mappings = append(q.mappings, p.mappings[:i]...)
	if i < j && p.mappings[i].Start < m.Start {
		head := *p.mappings[i]
		head.End = m.Start
		q.mappings = append(q.mappings, &head)
	}
	q.mappings = append(q.mappings, m)
	if i < j && p.mappings[j-1].End > m.End {
		tail := *p.mappings[j-1]
		tail.Offset += uint64(m.End - tail.Start)
		tail.Start = m.End
		q.mappings = append(q.mappings, &tail)
	}
	q.mappings = append(q.mappings, p.mappings[j:]...)
	return q
}

// isAnonymous reports whether code in the mapping is from no file that could
// be read: it was compiled at run time.
func (m *Mapping) isAnonymous() bool {
	for _, prefix := range []string{anonymous, "[anon", "[heap]", "[stack", "/dev/zero", "anon_inode:", "/SYSV"} {
		if strings.HasPrefix(m.Path, prefix) {
			return true
		}
	}
	return m.Path == ""
}
