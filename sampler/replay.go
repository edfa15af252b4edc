package sampler

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// A recordingLine is one line of a recording of samples, a text of one JSON
// object a line; empty lines and those that begin with # are skipped. Every
// object has one member, which says what the line defines, and later lines
// refer to it by its id:
//
//	{"version":1}
//	{"process":{"id":1,"pid":7,"start":5,"exe":"/bin/p","cgroup":"/"}}
//	{"mapping":{"process":1,"start":"0x400000","end":"0x401000","offset":"0x1000","path":"/bin/p","device":2049,"inode":3}}
//	{"stack":{"id":1,"frames":["0x400010","0x400f00"],"stop":"frame pointer chain ended"}}
//	{"sample":{"time":9,"pid":7,"tid":7,"cpu":1,"period":10101010,"comm":"p","cgroup":"/","user":1,"process":1}}
//	{"stats":{"ticks":1,"outcomes":{"emitted":1}}}
//
// The version comes first and the stats last; without them the recording is
// cut short. Addresses, and offsets, are hexadecimal. Names may be any bytes
// and are written as between the quotes of a Go string literal; stop reasons
// and outcomes are written as their String methods do. What is 0 or "" is left
// out, and a sample without a half of its stack has no such member. The files
// behind mappings are not recorded.
type recordingLine struct {
	Version int               `json:"version,omitempty"`
	Process *recordingProcess `json:"process,omitempty"`
	Mapping *recordingMapping `json:"mapping,omitempty"`
	Stack   *recordingStack   `json:"stack,omitempty"`
	Sample  *recordingSample  `json:"sample,omitempty"`
	Stats   *recordingStats   `json:"stats,omitempty"`
}

type recordingProcess struct {
	ID     uint64     `json:"id"`
	PID    int32      `json:"pid"`
	Start  uint64     `json:"start,omitempty"`
	Exe    quotedText `json:"exe,omitempty"`
	Cgroup quotedText `json:"cgroup,omitempty"`
}

type recordingMapping struct {
	Process uint64     `json:"process"`
	Start   hexText    `json:"start"`
	End     hexText    `json:"end"`
	Offset  hexText    `json:"offset,omitempty"`
	Path    quotedText `json:"path,omitempty"`
	Device  uint64     `json:"device,omitempty"`
	Inode   uint64     `json:"inode,omitempty"`
}

type recordingStack struct {
	ID     uint64    `json:"id"`
	Frames []hexText `json:"frames"`
	Stop   string    `json:"stop"`
}

type recordingSample struct {
	Time    uint64     `json:"time,omitempty"`
	PID     int32      `json:"pid"`
	TID     int32      `json:"tid"`
	CPU     uint32     `json:"cpu,omitempty"`
	Period  uint64     `json:"period,omitempty"`
	Comm    quotedText `json:"comm,omitempty"`
	Cgroup  quotedText `json:"cgroup,omitempty"`
	Kernel  uint64     `json:"kernel,omitempty"`
	User    uint64     `json:"user,omitempty"`
	Process uint64     `json:"process"`
}

type recordingStats struct {
	Ticks        uint64            `json:"ticks"`
	Outcomes     map[string]uint64 `json:"outcomes,omitempty"`
	SidebandLost uint64            `json:"sideband_lost,omitempty"`
}

const (
	recordingVersion = 1

	// A line holds a stack of 512 frames, or a path of PATH_MAX bytes, escaped.
	maxRecordingLine = 64 << 10
	// Definitions are kept until the end. Decoded, they take some ten times
	// the bytes of their lines at most.
	maxRecordingHeld = 128 << 20
	// The default of vm.max_map_count, rounded up.
	maxRecordingMappings = 1 << 16
)

// hexText is written as a string, "0x1f".
type hexText uint64

func (h hexText) MarshalText() ([]byte, error) {
	return strconv.AppendUint([]byte("0x"), uint64(h), 16), nil
}

