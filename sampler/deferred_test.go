//go:build linux && (amd64 || arm64)

package sampler

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"hotframe/bpf"
	"hotframe/unwind"
)

func TestDeferredRecordMatchesBPF(t *testing.T) {
	var r bpf.SamplerDeferredRecord
	for _, o := range []struct {
		name   string
		go_, c uintptr
	}{
		{"ip", deferredRegs, unsafe.Offsetof(r.Ip)},
		{"gpr", deferredRegs + 4*8, unsafe.Offsetof(r.Gpr)},
		{"stack_start", deferredStart, unsafe.Offsetof(r.StackStart)},
		{"stack_size", deferredSize, unsafe.Offsetof(r.StackSize)},
		{"stack", deferredStack, unsafe.Offsetof(r.Stack)},
	} {
		if o.go_ != o.c {
			t.Errorf("offset of deferred_record.%s: %d in Go, %d in C", o.name, o.go_, o.c)
		}
	}
	if recordDeferred != bpf.SamplerRecordTypeRECORD_DEFERRED {
		t.Error("record types differ")
	}
}

const testStack = 0x7ffc_0000_1000

// deferredRecord is a ring record with a stack that begins at testStack.
func deferredRecord(ip, sp, fp uint64, stack ...uint64) []byte {
	rec := make([]byte, deferredStack)
	le := binary.LittleEndian
	rec[0] = recordDeferred
	le.PutUint64(rec[deferredRegs:], ip)
	le.PutUint64(rec[deferredRegs+8:], sp)
	le.PutUint64(rec[deferredRegs+16:], fp)
	le.PutUint64(rec[deferredStart:], testStack)
	le.PutUint32(rec[deferredSize:], uint32(8*len(stack)))
	for _, w := range stack {
		rec = le.AppendUint64(rec, w)
	}
	return rec
}

func TestDeferredWalk(t *testing.T) {
	if unwindArch != unwind.AMD64 {
		t.Skip("the rules of this test are amd64's")
	}
	const text, other, jit = 0x40_0000, 0x50_0000, 0x60_0000
	p := NewProcess(1,
		&Mapping{Start: text, End: text + 0x1000, Path: "/a"},
		&Mapping{Start: other, End: other + 0x1000, Path: "/pending"},
		&Mapping{Start: jit, End: jit + 0x1000, Path: "//anon"})
	sp8 := unwind.NewRule(unwind.KindSP, 1, unwind.FrameKept) // CFA = SP+8: nothing pushed
	sp24 := unwind.NewRule(unwind.KindSP, 3, 2)               // a frame pointer was pushed, and 8 bytes
	rules := func(m *Mapping, pc Addr) (unwind.Rule, bool) {
		switch {
		case m.Path == "/pending":
			return 0, false
		case m.Path == "//anon":
			return unwind.Rule(unwind.KindNone), true
		case pc >= text+0xf00:
			return unwind.Rule(unwind.KindEnd), true
		case pc >= text+0x800:
			return sp24, true
		}
		return sp8, true
	}
	for _, tt := range []struct {
		name     string
		rec      []byte
		frames   []Addr
		stop     StopReason
		complete bool
	}{
		{"to the bottom", deferredRecord(text+4, testStack, 0, text+0x804, 0, 0xbeef, text+0xf08), []Addr{text + 4, text + 0x804, text + 0xf08}, StopRoot, true},
		{"the return address behind a call that ends a function belongs to the call", deferredRecord(text+4, testStack, 0, text+0x800, text+0xf08),
			[]Addr{text + 4, text + 0x800, text + 0xf08}, StopRoot, true},
		{"a file whose table is being made", deferredRecord(text+4, testStack, 0, other+4), []Addr{text + 4, other + 4}, StopNone, false},
		{"a return address in no mapping", deferredRecord(text+4, testStack, 0, 0x1234_5678), []Addr{text + 4, 0x1234_5678}, StopUnmapped, true},
		{"a leaf in no mapping", deferredRecord(0x999_9999, testStack, 0), []Addr{0x999_9999}, StopUnmapped, true},
		{"run-time code by its frame pointer", deferredRecord(jit+4, testStack, testStack+8, 0, testStack+0x40, text+0xf08),
			[]Addr{jit + 4, text + 0xf08}, StopRoot, true},
		{"run-time code without a frame pointer", deferredRecord(jit+4, testStack, 12345, 0), []Addr{jit + 4}, StopNoRule, true},
		{"the copy ends", deferredRecord(text+0x804, testStack, 0, 1), []Addr{text + 0x804}, StopCopyEnd, true},
		{"a stack pointer that points nowhere", deferredRecord(text+4, 16, 0, 1), []Addr{text + 4}, StopUnreadable, true},
		{"no return address", deferredRecord(text+4, testStack, 0, 0), []Addr{text + 4}, StopRoot, true},
		{"a return address in the first page", deferredRecord(text+4, testStack, 0, 77), []Addr{text + 4}, StopRAInvalid, true},
		{"as many frames as wanted", deferredRecord(text+4, testStack, 0, text+4, text+4, text+4, text+4, text+4),
			[]Addr{text + 4, text + 4, text + 4, text + 4}, StopDepth, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d deferredSample
			if err := d.decode(tt.rec); err != nil {
				t.Fatal(err)
			}
			frames, stop, complete := d.walk(nil, p, rules, 4)
			if !slices.Equal(frames, tt.frames) || stop != tt.stop || complete != tt.complete {
				t.Errorf("walk = %x, %v, %v, want %x, %v, %v", frames, stop, complete, tt.frames, tt.stop, tt.complete)
			}
		})
	}
}

func FuzzDeferred(f *testing.F) {
	f.Add(deferredRecord(0x400004, testStack, testStack+8, 1, 2, 3))
	f.Add(deferredRecord(0, 0, 0)[:100])
	p := NewProcess(1, &Mapping{Start: 0, End: 1 << 47})
	f.Fuzz(func(t *testing.T, rec []byte) {
		var d deferredSample
		if err := d.decode(rec); err != nil {
			if !errors.Is(err, errBadRecord) {
				t.Fatal(err)
			}
			return
		}
		if len(d.stack) > len(rec) {
			t.Fatalf("%d bytes of stack in a record of %d", len(d.stack), len(rec))
		}
		// Rules made of the record's own bytes: any of them may come from a hostile file.
		rules := func(_ *Mapping, pc Addr) (unwind.Rule, bool) {
			v, _ := d.ReadUint64(d.start + uint64(pc)%uint64(max(len(d.stack), 1)))
			return unwind.Rule(v ^ uint64(pc)), true
		}
		frames, stop, complete := d.walk(nil, p, rules, 64)
		if !complete || len(frames) == 0 || len(frames) > 64 || stop == StopNone || stop >= stopReasonCount {
			t.Fatalf("walk = %d frames, %v, %v", len(frames), stop, complete)
		}
	})
}
