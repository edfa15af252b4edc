package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"hotframe/internal/proc"
)

// errBadPerfRecord is wrapped by the errors of records that are not as
// perf_event_open(2) has them.
var errBadPerfRecord = errors.New("bad perf record")

// A perfType is enum perf_event_type of linux/perf_event.h.
type perfType uint32

const (
	perfLost        perfType = 2
	perfComm        perfType = 3
	perfExit        perfType = 4
	perfThrottle    perfType = 5
	perfUnthrottle  perfType = 6
	perfFork        perfType = 7
	perfSampleType  perfType = 9
	perfMmap2       perfType = 10
	perfLostSamples perfType = 13
	perfKsymbol     perfType = 17 // since Linux 5.1
)

// Bits of perf_event_header.misc.
const (
	miscCPUMode     = 7
	miscKernel      = 1
	miscUser        = 2
	miscCommExec    = 1 << 13
	miscMmapBuildID = 1 << 14
)

const (
	protExec             = 4
	ksymbolUnregister    = 1 // PERF_RECORD_KSYMBOL_FLAGS_UNREGISTER
	sampleIDSize         = 24
	maxPerfName          = 4096 + len(" (deleted)") // PATH_MAX; symbols are shorter
	contextMax           = ^uint64(4095 - 1)        // PERF_CONTEXT_MAX, -4095; no address is above
	contextKernel        = ^uint64(128 - 1)
	contextUser          = ^uint64(512 - 1)
	maxInternedPerfNames = 4096
)

// A perfRecord is a decoded record about processes or losses. Which fields are
// set depends on the type.
type perfRecord struct {
	Type perfType
	CPU  uint32 // that wrote it
	Time uint64 // CLOCK_MONOTONIC ns

	PID, TID   int32  // whom it is about, the child of a fork; 0 in other pid namespaces
	PPID, PTID int32  // fork: who called it
	Comm       Comm   // comm
	Exec       bool   // comm: by exec; mmap2: executable
	Lost       uint64 // lost, lost samples

	Start, End    Addr   // mmap2, ksymbol
	Offset        uint64 // mmap2: of Start in the file
	Device, Inode uint64
	Name          string // mmap2: path as the kernel names it; ksymbol: symbol
	Gone          bool   // ksymbol: it was removed
}

// A perfDecoder decodes records of events with SampleIDAll and the sample
// format TID|TIME|CPU, little-endian as all supported machines are. It shares
// equal names between records.
type perfDecoder struct {
	names map[string]string
}

// decode fills r from the bytes behind a record's header. Types that it does
// not know leave r with nothing but Type, Time and CPU.
func (d *perfDecoder) decode(r *perfRecord, typ perfType, misc uint16, data []byte) error {
	*r = perfRecord{Type: typ}
	if len(data) < sampleIDSize {
		return fmt.Errorf("type %d, %d bytes: %w", typ, len(data), errBadPerfRecord)
	}
	le := binary.LittleEndian
	id := data[len(data)-sampleIDSize:] // struct sample_id: pid, tid, time, cpu, reserved
	data = data[:len(data)-sampleIDSize]
	r.Time = le.Uint64(id[8:])
	r.CPU = le.Uint32(id[16:])

	ok := true
	switch typ {
	case perfMmap2:
		ok = d.mmap2(r, misc, data)
	case perfComm:
		if ok = len(data) >= 8; ok {
			r.PID, r.TID = pid(data), pid(data[4:])
			r.Exec = misc&miscCommExec != 0
			copy(r.Comm[:len(r.Comm)-1], cString(data[8:]))
		}
	case perfFork, perfExit:
		if ok = len(data) >= 24; ok {
			r.PID, r.PPID = pid(data), pid(data[4:])
			r.TID, r.PTID = pid(data[8:]), pid(data[12:])
		}
	case perfLost: // id, lost
		if ok = len(data) >= 16; ok {
			r.Lost = le.Uint64(data[8:])
		}
	case perfLostSamples:
		if ok = len(data) >= 8; ok {
			r.Lost = le.Uint64(data)
		}
	case perfKsymbol:
		ok = d.ksymbol(r, data)
	}
	if !ok {
		return fmt.Errorf("type %d, %d bytes: %w", typ, len(data)+sampleIDSize, errBadPerfRecord)
	}
	return nil
}

// mmap2 reads pid, tid, addr, len, pgoff, (maj, min, ino, ino_generation, or a
// build id in their place), prot, flags, filename.
func (d *perfDecoder) mmap2(r *perfRecord, misc uint16, data []byte) bool {
	if len(data) < 64 {
		return false
	}
	le := binary.LittleEndian
	r.PID, r.TID = pid(data), pid(data[4:])
	r.Start, r.Offset = Addr(le.Uint64(data[8:])), le.Uint64(data[24:])
	r.End = r.Start + Addr(le.Uint64(data[16:]))
	if misc&miscMmapBuildID == 0 {
		r.Device = proc.Mkdev(le.Uint32(data[32:]), le.Uint32(data[36:]))
		r.Inode = le.Uint64(data[40:])
	}
	r.Exec = le.Uint32(data[56:])&protExec != 0
	var ok bool
	r.Name, ok = d.name(data[64:])
	return ok && r.Start < r.End
}