func (h *hexText) UnmarshalText(b []byte) error {
	digits, ok := strings.CutPrefix(string(b), "0x")
	if !ok {
		return fmt.Errorf("%q does not begin with 0x", b)
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	*h = hexText(n)
	return err
}

// quotedText is any bytes, written with Go's escapes, so that no byte is lost.
type quotedText string

func (t quotedText) MarshalText() ([]byte, error) {
	quoted := strconv.Quote(string(t))
	return []byte(quoted[1 : len(quoted)-1]), nil
}

func (t *quotedText) UnmarshalText(b []byte) error {
	s, err := strconv.Unquote(`"` + string(b) + `"`)
	if err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	*t = quotedText(s)
	return nil
}

// A Replay is a Source that yields the samples of a recording.
type Replay struct {
	lines     *bufio.Scanner
	line      int
	held      int // bytes of the lines whose content is kept
	started   bool
	stats     *Stats // set by the last line
	processes map[uint64]*Process
	stacks    map[uint64]*Stack
	err       error // of the last Read, and of all that follow
}

// NewReplay returns a Source that reads a recording from r.
func NewReplay(r io.Reader) *Replay {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxRecordingLine)
	return &Replay{
		lines:     lines,
		processes: make(map[uint64]*Process),
		stacks:    make(map[uint64]*Stack),
	}
}

// Read returns io.EOF after the last sample of a recording that is complete,
// whether or not Stop was called: the samples were taken before.
func (r *Replay) Read(s *Sample) error {
	for r.err == nil {
		rec, err := r.next()
		if err != nil {
			r.err = err
			break
		}
		if err := r.apply(rec, s); err != nil {
			r.err = fmt.Errorf("recording, line %d: %w", r.line, err)
			break
		}
		if rec.Sample != nil {
			return nil
		}
	}
	return r.err
}

// Info tells that the samples are of another time.
func (r *Replay) Info() Info { return Info{Backend: "replay"} }

// KernelSymbols is empty: a recording does not keep them.
func (r *Replay) KernelSymbols() []KernelSymbol { return nil }

// Stop does nothing.
func (r *Replay) Stop() error { return nil }

// Close does nothing: the reader is the caller's.
func (r *Replay) Close() error { return nil }

// Stats is the account at the end of the recording, zero before Read came there.
func (r *Replay) Stats() Stats {
	if r.stats == nil {
		return Stats{}
	}
	return *r.stats
}

// next returns the next line, which has one member.
func (r *Replay) next() (*recordingLine, error) {
	for r.lines.Scan() {
		r.line++
		line := bytes.TrimSpace(r.lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		rec, err := decodeRecordingLine(line)
		if err == nil && rec.Sample == nil {
			if r.held += len(line); r.held > maxRecordingHeld {
				err = fmt.Errorf("definitions of more than %d bytes", maxRecordingHeld)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("recording, line %d: %w", r.line, err)
		}
		return rec, nil
	}
	if err := r.lines.Err(); err != nil {
		return nil, fmt.Errorf("recording, line %d: %w", r.line+1, err)
	}
	if r.stats == nil {
		return nil, fmt.Errorf("recording is cut short: no stats at its end: %w", io.ErrUnexpectedEOF)
	}
	return nil, io.EOF
}

func decodeRecordingLine(line []byte) (*recordingLine, error) {
	var rec recordingLine
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&rec); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one object")
	}
	members := 0
	for _, is := range []bool{
		rec.Version != 0, rec.Process != nil, rec.Mapping != nil,
		rec.Stack != nil, rec.Sample != nil, rec.Stats != nil,
	} {
		if is {
			members++
		}
	}
	if members != 1 {
		return nil, fmt.Errorf("%d members, want one", members)
	}
	return &rec, nil
}

func (r *Replay) apply(rec *recordingLine, s *Sample) error {
	switch {
	case r.stats != nil:
		return errors.New("the stats are not the last line")
	case rec.Version != 0 && (r.started || rec.Version != recordingVersion):
		return fmt.Errorf("version %d, want %d, once", rec.Version, recordingVersion)
	case rec.Version == 0 && !r.started:
		return errors.New("the first line is not the version")
	case rec.Version != 0:
		r.started = true
		return nil
	case rec.Process != nil:
		return r.defineProcess(rec.Process)
	case rec.Mapping != nil:
		return r.defineMapping(rec.Mapping)
	case rec.Stack != nil:
		return r.defineStack(rec.Stack)
	case rec.Sample != nil:
		return r.sample(rec.Sample, s)
	}
	return r.account(rec.Stats)
}

