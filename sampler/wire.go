package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errBadRecord is wrapped by the errors of records that are not as bpf/wire.h has them.
var errBadRecord = errors.New("bad ring record")

// Sizes of the structs of bpf/wire.h; TestWireMatchesBPF holds them equal.
const (
	stackRecordSize  = 16
	sampleRecordSize = 72
)

// Types of ring records, enum record_type in bpf/wire.h.
const (
	recordStack    = 1
	recordSample   = 2
	recordDeferred = 3
)

// recordType is the type of a ring record, 0 for one too short to have one.
func recordType(rec []byte) uint32 {
	if len(rec) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(rec)
}

// bpfSample is struct sample_record in bpf/wire.h.
type bpfSample struct {
	cpu          uint32
	time, period uint64
	cgroup       uint64
	kernel, user uint64 // stack ids, 0 = none
	pid, tid     int32
	comm         Comm
}

// decodeSample fills s from a ring record of type recordSample.
func decodeSample(s *bpfSample, rec []byte) error {
	if len(rec) < sampleRecordSize {
		return fmt.Errorf("sample of %d bytes: %w", len(rec), errBadRecord)
	}
	le := binary.LittleEndian
	s.cpu = le.Uint32(rec[4:])
	s.time = le.Uint64(rec[8:])
	s.period = le.Uint64(rec[16:])
	s.cgroup = le.Uint64(rec[24:])
	s.kernel = le.Uint64(rec[32:])
	s.user = le.Uint64(rec[40:])
	s.pid = int32(le.Uint32(rec[48:]))
	s.tid = int32(le.Uint32(rec[52:]))
	copy(s.comm[:], rec[56:72])
	return nil
}

// A stackTable holds the stacks that the BPF program has sent, by id. The top
// 16 bits of an id are the generation it was made in.
type stackTable struct {
	byID   map[uint64]*Stack
	byHash map[uint64]*Stack // by the low 48 bits of the id, across generations, so that a stack sent again keeps its pointer
	chunks int               // taken in the kernel's table by the current generation
}

// stackChunkWords is CHUNK_WORDS in bpf/sampler.bpf.c.
const stackChunkWords = 64

// stackChunks is how many chunks a stack takes, its first word included.
func stackChunks(frames int) int { return (frames + stackChunkWords) / stackChunkWords }

const stackHashMask = 1<<48 - 1

func newStackTable() *stackTable {
	return &stackTable{byID: make(map[uint64]*Stack), byHash: make(map[uint64]*Stack)}
}

// define learns a stack from a ring record of type recordStack. The last
// definition of an id holds.
func (t *stackTable) define(rec []byte) error {
	le := binary.LittleEndian
	if len(rec) < stackRecordSize+8 {
		return fmt.Errorf("stack of %d bytes: %w", len(rec), errBadRecord)
	}
	id, word := le.Uint64(rec[8:]), le.Uint64(rec[stackRecordSize:])
	frames, stop := word>>8, StopReason(word)
	rec = rec[stackRecordSize+8:]
	if frames > uint64(len(rec)/8) || stop >= stopReasonCount {
		return fmt.Errorf("stack of %d frames in %d bytes, stop reason %d: %w", frames, len(rec), stop, errBadRecord)
	}
	s := t.byHash[id&stackHashMask]
	if !s.holds(stop, rec[:frames*8]) {
		s = &Stack{Frames: make([]Addr, frames), Stop: stop}
		for i := range s.Frames {
			s.Frames[i] = Addr(le.Uint64(rec[i*8:]))
		}
		t.byHash[id&stackHashMask] = s
	}
	if t.byID[id] == nil {
		t.chunks += stackChunks(int(frames))
	}
	t.byID[id] = s
	return nil
}

// holds reports whether s is the stack with these little-endian frames.
func (s *Stack) holds(stop StopReason, frames []byte) bool {
	if s == nil || s.Stop != stop || len(s.Frames)*8 != len(frames) {
		return false
	}
	for i, f := range s.Frames {
		if uint64(f) != binary.LittleEndian.Uint64(frames[i*8:]) {
			return false
		}
	}
	return true
}

// retire forgets the stacks of all generations but the given one and calls
// forget with each of their ids.
func (t *stackTable) retire(generation uint16, forget func(id uint64, frames int)) {
	clear(t.byHash)
	for id, s := range t.byID {
		if uint16(id>>48) != generation {
			forget(id, len(s.Frames))
			delete(t.byID, id)
			continue
		}
		t.byHash[id&stackHashMask] = s
	}
}
