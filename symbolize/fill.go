package symbolize

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// fill writes the answers into p. Functions are numbered in the order in which
// the Locations first need them, so that equal profiles get equal bytes.
func (s *Symbolizer) fill(p *profile.Profile, answers map[*profile.Location]*query) {
	s.names.reset()
	functions := newFunctions(p)
	counts := make(map[Reason]int)
	touched := make(map[*profile.Mapping]bool)
	for _, l := range p.Location {
		if len(l.Line) > 0 {
			continue
		}
		q := answers[l]
		if q == nil {
			counts[Reason{Text: "the address is in no mapping"}]++
			l.Line = []profile.Line{{Function: functions.get(function{name: "[unknown: unmapped]"})}}
			continue
		}
		touched[l.Mapping] = true
		for _, f := range q.frames {
			l.Line = append(l.Line, profile.Line{
				Function: functions.get(s.function(f)),
				Line:     f.line,
			})
		}
		if len(l.Line) == 0 {
			counts[Reason{File: l.Mapping.File, Text: cleanName(q.reason)}]++
			l.Line = []profile.Line{{Function: functions.get(function{name: pseudoName(q, l.Mapping)})}}
		}
	}
	setFlags(p, touched)
	s.reasons = sortReasons(counts)
}

func pseudoName(q *query, m *profile.Mapping) string {
	switch {
	case q.pseudo != "":
		return q.pseudo
	case m.File == "":
		return "[unknown: no file]"
	case strings.HasPrefix(m.File, "["):
		return cleanName(m.File)
	}
	return "[" + cleanName(path.Base(strings.TrimSuffix(m.File, " (deleted)"))) + "]"
}

// isPseudo reports whether a function stands for one whose name is not known.
func isPseudo(name string) bool {
	return strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]")
}

// setFlags says in the mappings what their functions have: names, if any
// location has one; files and lines, if every named function has them.
func setFlags(p *profile.Profile, touched map[*profile.Mapping]bool) {
	type count struct{ named, files, lines int }
	counts := make(map[*profile.Mapping]*count)
	for m := range touched {
		counts[m] = &count{}
	}
	for _, l := range p.Location {
		c := counts[l.Mapping]
		if c == nil {
			continue
		}
		for _, ln := range l.Line {
			if ln.Function == nil || isPseudo(ln.Function.Name) {
				continue
			}
			c.named++
			if ln.Function.Filename != "" {
				c.files++
			}
			if ln.Line != 0 {
				c.lines++
			}
		}
	}
	for m, c := range counts {
		m.HasFunctions = c.named > 0
		m.HasFilenames = c.named > 0 && c.files == c.named
		m.HasLineNumbers = c.named > 0 && c.lines == c.named
	}
}

func sortReasons(counts map[Reason]int) []Reason {
	var all []Reason
	for r, n := range counts {
		r.Locations = n
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(b.Locations, a.Locations), cmp.Compare(a.File, b.File), cmp.Compare(a.Text, b.Text))
	})
	return all
}

// A function is what makes a profile.Function distinct.
type function struct {
	name, systemName, file string
	startLine              int64
}

// function makes a frame fit for a profile.
func (s *Symbolizer) function(f frame) function {
	fn := function{systemName: cleanName(f.name), file: cleanName(f.file), startLine: f.startLine}
	fn.name = fn.systemName
	if f.mangled {
		fn.name = cleanName(s.names.name(f.name))
	}
	return fn
}

// functions are the Functions of a profile by content.
type functions struct {
	p      *profile.Profile
	known  map[function]*profile.Function
	lastID uint64
}

func newFunctions(p *profile.Profile) *functions {
	fs := &functions{p: p, known: make(map[function]*profile.Function)}
	for _, f := range p.Function {
		fs.lastID = max(fs.lastID, f.ID)
		k := function{f.Name, f.SystemName, f.Filename, f.StartLine}
		if fs.known[k] == nil {
			fs.known[k] = f
		}
	}
	return fs
}

func (fs *functions) get(k function) *profile.Function {
	f := fs.known[k]
	if f == nil {
		fs.lastID++
		f = &profile.Function{ID: fs.lastID, Name: k.name, SystemName: k.systemName, Filename: k.file, StartLine: k.startLine}
		fs.known[k] = f
		fs.p.Function = append(fs.p.Function, f)
	}
	return f
}