func (r *Replay) defineProcess(p *recordingProcess) error {
	if r.processes[p.ID] != nil {
		return fmt.Errorf("process %d is defined twice", p.ID)
	}
	r.processes[p.ID] = &Process{PID: p.PID, Start: p.Start, Exe: string(p.Exe), Cgroup: string(p.Cgroup)}
	return nil
}

func (r *Replay) defineMapping(m *recordingMapping) error {
	p := r.processes[m.Process]
	if p == nil {
		return fmt.Errorf("process %d is not defined", m.Process)
	}
	if m.Start >= m.End {
		return fmt.Errorf("mapping from %#x to %#x", uint64(m.Start), uint64(m.End))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mappings) >= maxRecordingMappings {
		return fmt.Errorf("process %d has more than %d mappings", m.Process, maxRecordingMappings)
	}
	start, end := Addr(m.Start), Addr(m.End)
	at, _ := slices.BinarySearchFunc(p.mappings, start, func(m *Mapping, a Addr) int {
		if m.End <= a {
			return -1
		}
		return 1
	})
	if at < len(p.mappings) && p.mappings[at].Start < end {
		return fmt.Errorf("mapping from %#x to %#x overlaps another", uint64(m.Start), uint64(m.End))
	}
	p.mappings = slices.Insert(p.mappings, at, &Mapping{
		Start:  start,
		End:    end,
		Offset: uint64(m.Offset),
		Path:   string(m.Path),
		Device: m.Device,
		Inode:  m.Inode,
	})
	return nil
}

func (r *Replay) defineStack(st *recordingStack) error {
	if st.ID == 0 || r.stacks[st.ID] != nil {
		return fmt.Errorf("stack %d is defined twice, or is 0", st.ID)
	}
	i := slices.Index(stopReasonText[:], st.Stop)
	if i < 0 {
		return fmt.Errorf("no stop reason is called %q", st.Stop)
	}
	stack := &Stack{Frames: make([]Addr, len(st.Frames)), Stop: StopReason(i)}
	for i, a := range st.Frames {
		stack.Frames[i] = Addr(a)
	}
	r.stacks[st.ID] = stack
	return nil
}

func (r *Replay) sample(rec *recordingSample, s *Sample) error {
	p, kernel, user := r.processes[rec.Process], r.stacks[rec.Kernel], r.stacks[rec.User]
	switch {
	case p == nil:
		return fmt.Errorf("process %d is not defined", rec.Process)
	case kernel == nil && rec.Kernel != 0:
		return fmt.Errorf("stack %d is not defined", rec.Kernel)
	case user == nil && rec.User != 0:
		return fmt.Errorf("stack %d is not defined", rec.User)
	case len(rec.Comm) > len(Comm{}):
		return fmt.Errorf("comm %q has more than %d bytes", string(rec.Comm), len(Comm{}))
	}
	*s = Sample{
		Time:    rec.Time,
		PID:     rec.PID,
		TID:     rec.TID,
		CPU:     rec.CPU,
		Period:  rec.Period,
		Cgroup:  string(rec.Cgroup),
		Kernel:  kernel,
		User:    user,
		Process: p,
	}
	copy(s.Comm[:], rec.Comm)
	return nil
}

func (r *Replay) account(rec *recordingStats) error {
	st := Stats{Ticks: rec.Ticks, SidebandLost: rec.SidebandLost}
	for name, n := range rec.Outcomes {
		i := slices.Index(outcomeText[:], name)
		if i < 0 {
			return fmt.Errorf("no outcome is called %q", name)
		}
		st.Outcomes[i] = n
	}
	r.stats = &st
	return nil
}

// A recorder is a Source that writes what is read from another one as a
// recording. What a sample refers to is written before it, once.
type recorder struct {
	Source
	buf       *bufio.Writer
	lines     *json.Encoder
	processes map[*Process]*recordedProcess
	stacks    map[*Stack]uint64
	started   bool
	finished  bool
}

type recordedProcess struct {
	id       uint64
	mappings map[*Mapping]bool
}

