package sampler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// drain reads src to its end and writes down all that a reader can see of it:
// samples with what they point to, as it was then. Pointers are numbered, so
// that two sources are equal that share equally.
func drain(src Source) (seen []string, stats Stats, err error) {
	ids := make(map[any]int)
	id := func(p any) int {
		if ids[p] == 0 {
			ids[p] = len(ids) + 1
		}
		return ids[p]
	}
	stack := func(s *Stack) string {
		if s == nil {
			return "none"
		}
		return fmt.Sprintf("stack %d %#x %v", id(s), s.Frames, s.Stop)
	}
	for {
		var s Sample
		if err := src.Read(&s); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return seen, src.Stats(), err
		}
		p := s.Process
		line := fmt.Sprintf("%d %d/%d cpu %d period %d %q %q, kernel %s, user %s, process %d %d %d %q %q",
			s.Time, s.PID, s.TID, s.CPU, s.Period, s.Comm[:], s.Cgroup, stack(s.Kernel), stack(s.User),
			id(p), p.PID, p.Start, p.Exe, p.Cgroup)
		for _, m := range p.Mappings() {
			line += fmt.Sprintf(" %x-%x %x %q %d %d", m.Start, m.End, m.Offset, m.Path, m.Device, m.Inode)
		}
		seen = append(seen, line)
	}
}

func TestReplayOfRecordingIsEqual(t *testing.T) {
	original, err := os.ReadFile("../testdata/samples/mixed.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	n := checkRoundTrip(t, original)
	if n != 16 {
		t.Errorf("%d samples, want 16", n)
	}
}

// checkRoundTrip replays a recording while recording it, replays that, and
// wants both to be equal. It returns the number of samples.
func checkRoundTrip(t *testing.T, original []byte) int {
	t.Helper()
	var copied bytes.Buffer
	first, firstStats, err := drain(NewRecorder(&copied, NewReplay(bytes.NewReader(original))))
	if err != nil {
		return 0
	}
	second, secondStats, err := drain(NewReplay(&copied))
	if err != nil {
		t.Fatalf("replay of what was recorded: %v", err)
	}
	if a, b := strings.Join(first, "\n"), strings.Join(second, "\n"); a != b {
		t.Errorf("replay is\n%s\nwant\n%s", b, a)
	}
	if firstStats != secondStats {
		t.Errorf("stats are %v, want %v", secondStats, firstStats)
	}
	return len(first)
}

func TestReplayRefuses(t *testing.T) {
	const process = `{"process":{"id":1,"pid":1}}` + "\n"
	tests := []struct {
		name, recording string // behind the version
		want            string
	}{
		{"nothing behind the version", "", "recording is cut short: no stats at its end: unexpected EOF"},
		{"no stats, as where the recorder was killed", process + `{"sample":{"pid":1,"tid":1,"process":1}}`,
			"recording is cut short: no stats at its end: unexpected EOF"},
		{"a line cut short", `{"process":{"id":1,`, "recording, line 2: unexpected EOF"},
		{"no JSON", "sample", "recording, line 2: invalid character 's' looking for beginning of value"},
		{"two objects in a line", `{"process":{"id":1}} {}`, "recording, line 2: more than one object"},
		{"no member", `{}`, "recording, line 2: 0 members, want one"},
		{"two members", `{"process":{"id":1},"stats":{}}`, "recording, line 2: 2 members, want one"},
		{"a member of a later version", `{"event":{}}`, `recording, line 2: json: unknown field "event"`},
		{"another version", `{"version":2}`, "recording, line 2: version 2, want 1, once"},
		{"a line behind the stats", `{"stats":{}}` + "\n" + process, "recording, line 3: the stats are not the last line"},
		{"a process twice", process + process, "recording, line 3: process 1 is defined twice"},
		{"a sample of no process", `{"sample":{"process":1}}`, "recording, line 2: process 1 is not defined"},
		{"a mapping of no process", `{"mapping":{"process":1}}`, "recording, line 2: process 1 is not defined"},
		{"an empty mapping", process + `{"mapping":{"process":1,"start":"0x1","end":"0x1"}}`, "recording, line 3: mapping from 0x1 to 0x1"},
		{"mappings that overlap", process +
			`{"mapping":{"process":1,"start":"0x2","end":"0x4"}}` + "\n" +
			`{"mapping":{"process":1,"start":"0x4","end":"0x5"}}` + "\n" +
			`{"mapping":{"process":1,"start":"0x1","end":"0x2"}}` + "\n" +
			`{"mapping":{"process":1,"start":"0x0","end":"0xffffffffffffffff"}}`,
			"recording, line 6: mapping from 0x0 to 0xffffffffffffffff overlaps another"},
		{"a decimal address", process + `{"mapping":{"process":1,"start":"1","end":"0x2"}}`, `recording, line 3: "1" does not begin with 0x`},
		{"a sample of no stack", process + `{"sample":{"process":1,"user":3}}`, "recording, line 3: stack 3 is not defined"},
		{"stack 0, which is none", `{"stack":{"id":0,"stop":"not walked"}}`, "recording, line 2: stack 0 is defined twice, or is 0"},
		{"a stop reason of a later version", `{"stack":{"id":1,"stop":"bored"}}`, `recording, line 2: no stop reason is called "bored"`},
		{"an outcome of a later version", `{"stats":{"outcomes":{"bored":1}}}`, `recording, line 2: no outcome is called "bored"`},
		{"a long comm", process + `{"sample":{"process":1,"comm":"12345678901234567"}}`,
			`recording, line 3: comm "12345678901234567" has more than 16 bytes`},
		{"a bad escape", `{"process":{"id":1,"exe":"\\q"}}`, `recording, line 2: "\\q": invalid syntax`},
		{"a long line", `{"process":{"id":1,"exe":"` + strings.Repeat("a", maxRecordingLine), "recording, line 2: bufio.Scanner: token too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReplay(strings.NewReader(`{"version":1}` + "\n" + tt.recording))
			_, _, err := drain(r)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error is %q, want %q", fmt.Sprint(err), tt.want)
			}
			if again := r.Read(new(Sample)); again != err {
				t.Errorf("the next Read says %v, want the same error", again)
			}
		})
	}
}

