// Package symbolize gives the addresses of a pprof profile names: from
// kallsyms, ELF symbol tables, Go's pclntab and perf maps. It works per
// distinct address and file, never per sample.
//
// Upstream: aggregate, or any pprof file. Downstream: flamegraph, collapse.
package symbolize

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
)

// Config says where names come from besides the files behind mappings. The
// zero Config is for a profile of this host.
type Config struct {
	// Kallsyms opens the kernel's symbols; nil opens /proc/kallsyms.
	Kallsyms func() (io.ReadCloser, error)
	// KernelSymbols name code that may be gone from kallsyms by now.
	KernelSymbols []KernelSymbol
}

// A KernelSymbol is code that the kernel said it added (PERF_RECORD_KSYMBOL),
// such as a BPF program.
type KernelSymbol struct {
	Addr, Size uint64
	Name       string
}

// A Symbolizer names addresses. It is for one goroutine at a time.
type Symbolizer struct {
	config  Config
	names   demangler
	reasons []Reason
}

// A Reason says why locations of a mapped file have no name.
type Reason struct {
	File      string // Mapping.File; "" for addresses in no mapping
	Text      string
	Locations int
}

// NoSymbol is the Text of a Reason where all went well and nothing is there.
const NoSymbol = "no symbol at the address"

// New returns a Symbolizer.
func New(c Config) *Symbolizer {
	if c.Kallsyms == nil {
		c.Kallsyms = func() (io.ReadCloser, error) { return os.Open("/proc/kallsyms") }
	}
	return &Symbolizer{config: c}
}

// Reasons lists why locations of the last profile have no name, those with
// most locations first.
func (s *Symbolizer) Reasons() []Reason { return s.reasons }

// A query asks for the names of one address.
type query struct {
	addr   elfAddr
	frames []frame // empty while there is no name
	pseudo string  // shown in place of a name; "" is the file, as in [libfoo.so]
	reason string  // why there is no name; "" while that is not known
}

// A frame is a function at an address. Several of one query are inlined into
// each other, innermost first.
type frame struct {
	name      string // the linker's or the run-time's, any bytes
	mangled   bool   // name may be a mangled C++ or Rust name
	file      string // source file; "" when not known
	startLine int64  // of the function; 0 when not known
	line      int64  // of the address; 0 when not known
}

// maxNames bounds the bytes of all names of a file. Large programs have some
// 100 bytes for each of a few thousand functions; hostile ones let each name be
// long.
const maxNames = 16 << 20

var errNames = fmt.Errorf("over %d MB of names", maxNames>>20)

// A resolver is one source of names of one file.
type resolver interface {
	// resolve gives frames to those queries without frames whose address it
	// knows. Queries are sorted by address, no two are equal. What keeps the
	// resolver from answering is returned as an error, and is the reason of
	// all queries that end without frames.
	resolve(q []query) error
}

// A job is the addresses of one file, or of the kernel.
type job struct {
	file      *object.File // nil where there is none
	locations []*profile.Location
	queries   []query
	of        []int32 // index in queries for each location
}

// Symbolize gives every Location of p that has no Line at least one: the
// functions at its address, or one that says why there is no name. object
// returns the file behind a mapping or nil; it may be nil itself. An error
// means that p does not hold what a profile must; it then has names where it
// could have them.
func (s *Symbolizer) Symbolize(p *profile.Profile, object func(*profile.Mapping) *object.File) error {
	jobs := plan(p, object)
	s.run(jobs)

	answers := make(map[*profile.Location]*query, len(p.Location))
	for _, j := range jobs {
		for i, l := range j.locations {
			answers[l] = &j.queries[j.of[i]]
		}
	}
	s.fill(p, answers)
	if err := p.CheckValid(); err != nil {
		return fmt.Errorf("symbolized profile: %w", err)
	}
	return nil
}

// plan groups the locations without lines by file, so that each file is read
// once however many mappings it has.
func plan(p *profile.Profile, file func(*profile.Mapping) *object.File) []*job {
	type key struct {
		file    *object.File
		mapping *profile.Mapping // nil where file is not
	}
	var jobs []*job
	byKey := make(map[key]*job)
	files := make(map[*profile.Mapping]*object.File)
	for _, l := range p.Location {
		if len(l.Line) > 0 || l.Mapping == nil {
			continue
		}
		m := l.Mapping
		f, known := files[m]
		if !known && file != nil {
			f = file(m)
			files[m] = f
		}
		k := key{file: f}
		if f == nil {
			k.mapping = m
		}
		j := byKey[k]
		if j == nil {
			j = &job{file: f}
			byKey[k] = j
			jobs = append(jobs, j)
		}
		j.locations = append(j.locations, l)
	}
	return jobs
}

