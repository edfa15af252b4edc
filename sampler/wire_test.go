//go:build linux && (amd64 || arm64)

package sampler

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"hotframe/bpf"
)

func TestWireMatchesBPF(t *testing.T) {
	sizes := []struct {
		name   string
		go_, c uintptr
	}{
		{"sample_record", sampleRecordSize, unsafe.Sizeof(bpf.SamplerSampleRecord{})},
		{"stack_record", stackRecordSize, unsafe.Sizeof(bpf.SamplerStackRecord{})},
		{"chunk", stackChunkWords * 8, unsafe.Sizeof(bpf.SamplerChunk{})},
	}
	for _, s := range sizes {
		if s.go_ != s.c {
			t.Errorf("size of struct %s: %d in Go, %d in C", s.name, s.go_, s.c)
		}
	}
	var r bpf.SamplerSampleRecord
	offsets := []struct {
		name   string
		go_, c uintptr
	}{
		{"cpu", 4, unsafe.Offsetof(r.Cpu)}, {"time", 8, unsafe.Offsetof(r.Time)}, {"period", 16, unsafe.Offsetof(r.Period)},
		{"cgroup", 24, unsafe.Offsetof(r.Cgroup)}, {"kernel_stack", 32, unsafe.Offsetof(r.KernelStack)},
		{"user_stack", 40, unsafe.Offsetof(r.UserStack)}, {"pid", 48, unsafe.Offsetof(r.Pid)}, {"tid", 52, unsafe.Offsetof(r.Tid)},
		{"comm", 56, unsafe.Offsetof(r.Comm)},
	}
	for _, o := range offsets {
		if o.go_ != o.c {
			t.Errorf("offset of sample_record.%s: %d in Go, %d in C", o.name, o.go_, o.c)
		}
	}
	if recordStack != bpf.SamplerRecordTypeRECORD_STACK || recordSample != bpf.SamplerRecordTypeRECORD_SAMPLE {
		t.Error("record types differ")
	}
}

func TestStopReasonsMatchBPF(t *testing.T) {
	c := []bpf.SamplerStopReason{
		StopNone:         bpf.SamplerStopReasonSTOP_NONE,
		StopRoot:         bpf.SamplerStopReasonSTOP_ROOT,
		StopFPEnd:        bpf.SamplerStopReasonSTOP_FP_END,
		StopFPInvalid:    bpf.SamplerStopReasonSTOP_FP_INVALID,
		StopFPUnreadable: bpf.SamplerStopReasonSTOP_FP_UNREADABLE,
		StopRAInvalid:    bpf.SamplerStopReasonSTOP_RA_INVALID,
		StopDepth:        bpf.SamplerStopReasonSTOP_DEPTH,
		StopCompat:       bpf.SamplerStopReasonSTOP_COMPAT,
		StopNoRegs:       bpf.SamplerStopReasonSTOP_NO_REGS,
		StopKernel:       bpf.SamplerStopReasonSTOP_KERNEL,
		StopKernelDepth:  bpf.SamplerStopReasonSTOP_KERNEL_DEPTH,
		StopKernelError:  bpf.SamplerStopReasonSTOP_KERNEL_ERROR,
		StopNoRule:       bpf.SamplerStopReasonSTOP_NO_RULE,
		StopUnmapped:     bpf.SamplerStopReasonSTOP_UNMAPPED,
		StopUnreadable:   bpf.SamplerStopReasonSTOP_UNREADABLE,
		StopBadCFA:       bpf.SamplerStopReasonSTOP_BAD_CFA,
		StopLostRegister: bpf.SamplerStopReasonSTOP_LOST_REGISTER,
		StopGoSwitch:     bpf.SamplerStopReasonSTOP_GO_SWITCH,
		StopCopyEnd:      bpf.SamplerStopReasonSTOP_COPY_END,
	}
	if len(c) != int(stopReasonCount) {
		t.Fatalf("%d stop reasons compared, there are %d", len(c), stopReasonCount)
	}
	for reason, v := range c {
		if int(v) != reason {
			t.Errorf("%v is %d in Go, %d in C", StopReason(reason), reason, v)
		}
	}
}

func TestOutcomesMatchBPF(t *testing.T) {
	c := []bpf.SamplerOutcome{
		OutcomeEmitted:  bpf.SamplerOutcomeOUTCOME_EMITTED,
		OutcomeIdle:     bpf.SamplerOutcomeOUTCOME_IDLE,
		OutcomeFiltered: bpf.SamplerOutcomeOUTCOME_FILTERED,
		OutcomeLostRing: bpf.SamplerOutcomeOUTCOME_LOST_RING,
	}
	if len(c) != int(bpf.SamplerOutcomeOUTCOME_COUNT) {
		t.Fatalf("%d outcomes compared, C has %d", len(c), bpf.SamplerOutcomeOUTCOME_COUNT)
	}
	for o, v := range c {
		if int(v) != o {
			t.Errorf("%v is %d in Go, %d in C", Outcome(o), o, v)
		}
	}
}