func TestReplayWithoutVersion(t *testing.T) {
	_, _, err := drain(NewReplay(strings.NewReader(`{"stats":{}}`)))
	if want := "recording, line 1: the first line is not the version"; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

func TestReplayHoldsBoundedMemory(t *testing.T) {
	r := NewReplay(strings.NewReader("{\"version\":1}\n{\"process\":{\"id\":1}}\n{\"process\":{\"id\":2}}\n"))
	r.held = maxRecordingHeld - 40 // as after 128 MB of definitions
	_, _, err := drain(r)
	if want := "recording, line 3: definitions of more than 134217728 bytes"; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

// list is a Source of the samples that its functions make.
type list struct {
	samples []func(*Sample)
	stats   Stats
}

func (l *list) Read(s *Sample) error {
	if len(l.samples) == 0 {
		return io.EOF
	}
	l.samples[0](s)
	l.samples = l.samples[1:]
	return nil
}

func (l *list) Info() Info                    { return Info{Backend: "test"} }
func (l *list) KernelSymbols() []KernelSymbol { return nil }
func (l *list) Stop() error                   { return nil }
func (l *list) Stats() Stats                  { return l.stats }
func (l *list) Close() error                  { return nil }

// TestRecorder: the recording defines what it needs once, at the first sample
// that needs it, and a mapping that a process makes later then.
func TestRecorder(t *testing.T) {
	p := NewProcess(7, &Mapping{Start: 0x1000, End: 0x2000, Path: "/bin/\xff\"\\", Inode: 3})
	user := &Stack{Frames: []Addr{0x1010, 0x1020}, Stop: StopDepth}
	sample := func(s *Sample) {
		*s = Sample{Time: 5, PID: 7, TID: 8, Comm: Comm{'a', 0, 0xff}, User: user, Process: p}
	}
	mapMore := func(s *Sample) {
		p.mappings = append(p.mappings, &Mapping{Start: 0x3000, End: 0x4000, Offset: 16, Path: "//anon"})
		sample(s)
	}
	src := &list{samples: []func(*Sample){sample, sample, mapMore}, stats: Stats{Ticks: 4}}
	src.stats.Outcomes[OutcomeEmitted], src.stats.Outcomes[OutcomeIdle] = 3, 1

	var b strings.Builder
	r := NewRecorder(&b, src)
	seen, _, err := drain(r)
	if err != nil || len(seen) != 3 {
		t.Fatalf("%d samples, %v, want 3", len(seen), err)
	}
	if err := r.Read(new(Sample)); err != io.EOF {
		t.Errorf("Read behind the end: %v, want EOF", err)
	}
	const want = `{"version":1}
{"process":{"id":1,"pid":7}}
{"mapping":{"process":1,"start":"0x1000","end":"0x2000","path":"/bin/\\xff\\\"\\\\","inode":3}}
{"stack":{"id":1,"frames":["0x1010","0x1020"],"stop":"max depth"}}
{"sample":{"time":5,"pid":7,"tid":8,"comm":"a\\x00\\xff","user":1,"process":1}}
{"sample":{"time":5,"pid":7,"tid":8,"comm":"a\\x00\\xff","user":1,"process":1}}
{"mapping":{"process":1,"start":"0x3000","end":"0x4000","offset":"0x10","path":"//anon"}}
{"sample":{"time":5,"pid":7,"tid":8,"comm":"a\\x00\\xff","user":1,"process":1}}
{"stats":{"ticks":4,"outcomes":{"emitted":3,"idle":1}}}
`
	if b.String() != want {
		t.Errorf("recording is\n%s\nwant\n%s", b.String(), want)
	}
}

type full struct{ left int }

func (w *full) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

func TestRecorderReportsWriteErrors(t *testing.T) {
	for _, size := range []int{0, 4096} {
		recording, err := os.Open("../testdata/samples/mixed.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		defer recording.Close()
		_, _, err = drain(NewRecorder(&full{size}, NewReplay(recording)))
		if want := "write recording: disk full"; err == nil || err.Error() != want {
			t.Errorf("with room for %d bytes the error is %v, want %s", size, err, want)
		}
	}
}

// FuzzReplay: a recording is refused, or what it yields comes out equal once
// it was recorded and replayed.
func FuzzReplay(f *testing.F) {
	mixed, err := os.ReadFile("../testdata/samples/mixed.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mixed)
	f.Add([]byte("{\"version\":1}\n{\"process\":{\"id\":1,\"pid\":1}}\n" +
		"{\"sample\":{\"pid\":1,\"tid\":1,\"comm\":\"\\\\xff\",\"process\":1}}\n" +
		"{\"mapping\":{\"process\":1,\"start\":\"0x1\",\"end\":\"0x2\"}}\n" +
		"{\"sample\":{\"pid\":1,\"tid\":1,\"process\":1}}\n{\"stats\":{}}\n"))
	f.Fuzz(func(t *testing.T, recording []byte) {
		checkRoundTrip(t, recording)
	})
}