// maxJobs bounds the files read at once, and with them memory: a job holds
// what it asks and some buffers.
const maxJobs = 4

func (s *Symbolizer) run(jobs []*job) {
	next := make(chan *job)
	var wg sync.WaitGroup
	for range min(maxJobs, runtime.NumCPU(), len(jobs)) {
		wg.Go(func() {
			for j := range next {
				s.answer(j)
			}
		})
	}
	for _, j := range jobs {
		next <- j
	}
	close(next)
	wg.Wait()
}

// answer resolves the queries of a job.
func (s *Symbolizer) answer(j *job) {
	m := j.locations[0].Mapping
	switch {
	case strings.HasPrefix(m.File, "[kernel"):
		j.ask(sameAddr)
		j.resolve(&kernel{open: s.config.Kallsyms, extra: s.config.KernelSymbols})
	case j.file == nil && isAnonymous(m.File):
		j.ask(sameAddr)
		j.fail("[unknown: no perf map]", "no perf map exists")
	case j.file == nil:
		j.ask(sameAddr)
		j.fail("", "the file was not opened")
	case j.file.Kind == object.PerfMap:
		s.answerPerfMap(j)
	default:
		s.answerELF(j)
	}
}

func (s *Symbolizer) answerPerfMap(j *job) {
	j.ask(sameAddr)
	r, size, err := j.file.Open()
	if err != nil {
		j.fail("[unknown: no perf map]", strings.TrimPrefix(err.Error(), j.file.Path+": "))
		return
	}
	j.resolve(&perfMap{r: r, size: size})
}

func (s *Symbolizer) answerELF(j *job) {
	r, size, err := j.file.Open()
	if err != nil {
		j.ask(sameAddr)
		j.fail("", strings.TrimPrefix(err.Error(), j.file.Path+": "))
		return
	}
	h, err := object.ReadHeaders(r, size)
	if err != nil {
		j.ask(sameAddr)
		j.fail("", err.Error())
		return
	}
	j.ask(func(l *profile.Location) (elfAddr, bool) {
		return fileAddr(l.Address, l.Mapping, h.Segments)
	})
	// The best source first: pclntab knows Go's functions with file and line,
	// the symbol tables those of C code linked in, and all others.
	f := elfFile{r: r, size: size, headers: h}
	j.resolve(goFunctions{f}, symbols{f})
}

// ask makes the queries: sorted, one per address. Addresses that convert says
// are none of the file share one, behind the others, that resolvers never see.
func (j *job) ask(convert func(*profile.Location) (elfAddr, bool)) {
	type asked struct {
		addr     elfAddr
		outside  bool
		location int32
	}
	all := make([]asked, len(j.locations))
	for i, l := range j.locations {
		addr, ok := convert(l)
		all[i] = asked{addr, !ok, int32(i)}
		if !ok {
			all[i].addr = ^elfAddr(0)
		}
	}
	slices.SortFunc(all, func(a, b asked) int {
		if a.outside != b.outside {
			if a.outside {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.location, b.location))
	})
	j.of = make([]int32, len(all))
	for i, a := range all {
		if i == 0 || a.addr != all[i-1].addr || a.outside != all[i-1].outside {
			q := query{addr: a.addr}
			if a.outside {
				q.reason = "the address lies outside the file's segments"
			}
			j.queries = append(j.queries, q)
		}
		j.of[a.location] = int32(len(j.queries) - 1)
	}
}

// resolve asks each source for what those before it did not know.
func (j *job) resolve(sources ...resolver) {
	q := j.queries
	for len(q) > 0 && q[len(q)-1].reason != "" {
		q = q[:len(q)-1]
	}
	if len(q) == 0 {
		return
	}
	var problems []string
	for _, r := range sources {
		if err := r.resolve(q); err != nil {
			problems = append(problems, err.Error())
		}
	}
	reason := strings.Join(problems, "; ")
	if reason == "" {
		reason = NoSymbol
	}
	for i := range q {
		if len(q[i].frames) == 0 && q[i].reason == "" {
			q[i].reason = reason
		}
	}
}

// fail leaves all queries without a name, for one reason.
func (j *job) fail(pseudo, reason string) {
	for i := range j.queries {
		j.queries[i].pseudo, j.queries[i].reason = pseudo, reason
	}
}

// isAnonymous reports whether code in a mapping of that name was compiled at
// run time.
func isAnonymous(file string) bool {
	return file == "" || strings.HasPrefix(file, "//anon") ||
		strings.HasPrefix(file, "/tmp/perf-") && path.Ext(file) == ".map"
}
