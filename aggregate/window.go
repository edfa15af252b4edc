package aggregate

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
	"hotframe/sampler"
)

// A window is a profile in the making. Samples, Locations and Mappings stand
// in the order in which they were first seen, so that the same samples make
// the same profile.
type window struct {
	profile profile.Profile
	objects map[*profile.Mapping]*object.File
	bottoms map[*profile.Sample]bool

	known  map[hit]*profile.Sample // what Add looks up
	merged map[content]*profile.Sample
	labels map[thread]map[string][]string

	locations map[place]*profile.Location
	pseudo    map[string]*profile.Location // by reason
	kernel    *profile.Mapping
	segments  map[segment]*profile.Mapping
	mapped    map[*sampler.Mapping]position

	// Reused by sample, which allocates only what the profile keeps.
	frames []*profile.Location
	ids    []byte
}

// A hit is what two samples have in common when they are equal for sure.
type hit struct {
	process      *sampler.Process
	kernel, user *sampler.Stack
	pid, tid     int32
	comm         sampler.Comm
	cgroup       string
}

// content is what a profile shows of a sample: a process that ran exec, or
// one stack behind two pointers, makes unequal hits with equal content.
type content struct {
	thread
	stack string // the ids of the Locations, 8 bytes each
}

// A thread is what the labels of a sample tell.
type thread struct {
	pid, tid     int32
	comm, cgroup string
}

// A place is where a Location is; its mapping may be nil.
type place struct {
	mapping *profile.Mapping
	address uint64
}

func newWindow() *window {
	return &window{
		objects:   make(map[*profile.Mapping]*object.File),
		bottoms:   make(map[*profile.Sample]bool),
		known:     make(map[hit]*profile.Sample),
		merged:    make(map[content]*profile.Sample),
		labels:    make(map[thread]map[string][]string),
		locations: make(map[place]*profile.Location),
		pseudo:    make(map[string]*profile.Location),
		segments:  make(map[segment]*profile.Mapping),
		mapped:    make(map[*sampler.Mapping]position),
	}
}

// sample returns where s is counted.
func (w *window) sample(s *sampler.Sample) *profile.Sample {
	h := hit{
		process: s.Process,
		kernel:  s.Kernel,
		user:    s.User,
		pid:     s.PID,
		tid:     s.TID,
		comm:    s.Comm,
		cgroup:  s.Cgroup,
	}
	if p := w.known[h]; p != nil {
		return p
	}
	p := w.merge(s)
	w.known[h] = p
	if s.User != nil && s.User.Stop == sampler.StopRoot {
		w.bottoms[p] = true
	}
	return p
}

func (w *window) merge(s *sampler.Sample) *profile.Sample {
	w.frames = w.appendStack(w.frames[:0], s)
	w.ids = w.ids[:0]
	for _, l := range w.frames {
		w.ids = binary.LittleEndian.AppendUint64(w.ids, l.ID)
	}
	c := content{
		thread: thread{pid: s.PID, tid: s.TID, comm: clean(s.Comm.String()), cgroup: clean(s.Cgroup)},
		stack:  string(w.ids),
	}
	if p := w.merged[c]; p != nil {
		return p
	}
	p := &profile.Sample{
		Location: slices.Clone(w.frames),
		Value:    make([]int64, 2),
		Label:    w.labelsOf(c.thread),
	}
	w.merged[c] = p
	w.profile.Sample = append(w.profile.Sample, p)
	return p
}

// labelsOf returns the labels of a thread's samples. They share one map, as a map
// for each sample would be most of what a profile takes in memory.
func (w *window) labelsOf(t thread) map[string][]string {
	l := w.labels[t]
	if l == nil {
		l = labels(t)
		w.labels[t] = l
	}
	return l
}

// finish numbers the Mappings, that of the file main first, and hands the
// profile over. The window must not be used any more.
func (w *window) finish(main string) (*profile.Profile, map[*profile.Mapping]*object.File) {
	p := &w.profile
	main = clean(main)
	if i := slices.IndexFunc(p.Mapping, func(m *profile.Mapping) bool { return m.File == main }); i > 0 {
		first := p.Mapping[i]
		copy(p.Mapping[1:i+1], p.Mapping[:i])
		p.Mapping[0] = first
	}
	for i, m := range p.Mapping {
		m.ID = uint64(i + 1)
		f := w.objects[m]
		if f == nil {
			continue
		}
		m.BuildID = f.BuildID()
		if f.Kind == object.PerfMap && canOpen(f) { // run-times write it late
			m.File = fmt.Sprintf("/tmp/perf-%d.map", f.PID)
		}
	}
	return p, w.objects
}