// ksymbol reads addr, len, ksym_type, flags, name.
func (d *perfDecoder) ksymbol(r *perfRecord, data []byte) bool {
	if len(data) < 16 {
		return false
	}
	le := binary.LittleEndian
	r.Start = Addr(le.Uint64(data))
	r.End = r.Start + Addr(le.Uint32(data[8:]))
	r.Gone = le.Uint16(data[14:])&ksymbolUnregister != 0
	var ok bool
	r.Name, ok = d.name(data[16:])
	return ok && r.Start <= r.End
}

// name returns the NUL-terminated string at the start of b, false if it is too long.
func (d *perfDecoder) name(b []byte) (string, bool) {
	b = cString(b)
	if len(b) > maxPerfName {
		return "", false
	}
	if s, ok := d.names[string(b)]; ok {
		return s, true
	}
	if d.names == nil || len(d.names) >= maxInternedPerfNames {
		d.names = make(map[string]string)
	}
	s := string(b)
	d.names[s] = s
	return s, true
}

func cString(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

func pid(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }

// A perfSample is a decoded sample with the format IP|TID|TIME|CPU|PERIOD|CALLCHAIN.
type perfSample struct {
	Time     uint64 // CLOCK_MONOTONIC ns
	PID, TID int32
	CPU      uint32
	Period   uint64
	Frames   int // of the callchain, of whatever kind

	Kernel, User frames
}

// frames are the addresses of a callchain, leaf first, as they stand in a record.
type frames []byte

const frameSize = 8

func (f frames) len() int { return len(f) / frameSize }

func (f frames) at(i int) Addr { return Addr(binary.LittleEndian.Uint64(f[i*frameSize:])) }

// plausible is the number of user frames before the first return address that
// cannot be one. The kernel follows frame pointers without looking at what it
// finds, and code without them leaves any value there.
func (f frames) plausible() int {
	const lowest, end = 4096, 1 << 56 // the first page is never mapped; 5-level paging on amd64
	for i := 1; i < f.len(); i++ {
		if a := f.at(i); a < lowest || a >= end {
			return i
		}
	}
	return f.len()
}

// decode fills s from the bytes behind a record's header. The frames are parts of data.
func (s *perfSample) decode(misc uint16, data []byte) error {
	const fixed = 48
	if len(data) < fixed {
		return fmt.Errorf("sample of %d bytes: %w", len(data), errBadPerfRecord)
	}
	le := binary.LittleEndian
	s.PID, s.TID = pid(data[8:]), pid(data[12:])
	s.Time = le.Uint64(data[16:])
	s.CPU = le.Uint32(data[24:])
	s.Period = le.Uint64(data[32:])
	n := le.Uint64(data[40:])
	chain := frames(data[fixed:])
	if n > uint64(chain.len()) {
		return fmt.Errorf("callchain of %d entries in %d bytes: %w", n, len(chain), errBadPerfRecord)
	}
	s.split(chain[:n*frameSize])
	if s.Frames > 0 {
		return nil
	}
	ip := frames(data[:frameSize]) // no callchain was to be had
	switch misc & miscCPUMode {
	case miscKernel:
		s.Kernel = ip
	case miscUser:
		s.User = ip
	}
	return nil
}

// split finds the frames behind the markers of the kernel and of user space.
// Those of hypervisors and guests are only counted.
func (s *perfSample) split(chain frames) {
	s.Frames, s.Kernel, s.User = 0, nil, nil
	context, start := uint64(contextMax), 0
	for i := 0; i <= chain.len(); i++ {
		if i < chain.len() && uint64(chain.at(i)) < contextMax {
			continue
		}
		part := chain[start*frameSize : i*frameSize]
		s.Frames += part.len()
		switch context {
		case contextKernel:
			s.Kernel = part
		case contextUser:
			s.User = part
		}
		if i < chain.len() {
			context, start = uint64(chain.at(i)), i+1
		}
	}
}

// maxInterned bounds the stacks that an interner remembers. Beyond it equal
// stacks get a second copy.
const maxInterned = 1 << 16

// An interner gives equal stacks one Stack.
type interner struct {
	stacks map[internKey]*Stack
}

type internKey struct {
	frames string // as in a record
	stop   StopReason
}

// stack returns the Stack with the given frames. It allocates nothing for one
// that is known.
func (n *interner) stack(f frames, stop StopReason) *Stack {
	if s := n.stacks[internKey{string(f), stop}]; s != nil {
		return s
	}
	if n.stacks == nil || len(n.stacks) >= maxInterned {
		n.stacks = make(map[internKey]*Stack)
	}
	s := &Stack{Frames: make([]Addr, f.len()), Stop: stop}
	for i := range s.Frames {
		s.Frames[i] = f.at(i)
	}
	n.stacks[internKey{string(f), stop}] = s
	return s
}
