package summary

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/pprof/profile"

	"hotframe/internal/frames"
)

// Shares is what a finished profile says about itself.
type Shares struct {
	Samples  int64
	Complete int64   // of the samples: their outermost frame is a root
	Frames   int64   // of all samples together
	Named    int64   // of the frames
	Unnamed  []Tally // the others by why they have no name, most frequent first
	Time     int64   // CPU time, ns
	Cut      []Tally // reasons and files of the samples that are not complete
	Hottest  []Tally // functions, by the CPU time in themselves, ns
}

// A Tally is a name with what was counted for it.
type Tally struct {
	Name  string
	Count int64
}

// Indexes into Sample.Value, the contract with package aggregate.
const (
	valueSamples = 0
	valueTime    = 1
)

const (
	shownFunctions = 10
	shownCuts      = 5
)

// Measure counts what is in a symbolized profile of package aggregate. A stack is complete if
// it is one of bottoms, as unwind information told, or if isRoot knows its outermost
// function: ProgramRoot, or KernelRoot for profiles without user stacks.
func Measure(p *profile.Profile, bottoms map[*profile.Sample]bool, isRoot func(frames.Frame) bool) Shares {
	var s Shares
	unnamed := make(map[string]int64)
	self := make(map[string]int64)
	cut := make(map[string]int64)
	var stack []frames.Frame // one location's, outermost first
	for _, sample := range p.Sample {
		n := sample.Value[valueSamples]
		s.Samples += n
		s.Time += sample.Value[valueTime]
		for i, l := range sample.Location {
			stack = frames.Append(stack[:0], l)
			for _, f := range stack {
				s.Frames += n
				if reason := whyUnnamed(f.Name); reason != "" {
					unnamed[reason] += n
				} else {
					s.Named += n
				}
			}
			if i == 0 {
				self[stack[len(stack)-1].Name] += sample.Value[valueTime]
			}
			if i == len(sample.Location)-1 {
				if bottoms[sample] || isRoot(stack[0]) {
					s.Complete += n
				} else {
					cut[whyCut(sample, stack[0])] += n
				}
			}
		}
	}
	s.Unnamed = top(unnamed, len(unnamed))
	s.Hottest = top(self, shownFunctions)
	s.Cut = top(cut, shownCuts)
	return s
}

// whyCut says why a stack is not complete and where: in the file of the outermost frame
// that is there. last is the outermost frame of all.
func whyCut(sample *profile.Sample, last frames.Frame) string {
	reason := "begins at no known root"
	if strings.HasPrefix(last.Name, "[unknown") {
		reason = whyUnnamed(last.Name)
	}
	for i := len(sample.Location) - 1; i >= 0; i-- {
		if m := sample.Location[i].Mapping; m != nil {
			return reason + " in " + path.Base(m.File)
		}
	}
	return reason
}

// whyUnnamed is "" for the name of a function.
func whyUnnamed(name string) string {
	inner, ok := strings.CutPrefix(name, "[")
	if !ok {
		return ""
	}
	inner = strings.TrimSuffix(inner, "]")
	if reason, ok := strings.CutPrefix(inner, "unknown: "); ok {
		return reason
	}
	if inner == "unknown" {
		return "unknown"
	}
	return "no symbol in " + inner
}

// top returns the n largest, those of equal count by name.
func top(counts map[string]int64, n int) []Tally {
	all := make([]Tally, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, Tally{name, counts[name]})
	}
	slices.SortStableFunc(all, func(a, b Tally) int { return cmp.Compare(b.Count, a.Count) })
	return all[:min(n, len(all))]
}
