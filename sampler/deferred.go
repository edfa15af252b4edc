//go:build linux

package sampler

import (
	"encoding/binary"
	"fmt"

	"hotframe/unwind"
)

// Layout of struct deferred_record in bpf/wire.h; TestWireMatchesBPF holds it equal.
const (
	deferredRegs  = sampleRecordSize    // ip, sp, fp, lr, then gpr[17]
	deferredStart = deferredRegs + 8*21 // stack_start
	deferredSize  = deferredStart + 8   // stack_size
	deferredStack = deferredSize + 8
)

// A deferredSample is a sample whose user stack the BPF program left to user
// space, with a copy of the stack.
type deferredSample struct {
	bpfSample
	regs  unwind.Regs
	start uint64 // address of stack[0]
	stack []byte
}

// decode fills d from a ring record of type recordDeferred, whose stack it copies.
func (d *deferredSample) decode(rec []byte) error {
	if err := decodeSample(&d.bpfSample, rec); err != nil {
		return err
	}
	if len(rec) < deferredStack {
		return fmt.Errorf("deferred sample of %d bytes: %w", len(rec), errBadRecord)
	}
	le := binary.LittleEndian
	at := func(i int) uint64 { return le.Uint64(rec[deferredRegs+8*i:]) }
	d.regs = unwind.Regs{IP: at(0), SP: at(1), FP: at(2), LR: at(3), Leaf: true, PAC: pacMask}
	for i := range d.regs.GPR {
		d.regs.GPR[i] = at(4 + i)
	}
	d.start = le.Uint64(rec[deferredStart:])
	size := le.Uint32(rec[deferredSize:])
	if uint64(size) > uint64(len(rec)-deferredStack) {
		return fmt.Errorf("deferred sample with %d bytes of stack in %d: %w", size, len(rec), errBadRecord)
	}
	d.stack = append(d.stack[:0], rec[deferredStack:deferredStack+int(size)]...)
	return nil
}

// ReadUint64 reads the copy of the stack.
func (d *deferredSample) ReadUint64(addr uint64) (uint64, bool) {
	i := addr - d.start
	if addr < d.start || len(d.stack) < 8 || i > uint64(len(d.stack)-8) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(d.stack[i:]), true
}

// beyond reports whether addr lies above what was copied of the stack.
func (d *deferredSample) beyond(addr uint64) bool {
	return addr >= d.start+uint64(len(d.stack)) && addr < d.start+uint64(len(d.stack))+maxStackBeyond
}

// maxStackBeyond is how far above the copy an address may be to be taken for the
// same stack: the usual limit of a stack.
const maxStackBeyond = 8 << 20

// A ruleSource finds the rule for an address in a mapping. known is false
// while the unwind table of its file is being made. Where there is none the
// rule is KindNone.
type ruleSource func(m *Mapping, pc Addr) (rule unwind.Rule, known bool)

// walk unwinds the copy of the stack as bpf/walk.h does the stack, and appends the frames
// to frames. It is not complete if a table is missing yet.
func (d *deferredSample) walk(frames []Addr, p *Process, rules ruleSource, limit int) (_ []Addr, stop StopReason, complete bool) {
	regs := d.regs
	frames = append(frames, Addr(regs.IP))
	for {
		if len(frames) >= limit {
			return frames, StopDepth, true
		}
		pc := Addr(regs.IP)
		if !regs.Leaf {
			pc--
		}
		m := p.Lookup(pc)
		if m == nil {
			return frames, StopUnmapped, true
		}
		rule, known := rules(m, pc)
		if !known {
			return frames, StopNone, false
		}
		stop := d.step(rule, &regs)
		if stop != StopNone {
			return frames, stop, true
		}
		frames = append(frames, Addr(regs.IP))
	}
}

// step replaces the registers by the caller's, or says why it cannot.
func (d *deferredSample) step(rule unwind.Rule, regs *unwind.Regs) StopReason {
	before := *regs
	switch unwind.Step(unwindArch, rule, regs, d) {
	case unwind.StepOK:
	case unwind.StepEnd:
		return StopRoot
	case unwind.StepNoRule:
		if d.frameStep(regs) != StopNone {
			return StopNoRule
		}
	case unwind.StepUnreadable:
		if d.beyond(before.SP) || d.beyond(before.SP+8*uint64(rule.Offset())) {
			return StopCopyEnd
		}
		return StopUnreadable
	case unwind.StepBadCFA:
		return StopBadCFA
	case unwind.StepLostRegister:
		return StopLostRegister
	case unwind.StepGoSwitch:
		return StopGoSwitch
	}
	if regs.IP < 4096 || regs.IP >= 1<<56 {
		return StopRAInvalid
	}
	return StopNone
}

// frameStep goes to the caller by the frame pointer.
func (d *deferredSample) frameStep(regs *unwind.Regs) StopReason {
	if regs.FP == 0 {
		return StopFPEnd
	}
	if regs.FP < regs.SP || regs.FP%8 != 0 {
		return StopFPInvalid
	}
	fp, ok1 := d.ReadUint64(regs.FP)
	ra, ok2 := d.ReadUint64(regs.FP + 8)
	if !ok1 || !ok2 {
		return StopFPUnreadable
	}
	ra &^= regs.PAC
	if ra == 0 {
		return StopFPEnd
	}
	regs.IP, regs.SP, regs.FP, regs.Leaf = ra, regs.FP+16, fp, false
	return StopNone
}
