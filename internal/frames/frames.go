// Package frames reads the stacks of a pprof profile the way all outputs show
// them: inlined calls expanded, every frame named, threads by their comm.
//
// Upstream: symbolize, or any pprof file. Downstream: collapse, flamegraph.
package frames

import (
	"fmt"
	"path"
	"strings"

	"github.com/google/pprof/profile"
)

// A Frame is one function call of a stack.
type Frame struct {
	Name    string // not empty; any bytes, since profiled processes choose it
	Source  string // the source file, "" when not known
	Mapping string // the mapped file, "" when not known
}

// Kernel reports whether the frame is the kernel's own.
func (f Frame) Kernel() bool { return strings.HasPrefix(f.Mapping, "[kernel") }

// Append appends the frames of l to dst, outermost first. A location without
// a name is shown as the file it lies in, else as its address.
func Append(dst []Frame, l *profile.Location) []Frame {
	var mapping string
	if l.Mapping != nil {
		mapping = l.Mapping.File
	}
	for i := len(l.Line) - 1; i >= 0; i-- {
		f := Frame{Mapping: mapping}
		if fn := l.Line[i].Function; fn != nil {
			f.Name, f.Source = fn.Name, fn.Filename
			if f.Name == "" {
				f.Name = fn.SystemName
			}
		}
		if f.Name == "" {
			f.Name = placeholder(l, mapping)
		}
		dst = append(dst, f)
	}
	if len(l.Line) == 0 {
		dst = append(dst, Frame{Name: placeholder(l, mapping), Mapping: mapping})
	}
	return dst
}

func placeholder(l *profile.Location, mapping string) string {
	switch {
	case strings.HasPrefix(mapping, "["):
		return mapping
	case mapping != "":
		return "[" + path.Base(mapping) + "]"
	case l.Address != 0:
		return fmt.Sprintf("0x%x", l.Address)
	}
	return "[unknown]"
}

// Comm is the comm label of s, "" where it has none.
func Comm(s *profile.Sample) string {
	if v := s.Label["comm"]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// HasComm reports whether any sample of p has a comm label. Where none has
// one, stacks are shown without that level.
func HasComm(p *profile.Profile) bool {
	for _, s := range p.Sample {
		if Comm(s) != "" {
			return true
		}
	}
	return false
}

// UnknownComm stands for the comm of a sample that has none, in a profile
// where others have one.
const UnknownComm = "[unknown]"
