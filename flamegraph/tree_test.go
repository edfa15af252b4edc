package flamegraph

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

// dump prints a line for each node, indented by depth.
func dump(t *tree) string {
	var b strings.Builder
	var left []int32 // children still to come, of each ancestor
	for n, f := range t.frame {
		fmt.Fprintf(&b, "%s%s %s", strings.Repeat("  ", len(left)), t.frames[f].name, kindWord[t.frames[f].kind])
		for _, m := range t.metrics {
			fmt.Fprintf(&b, " %d", m.self[n])
		}
		b.WriteByte('\n')
		left = append(left, t.children[n])
		for len(left) > 0 && left[len(left)-1] == 0 {
			if left = left[:len(left)-1]; len(left) > 0 {
				left[len(left)-1]--
			}
		}
	}
	return b.String()
}

func mustTree(t testing.TB, p *profile.Profile) *tree {
	t.Helper()
	tr, err := newTree(p)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTree(t *testing.T) {
	tests := []struct {
		name string
		make func(m *maker)
		want string
	}{
		{
			name: "own samples and siblings that sort around ';' never split a function",
			make: func(m *maker) {
				m.addNames("", 1, "main", "foo", "child")
				m.addNames("", 2, "main", "foo.cold")
				m.addNames("", 4, "main", "foo")
				m.addNames("", 8, "main", "foo.cold", "child")
				m.addNames("", 16, "main", "foo-bar")
			},
			want: `
all process 0 0
  main native 0 0
    foo native 4 40404040
      child native 1 10101010
    foo-bar native 16 161616160
    foo.cold native 2 20202020
      child native 8 80808080
`,
		},
		{
			name: "comm is a level of its own, missing ones are said so",
			make: func(m *maker) {
				m.addNames("b", 1, "main")
				m.addNames("", 1, "main")
				m.addNames("a", 1)
			},
			want: `
all process 0 0
  [unknown] unnamed 0 0
    main native 1 10101010
  a process 1 10101010
  b process 0 0
    main native 1 10101010
`,
		},
		{
			name: "inlined calls are frames",
			make: func(m *maker) { m.add("", 1, m.in("/bin/app", "inner", "outer"), m.user("leaf")) },
			want: `
all process 0 0
  outer native 0 0
    inner native 0 0
      leaf native 1 10101010
`,
		},
		{
			name: "the kernel's read is not that of libc, two addresses of one function are one",
			make: func(m *maker) {
				m.add("", 1, m.in("/lib/libc.so.6", "read"))
				m.add("", 2, m.in("/lib/libc.so.6", "read"), m.kernel("read"))
				m.add("", 4, m.kernel("read"))
				m.add("", 8, m.in("/bin/static", "read"))
			},
			want: `
all process 0 0
  read kernel 4 40404040
  read native 9 90909090
    read kernel 2 20202020
`,
		},
		{
			name: "recursion stays a chain",
			make: func(m *maker) { m.addNames("", 1, "f", "f", "f") },
			want: `
all process 0 0
  f native 0 0
    f native 0 0
      f native 1 10101010
`,
		},
		{
			name: "invalid UTF-8 is replaced before names are compared",
			make: func(m *maker) {
				m.addNames("", 1, "a\xffb")
				m.addNames("", 1, "a\xfeb")
			},
			want: "\nall process 0 0\n  a\ufffdb native 2 20202020\n",
		},
		{
			name: "nothing",
			make: func(*maker) {},
			want: "\nall process 0 0\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMaker()
			tt.make(m)
			if got := "\n" + dump(mustTree(t, &m.p)); got != tt.want {
				t.Errorf("got:%s\nwant:%s", got, tt.want)
			}
		})
	}
}

func TestTreeLanguageFromAnyLocation(t *testing.T) {
	m := newMaker()
	with := m.user("size")
	without := m.in("/lib/libx.so", "size")
	with.Line[0].Function.Filename = "vector.hpp"
	m.add("", 1, without)
	m.add("", 1, with)
	if got, want := dump(mustTree(t, &m.p)), "all process 0 0\n  size C++ 2 20202020\n"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestShownMetric(t *testing.T) {
	types := func(texts ...string) []*profile.ValueType {
		var out []*profile.ValueType
		for _, s := range texts {
			typ, unit, _ := strings.Cut(s, "/")
			out = append(out, &profile.ValueType{Type: typ, Unit: unit})
		}
		return out
	}
	tests := []struct {
		name string
		p    *profile.Profile
		want int
	}{
		{"cpu time first of all", &profile.Profile{SampleType: types("cpu/nanoseconds", "samples/count")}, 0},
		{"the profile's own default", &profile.Profile{SampleType: types("a/bytes", "b/bytes"), DefaultSampleType: "a"}, 0},
		{"else the last", &profile.Profile{SampleType: types("a/bytes", "b/bytes")}, 1},
		{"none at all", &profile.Profile{}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := shownMetric(tt.p); got != tt.want {
				t.Errorf("shownMetric = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestTreeErrors(t *testing.T) {
	m := newMaker()
	m.addNames("", -1, "f")
	if _, err := newTree(&m.p); !errors.Is(err, ErrNegative) {
		t.Errorf("negative value: error %v, want ErrNegative", err)
	}
	m = newMaker()
	m.p.SampleType = m.p.SampleType[:1]
	m.p.Sample = []*profile.Sample{{Value: []int64{math.MaxInt64}}, {Value: []int64{1}}}
	if _, err := newTree(&m.p); err == nil {
		t.Error("sum over 64 bits: no error")
	}
	m = newMaker()
	m.add("", 1, nil)
	if _, err := newTree(&m.p); err == nil {
		t.Error("invalid profile: no error")
	}
}

func TestTreeDeepStack(t *testing.T) {
	m := newMaker()
	names := make([]string, 100_000)
	for i := range names {
		names[i] = "recurse"
	}
	m.addNames("deep", 1, names...)
	tr := mustTree(t, &m.p)
	if got, want := len(tr.frame), len(names)+2; got != want {
		t.Fatalf("%d nodes, want %d", got, want)
	}
	if boxes := layout(tr, 11800, minStatic); len(boxes) != len(tr.frame) {
		t.Errorf("%d boxes, want %d", len(boxes), len(tr.frame))
	}
}

func BenchmarkTree(b *testing.B) {
	for _, stacks := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("stacks=%d", stacks), func(b *testing.B) {
			p := manyStacks(stacks)
			b.ReportAllocs()
			for b.Loop() {
				mustTree(b, p)
			}
			b.ReportMetric(float64(len(mustTree(b, p).frame)), "nodes")
		})
	}
}
