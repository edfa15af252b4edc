package aggregate

import (
	"math"
	"strings"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
	"hotframe/sampler"
)

// kernelStart is below all kernel addresses and above all user addresses, but
// for the vsyscall page, on amd64 and arm64.
const kernelStart = 1 << 63

// userLimit32 is the end of a 32-bit process's addresses.
const userLimit32 = 1 << 32

// A segment is what one pprof Mapping stands for: a part of a file wherever
// it is mapped, or, where owner or perfMap is set, memory of one process.
type segment struct {
	device, inode, offset uint64
	path                  string
	owner                 *sampler.Process
	perfMap               *object.File // outlives a Process that an exec or a new mapping replaces
}

// A position is where a process's mapping lies in the profile: its addresses
// plus shift, modulo 2^64.
type position struct {
	mapping *profile.Mapping
	shift   uint64
}

// position finds the place of m, a mapping of p, and while p may still live
// lets the file behind m be opened.
func (w *window) position(p *sampler.Process, m *sampler.Mapping) position {
	at, known := w.mapped[m]
	if known {
		return at
	}
	seg := segmentOf(p, m)
	var file *object.File
	if m.Object != nil && !w.readable(seg) {
		file = m.Object()
		if file.Kind == object.PerfMap {
			seg = segment{path: seg.path, perfMap: file}
		}
	}
	at.mapping = w.segments[seg]
	if at.mapping == nil {
		at.mapping = &profile.Mapping{
			Start:  uint64(m.Start),
			Limit:  uint64(m.End),
			Offset: m.Offset,
			File:   clean(seg.path),
		}
		w.segments[seg] = at.mapping
		w.profile.Mapping = append(w.profile.Mapping, at.mapping)
	}
	if file != nil {
		w.objects[at.mapping] = file
	}
	at.shift = stretch(at.mapping, seg, m)
	w.mapped[m] = at
	return at
}

// readable reports whether the file behind seg was opened: by a later process
// where the first to map it was gone too soon.
func (w *window) readable(seg segment) bool {
	file := w.objects[w.segments[seg]]
	return file != nil && canOpen(file)
}

func canOpen(f *object.File) bool {
	_, _, err := f.Open()
	return err == nil
}

func segmentOf(p *sampler.Process, m *sampler.Mapping) segment {
	switch {
	case m.Path == "[vdso]" && m.Start >= userLimit32, m.Path == "[vsyscall]":
		return segment{path: m.Path} // the kernel's, equal in all processes
	case m.Path == "" || strings.HasPrefix(m.Path, "//anon"):
		return segment{path: "//anon", owner: p}
	case m.Path[0] != '/': // [heap], [stack], [uprobes], the vDSO of a 32-bit process
		return segment{path: m.Path, owner: p}
	}
	return segment{device: m.Device, inode: m.Inode, offset: m.Offset, path: m.Path}
}

// stretch makes to hold m and returns the shift of m's addresses. Memory of
// one process keeps its addresses: Offset equals Start there, so that
// Address - Start + Offset is what its perf map has.
func stretch(to *profile.Mapping, seg segment, m *sampler.Mapping) uint64 {
	if seg.owner == nil && seg.perfMap == nil {
		to.Limit = max(to.Limit, to.Start+uint64(m.End-m.Start))
		return to.Start - uint64(m.Start)
	}
	to.Start = min(to.Start, uint64(m.Start))
	to.Limit = max(to.Limit, uint64(m.End))
	to.Offset = to.Start
	return 0
}

func (w *window) kernelLocation(addr sampler.Addr) *profile.Location {
	if addr < kernelStart {
		return w.location(nil, uint64(addr))
	}
	if w.kernel == nil {
		w.kernel = &profile.Mapping{
			Start: kernelStart,
			Limit: math.MaxUint64,
			File:  "[kernel.kallsyms]",
		}
		w.profile.Mapping = append(w.profile.Mapping, w.kernel)
	}
	return w.location(w.kernel, uint64(addr))
}
