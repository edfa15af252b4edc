package flamegraph

import (
	"fmt"

	"github.com/google/pprof/profile"
)

// A maker makes profiles of the sample types samples/count and cpu/nanoseconds.
type maker struct {
	p         profile.Profile
	locations map[string]*profile.Location
}

func newMaker() *maker {
	return &maker{
		p: profile.Profile{
			SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		},
		locations: make(map[string]*profile.Location),
	}
}

func (m *maker) mapping(file string) *profile.Mapping {
	for _, have := range m.p.Mapping {
		if have.File == file {
			return have
		}
	}
	made := &profile.Mapping{ID: uint64(len(m.p.Mapping) + 1), File: file}
	m.p.Mapping = append(m.p.Mapping, made)
	return made
}

// in makes a location in a file, with one Line for each name, innermost first.
func (m *maker) in(file string, names ...string) *profile.Location {
	key := fmt.Sprintf("%q %q", file, names)
	if l := m.locations[key]; l != nil {
		return l
	}
	l := &profile.Location{ID: uint64(len(m.p.Location) + 1), Mapping: m.mapping(file)}
	for _, name := range names {
		f := &profile.Function{ID: uint64(len(m.p.Function) + 1), Name: name}
		m.p.Function = append(m.p.Function, f)
		l.Line = append(l.Line, profile.Line{Function: f})
	}
	m.p.Location = append(m.p.Location, l)
	m.locations[key] = l
	return l
}

func (m *maker) user(name string) *profile.Location   { return m.in("/bin/app", name) }
func (m *maker) kernel(name string) *profile.Location { return m.in("[kernel.kallsyms]", name) }

const period = 10_101_010 // ns, of 99 Hz

// add adds a sample, outermost first.
func (m *maker) add(comm string, count int64, stack ...*profile.Location) {
	s := &profile.Sample{Value: []int64{count, count * period}}
	for i := len(stack) - 1; i >= 0; i-- {
		s.Location = append(s.Location, stack[i])
	}
	if comm != "" {
		s.Label = map[string][]string{"comm": {comm}}
	}
	m.p.Sample = append(m.p.Sample, s)
}

// addNames adds a sample of user frames, outermost first.
func (m *maker) addNames(comm string, count int64, names ...string) {
	var stack []*profile.Location
	for _, name := range names {
		stack = append(stack, m.user(name))
	}
	m.add(comm, count, stack...)
}

// hostile are names that a profiled process could choose.
var hostile = []string{
	`</script><script>window.pwned=1</script>`,
	`</title></svg><script xmlns="http://www.w3.org/2000/svg">window.pwned=2</script>`,
	`]]></script><![CDATA[`,
	`--><img src=x onerror="window.pwned=3">`,
	`&lt;&amp;&#0;&bogus;"'`,
	"\x00\x01\x1b[31m\x7f\u0085",
	"\xff\xfe invalid \xc3(",
	"\ufeff\ufffe\uffff\u2028",
	"tab\tline\nreturn\r",
	"javascript:alert(1)",
	"名前::空間<型>::関数",
}

// manyStacks makes deep stacks that share prefixes, as real ones do.
func manyStacks(stacks int) *profile.Profile {
	m := newMaker()
	rng := uint64(1)
	random := func(n uint64) uint64 {
		rng = rng*6364136223846793005 + 1442695040888963407
		return rng >> 33 % n
	}
	var stack []*profile.Location
	for range stacks {
		stack = stack[:min(len(stack), 4+int(random(28)))]
		for len(stack) < 30 {
			if f := random(4000); f%5 == 0 {
				stack = append(stack, m.kernel(fmt.Sprintf("__sys_op_%d", f)))
			} else {
				stack = append(stack, m.user(fmt.Sprintf("ns::Widget<int, T%d>::method_%d(int)", f%97, f)))
			}
		}
		m.add(fmt.Sprintf("proc%d", random(4)), 1+int64(random(1000)), stack...)
	}
	return &m.p
}