// NewRecorder returns a Source that yields what src yields and writes it to w
// as a recording, which is complete once Read returned io.EOF. Read also
// returns the errors of w.
func NewRecorder(w io.Writer, src Source) Source {
	buf := bufio.NewWriter(w)
	lines := json.NewEncoder(buf)
	lines.SetEscapeHTML(false)
	return &recorder{
		Source:    src,
		buf:       buf,
		lines:     lines,
		processes: make(map[*Process]*recordedProcess),
		stacks:    map[*Stack]uint64{nil: 0},
	}
}

func (r *recorder) Read(s *Sample) error {
	readErr := r.Source.Read(s)
	var err error
	switch {
	case readErr == nil:
		err = r.write(s)
	case errors.Is(readErr, io.EOF):
		err = r.finish()
	}
	if err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	return readErr
}

func (r *recorder) write(s *Sample) error {
	if err := r.start(); err != nil {
		return err
	}
	process, err := r.defineProcess(s.Process)
	if err != nil {
		return err
	}
	for _, half := range []*Stack{s.Kernel, s.User} {
		if err := r.defineStack(half); err != nil {
			return err
		}
	}
	return r.lines.Encode(&recordingLine{Sample: &recordingSample{
		Time:    s.Time,
		PID:     s.PID,
		TID:     s.TID,
		CPU:     s.CPU,
		Period:  s.Period,
		Comm:    quotedText(bytes.TrimRight(s.Comm[:], "\x00")),
		Cgroup:  quotedText(s.Cgroup),
		Kernel:  r.stacks[s.Kernel],
		User:    r.stacks[s.User],
		Process: process,
	}})
}

func (r *recorder) start() error {
	if r.started {
		return nil
	}
	r.started = true
	return r.lines.Encode(&recordingLine{Version: recordingVersion})
}

// defineProcess writes p, and those of its mappings that are not written yet.
func (r *recorder) defineProcess(p *Process) (id uint64, err error) {
	rp := r.processes[p]
	if rp == nil {
		rp = &recordedProcess{id: uint64(len(r.processes) + 1), mappings: make(map[*Mapping]bool)}
		r.processes[p] = rp
		err = r.lines.Encode(&recordingLine{Process: &recordingProcess{
			ID:     rp.id,
			PID:    p.PID,
			Start:  p.Start,
			Exe:    quotedText(p.Exe),
			Cgroup: quotedText(p.Cgroup),
		}})
		if err != nil {
			return 0, err
		}
	}
	mappings := p.Mappings()
	if len(mappings) == len(rp.mappings) {
		return rp.id, nil // mappings are added and never changed
	}
	for _, m := range mappings {
		if rp.mappings[m] {
			continue
		}
		rp.mappings[m] = true
		err = r.lines.Encode(&recordingLine{Mapping: &recordingMapping{
			Process: rp.id,
			Start:   hexText(m.Start),
			End:     hexText(m.End),
			Offset:  hexText(m.Offset),
			Path:    quotedText(m.Path),
			Device:  m.Device,
			Inode:   m.Inode,
		}})
		if err != nil {
			return 0, err
		}
	}
	return rp.id, nil
}

func (r *recorder) defineStack(s *Stack) error {
	if _, defined := r.stacks[s]; defined {
		return nil
	}
	id := uint64(len(r.stacks))
	r.stacks[s] = id
	frames := make([]hexText, len(s.Frames))
	for i, a := range s.Frames {
		frames[i] = hexText(a)
	}
	return r.lines.Encode(&recordingLine{Stack: &recordingStack{ID: id, Frames: frames, Stop: s.Stop.String()}})
}

func (r *recorder) finish() error {
	if r.finished {
		return nil
	}
	r.finished = true
	if err := r.start(); err != nil {
		return err
	}
	st := r.Stats()
	rec := recordingStats{Ticks: st.Ticks, SidebandLost: st.SidebandLost, Outcomes: make(map[string]uint64)}
	for o, n := range st.Outcomes {
		if n > 0 {
			rec.Outcomes[Outcome(o).String()] = n
		}
	}
	if err := r.lines.Encode(&recordingLine{Stats: &rec}); err != nil {
		return err
	}
	return r.buf.Flush()
}