// stackRecord makes a ring record that defines a stack.
func stackRecord(id uint64, stop StopReason, frames ...uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, recordStack)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(frames))<<8|uint64(stop))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint64(b, f)
	}
	return b
}

func TestStackTable(t *testing.T) {
	const gen1, gen2 = 1 << 48, 2 << 48
	table := newStackTable()
	define := func(rec []byte) {
		t.Helper()
		if err := table.define(rec); err != nil {
			t.Fatal(err)
		}
	}
	define(stackRecord(gen1|7, StopFPEnd, 1, 2, 3))
	first := table.byID[gen1|7]
	if want := []Addr{1, 2, 3}; !slices.Equal(first.Frames, want) || first.Stop != StopFPEnd {
		t.Fatalf("stack = %v, %v, want %v, %v", first.Frames, first.Stop, want, StopFPEnd)
	}
	define(stackRecord(gen1|7, StopFPEnd, 1, 2, 3)) // two CPUs met the same new stack
	if table.byID[gen1|7] != first || table.chunks != 1 {
		t.Errorf("a stack sent twice is another stack, or counted twice: %d chunks", table.chunks)
	}
	define(stackRecord(gen1|8, StopDepth, 1, 2, 3))
	if table.byID[gen1|8] == first {
		t.Error("stacks that differ in the stop reason are one")
	}
	define(stackRecord(gen1|9, StopFPEnd, make([]uint64, stackChunkWords)...)) // a first word more than fits one chunk
	if table.chunks != 4 {
		t.Errorf("chunks = %d, want 4", table.chunks)
	}

	define(stackRecord(gen2|7, StopFPEnd, 1, 2, 3)) // sent again in the next generation
	if table.byID[gen2|7] != first {
		t.Error("a stack lost its pointer by a new generation")
	}
	forgotten := map[uint64]int{}
	table.retire(2, func(id uint64, frames int) { forgotten[id] = frames })
	if len(forgotten) != 3 || forgotten[gen1|7] != 3 || len(table.byID) != 1 {
		t.Errorf("forgotten = %v, %d left, want the three of the first generation, 1 left", forgotten, len(table.byID))
	}
	define(stackRecord(gen2|7, StopFPEnd, 4, 5)) // the last definition of an id holds
	if got := table.byID[gen2|7].Frames; !slices.Equal(got, []Addr{4, 5}) {
		t.Errorf("redefined stack = %v", got)
	}
}

func TestDecodeSample(t *testing.T) {
	rec := make([]byte, sampleRecordSize)
	*(*bpf.SamplerSampleRecord)(unsafe.Pointer(&rec[0])) = bpf.SamplerSampleRecord{
		Type: recordSample, Cpu: 3, Time: 1 << 40, Period: 10101010, Cgroup: 9, KernelStack: 11, UserStack: 12, Pid: 100, Tid: 101,
		Comm: [16]uint8{'w', 'o', 'r', 'k'},
	}
	var got bpfSample
	if err := decodeSample(&got, rec); err != nil {
		t.Fatal(err)
	}
	want := bpfSample{cpu: 3, time: 1 << 40, period: 10101010, cgroup: 9, kernel: 11, user: 12, pid: 100, tid: 101, comm: NewComm("work")}
	if got != want {
		t.Errorf("decodeSample = %+v, want %+v", got, want)
	}
	if err := decodeSample(&got, rec[:sampleRecordSize-1]); !errors.Is(err, errBadRecord) {
		t.Errorf("short record: %v, want %v", err, errBadRecord)
	}
}

func FuzzDefineStack(f *testing.F) {
	f.Add(stackRecord(1<<48|1, StopFPEnd, 1, 2, 3))
	f.Add(stackRecord(1<<48|1, StopReason(200), 1))
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, rec []byte) {
		table := newStackTable()
		if err := table.define(rec); err != nil {
			if !errors.Is(err, errBadRecord) || len(table.byID) != 0 {
				t.Fatalf("error %v with %d stacks", err, len(table.byID))
			}
			return
		}
		for id, s := range table.byID {
			again := stackRecord(id, s.Stop)
			binary.LittleEndian.PutUint64(again[stackRecordSize:], uint64(len(s.Frames))<<8|uint64(s.Stop))
			for _, a := range s.Frames {
				again = binary.LittleEndian.AppendUint64(again, uint64(a))
			}
			if err := table.define(again); err != nil || table.byID[id] != s {
				t.Fatalf("the same stack encoded again: %v, another pointer: %v", err, table.byID[id] != s)
			}
		}
	})
}

func BenchmarkTake(b *testing.B) {
	s := &bpfSource{stacks: newStackTable()}
	s.take(stackRecord(1<<48|1, StopFPEnd, 1, 2, 3))
	rec := make([]byte, sampleRecordSize)
	rec[0] = recordSample
	b.ReportAllocs()
	for b.Loop() {
		s.batch = s.batch[:0]
		s.take(rec)
	}
}
