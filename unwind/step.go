package unwind

// Regs are the registers of one frame.
type Regs struct {
	IP, SP, FP uint64

	// Leaf: the frame is the first one, or one that a signal interrupted. IP is
	// its next instruction, and the rule is the one at IP. In other frames IP is
	// a return address, the rule is the one at IP-1, in the call, and the
	// registers below are those of another frame.
	Leaf bool

	LR  uint64     // arm64: x30
	GPR [17]uint64 // by DWARF number: amd64 rax to r15 and rip, arm64 x0 to x16

	// PAC has the bits of a return address that hold a pointer authentication
	// code (arm64, NT_ARM_PAC_MASK). It is the same in all frames of a walk.
	PAC uint64
}

// Memory reads the memory of the process.
type Memory interface {
	ReadUint64(addr uint64) (value uint64, ok bool)
}

// StepResult says how a Step ended.
type StepResult uint8

const (
	StepOK           StepResult = iota // the registers are the caller's
	StepEnd                            // there is no caller
	StepNoRule                         // nothing is known of the code
	StepUnreadable                     // a rule points to where no memory can be read
	StepBadCFA                         // the caller's frame is not above this one
	StepLostRegister                   // the rule needs a register that only a leaf has
	StepGoSwitch                       // the stack goes on elsewhere, see KindGoSwitch
)

// Linux's struct rt_sigframe, from SP at the return of the handler: on amd64
// behind the return address into the sigreturn code.
const (
	signalAMD64 = 40  // uc_mcontext, behind uc_flags, uc_link and uc_stack (arch/x86/include/uapi/asm/ucontext.h)
	signalARM64 = 312 // uc_mcontext.regs, behind siginfo (arch/arm64/kernel/signal.c, uapi/asm/sigcontext.h)
)

// signalOrder has the DWARF numbers of the registers in amd64's struct
// sigcontext (arch/x86/include/uapi/asm/sigcontext.h): r8 to r15, rdi, rsi,
// rbp, rbx, rdx, rax, rcx, rsp, rip.
var signalOrder = [17]uint8{8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16}

// Step replaces the registers of a frame by those of its caller. r is the rule
// for regs; Regs.Leaf says which address to look up. Where the result is not
// StepOK the registers are as before. A lost frame pointer becomes 0, which no
// later rule takes for a frame.
//
// The walk in bpf/ does the same, case by case.
func Step(arch Arch, r Rule, regs *Regs, mem Memory) StepResult {
	m := reader{mem: mem}
	kind, offset, frame := r.Kind(), uint64(r.Offset()), uint64(r.Frame())

	if !regs.Leaf && (kind == KindReg || kind == KindRAReg || kind == KindDerefIndex) {
		return StepLostRegister
	}
	var cfa uint64
	switch kind {
	case KindEnd:
		return StepEnd
	case KindSP, KindLR:
		cfa = regs.SP + 8*offset
	case KindFP:
		cfa = regs.FP + 8*offset
	case KindFrame:
		cfa, frame = regs.FP+16, 2
	case KindDerefSP:
		cfa = m.read(regs.SP+8*uint64(int16(offset<<4)>>4)) + 8*(offset>>12)
	case KindDerefFP:
		cfa = m.read(regs.FP+8*uint64(int16(offset<<4)>>4)) + 8*(offset>>12)
	case KindPLT:
		cfa = regs.SP + 8
		if regs.IP&15 >= offset {
			cfa += 8
		}
	case KindReg:
		cfa = regs.GPR[offset&15] + 8*(offset>>4)
	case KindRAReg:
		cfa = regs.SP + 8*(offset>>4)
	case KindDerefIndex:
		cfa = m.read(regs.SP+8*(offset>>8)+8*regs.GPR[offset&15]) + 8*(offset>>4&15)
	case KindSignal:
		return stepSignal(arch, regs, m)
	case KindGoSwitch:
		return stepGoSwitch(arch, r, regs, m)
	default:
		return StepNoRule
	}
	if m.failed {
		return StepUnreadable
	}
	if !regs.Leaf && cfa <= regs.SP {
		return StepBadCFA
	}

	var ip uint64
	switch {
	case kind == KindRAReg:
		ip = regs.GPR[offset&15]
	case arch == AMD64:
		ip = m.read(cfa - 8)
	case kind == KindLR:
		ip = m.read(cfa - 8*frame)
	case frame != uint64(FrameKept) && frame != uint64(FrameLost):
		ip = m.read(cfa - 8*frame + 8)
	case regs.Leaf:
		ip = regs.LR
	default:
		return StepLostRegister
	}
	ip &^= regs.PAC

	fp := regs.FP
	switch {
	case kind == KindLR || frame == uint64(FrameKept):
	case frame == uint64(FrameLost):
		fp = 0
	case frame == uint64(FrameAtFP):
		fp = m.read(regs.FP)
	default:
		fp = m.read(cfa - 8*frame)
	}
	if m.failed {
		return StepUnreadable
	}
	if ip == 0 { // nobody returns there: the bottom of stacks without unwind information
		return StepEnd
	}
	regs.IP, regs.SP, regs.FP, regs.Leaf = ip, cfa, fp, false
	return StepOK
}

// stepSignal takes all registers from where the kernel saved them.
func stepSignal(arch Arch, regs *Regs, m reader) StepResult {
	next := Regs{Leaf: true, PAC: regs.PAC}
	if arch == AMD64 {
		for i, n := range signalOrder {
			next.GPR[n] = m.read(regs.SP + signalAMD64 + 8*uint64(i))
		}
		next.FP, next.SP, next.IP = next.GPR[6], next.GPR[7], next.GPR[16]
	} else {
		for i := range next.GPR {
			next.GPR[i] = m.read(regs.SP + signalARM64 + 8*uint64(i))
		}
		next.FP = m.read(regs.SP + signalARM64 + 8*29)
		next.LR = m.read(regs.SP + signalARM64 + 8*30)
		next.SP = m.read(regs.SP + signalARM64 + 8*31)
		next.IP = m.read(regs.SP + signalARM64 + 8*32)
	}
	if m.failed {
		return StepUnreadable
	}
	*regs = next
	return StepOK
}

// reader reads memory until it fails once.
type reader struct {
	mem    Memory
	failed bool
}

func (m *reader) read(addr uint64) uint64 {
	v, ok := m.mem.ReadUint64(addr)
	if !ok {
		m.failed = true
	}
	return v
}
