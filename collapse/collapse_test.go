package collapse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/pprof/profile"

	"hotframe/internal/testutil"
)

// builder makes profiles whose sample types are samples/count and cpu/nanoseconds.
type builder struct {
	p         profile.Profile
	locations map[string]*profile.Location
}

func newBuilder() *builder {
	return &builder{
		p: profile.Profile{
			SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
			Mapping:    []*profile.Mapping{{ID: 1, File: "/bin/app"}, {ID: 2, File: "[kernel.kallsyms]"}},
		},
		locations: make(map[string]*profile.Location),
	}
}

// location has one Line for each name, innermost first.
func (b *builder) location(m *profile.Mapping, names ...string) *profile.Location {
	key := fmt.Sprintf("%d %q", m.ID, names)
	if l := b.locations[key]; l != nil {
		return l
	}
	l := &profile.Location{ID: uint64(len(b.p.Location) + 1), Mapping: m}
	for _, name := range names {
		f := &profile.Function{ID: uint64(len(b.p.Function) + 1), Name: name}
		b.p.Function = append(b.p.Function, f)
		l.Line = append(l.Line, profile.Line{Function: f})
	}
	b.p.Location = append(b.p.Location, l)
	b.locations[key] = l
	return l
}

func (b *builder) user(names ...string) *profile.Location {
	return b.location(b.p.Mapping[0], names...)
}

func (b *builder) kernel(names ...string) *profile.Location {
	return b.location(b.p.Mapping[1], names...)
}

// add adds a sample, leaf first.
func (b *builder) add(comm string, count int64, leafFirst ...*profile.Location) {
	s := &profile.Sample{Value: []int64{count, count * 10_101_010}, Location: leafFirst}
	if comm != "" {
		s.Label = map[string][]string{"comm": {comm}}
	}
	b.p.Sample = append(b.p.Sample, s)
}

func folded(t testing.TB, p *profile.Profile) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := WriteFolded(&out, p); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWriteFoldedGolden(t *testing.T) {
	b := newBuilder()
	main := b.user("main")
	b.add("app", 3, b.user("work"), main)
	b.add("app", 4, b.user("work"), main) // equal stacks are one line
	b.add("app", 1, b.user("work.cold"), main)
	b.add("app", 2, b.user("leaf"), b.user("work"), main)
	b.add("app", 5, b.kernel("vfs_read", "ksys_read"), b.user("read"), main)
	b.add("two words;x", 1, b.user("f(int; char)"), main)
	b.add("bad\xffbyte\n", 1, b.user("a\r\nb\x00\u2028"), main)
	b.add("", 1, main)
	b.add("kworker/0:1", 6)
	b.add("zero", 0, main)
	testutil.Golden(t, folded(t, &b.p), "stacks.folded")
}

func TestWriteFoldedWithoutComm(t *testing.T) {
	b := newBuilder()
	b.add("", 2, b.user("f"), b.user("main"))
	b.add("", 1)
	if got, want := string(folded(t, &b.p)), "[unknown] 1\nmain;f 2\n"; got != want {
		t.Errorf("folded %q, want %q", got, want)
	}
}

func TestWriteFoldedTakesFirstTypeWithoutCount(t *testing.T) {
	b := newBuilder()
	b.p.SampleType = []*profile.ValueType{{Type: "alloc_space", Unit: "bytes"}, {Type: "inuse_space", Unit: "bytes"}}
	b.add("", 7, b.user("f"))
	if got, want := string(folded(t, &b.p)), "f 7\n"; got != want {
		t.Errorf("folded %q, want %q", got, want)
	}
}

func TestWriteFoldedErrors(t *testing.T) {
	b := newBuilder()
	b.add("a", -1, b.user("f"))
	if err := WriteFolded(new(bytes.Buffer), &b.p); !errors.Is(err, ErrNegative) {
		t.Errorf("negative count: error %v, want ErrNegative", err)
	}

	b = newBuilder()
	b.add("a", math.MaxInt64, b.user("f"))
	b.add("a", 1, b.user("f"))
	if err := WriteFolded(new(bytes.Buffer), &b.p); err == nil {
		t.Error("overflowing count: no error")
	}

	b = newBuilder()
	b.add("a", 1, nil)
	if err := WriteFolded(new(bytes.Buffer), &b.p); err == nil {
		t.Error("invalid profile: no error")
	}

	b = newBuilder()
	b.add("a", 1, b.user("f"))
	if err := WriteFolded(failingWriter{}, &b.p); !errors.Is(err, errDisk) {
		t.Errorf("failing writer: error %v, want that of the writer", err)
	}
}

var errDisk = errors.New("no space left")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errDisk }

// FuzzWriteFolded makes stacks of hostile names and holds that each line
// splits back into as many frames and a positive count, that lines ascend and
// that no count is lost.
func FuzzWriteFolded(f *testing.F) {
	f.Add("comm", "main\x1ework\x1fcold\x1fleaf", int64(3))
	f.Add("a b;c", ";\x1e\n\x1f 12\x1f\xff", int64(1))
	f.Add("", " \x1f\x1e1", int64(9))
	f.Fuzz(func(t *testing.T, comm, text string, count int64) {
		count &= 1<<32 - 1
		b := newBuilder()
		frames := make(map[string]bool) // "has comm + depth" that a line may have
		var total int64
		for i, stack := range strings.Split(text, "\x1e") {
			var locations []*profile.Location
			for j, name := range strings.Split(stack, "\x1f") {
				m := b.p.Mapping[(i+j)%2]
				locations = append(locations, b.location(m, name))
			}
			b.add(comm, count+int64(i), locations...)
			total += count + int64(i)
			depth := len(locations)
			if comm != "" {
				depth++
			}
			frames[strconv.Itoa(depth)] = true
		}
		out := folded(t, &b.p)
		if !utf8.Valid(out) {
			t.Fatalf("invalid UTF-8: %q", out)
		}
		var sum int64
		last := ""
		for line := range strings.Lines(string(out)) {
			line, ok := strings.CutSuffix(line, "\n")
			cut := strings.LastIndexByte(line, ' ')
			if !ok || cut < 0 {
				t.Fatalf("line %q does not split", line)
			}
			n, err := strconv.ParseInt(line[cut+1:], 10, 64)
			if err != nil || n <= 0 {
				t.Fatalf("line %q: count is not positive", line)
			}
			sum += n
			stack := line[:cut]
			if depth := strings.Count(stack, ";") + 1; !frames[strconv.Itoa(depth)] {
				t.Fatalf("stack %q has %d frames, want one of %v", stack, depth, frames)
			}
			if strings.ContainsFunc(stack, unicode.IsControl) {
				t.Fatalf("stack %q has control characters", stack)
			}
			if stack <= last {
				t.Fatalf("stack %q follows %q", stack, last)
			}
			last = stack
		}
		if sum != total {
			t.Fatalf("counts sum to %d, want %d", sum, total)
		}
	})
}

func BenchmarkWriteFolded(b *testing.B) {
	for _, stacks := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("stacks=%d", stacks), func(b *testing.B) {
			pb := newBuilder()
			rng := uint32(1)
			for range stacks {
				var locations []*profile.Location
				for depth := range 30 {
					rng = rng*1664525 + 1013904223
					locations = append(locations, pb.user(fmt.Sprintf("function_%d_%d", depth, rng>>24)))
				}
				pb.add("bench", 1, locations...)
			}
			b.SetBytes(int64(len(folded(b, &pb.p))))
			b.ReportAllocs()
			for b.Loop() {
				if err := WriteFolded(io.Discard, &pb.p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
