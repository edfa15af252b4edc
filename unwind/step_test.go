package unwind

import "testing"

// words of memory by address.
type fakeMemory map[uint64]uint64

func (m fakeMemory) ReadUint64(addr uint64) (uint64, bool) {
	v, ok := m[addr]
	return v, ok
}

func TestStep(t *testing.T) {
	const sp, fp, ip, ra, caller = 0x7000, 0x7100, 0x401000, 0x402000, 0x9000
	neg := func(words int) uint16 { return uint16(words) & 0xfff }
	frame := Regs{IP: ip, SP: sp, FP: fp}
	leaf := Regs{IP: ip, SP: sp, FP: fp, Leaf: true, LR: ra, GPR: [17]uint64{5: ra, 9: 2, 10: 0x7200}}
	signal := func(base uint64) fakeMemory {
		m := fakeMemory{}
		for i := range uint64(40) {
			m[base+8*i] = 0xa000 + i
		}
		return m
	}

	tests := []struct {
		name string
		arch Arch
		rule Rule
		regs Regs
		mem  fakeMemory
		want Regs // of StepOK; all else leaves regs
		end  StepResult
	}{
		{"nothing known", AMD64, Rule(KindNone), frame, nil, Regs{}, StepNoRule},
		{"a kind of a later version", AMD64, Rule(15), frame, nil, Regs{}, StepNoRule},
		{"bottom", AMD64, Rule(KindEnd), frame, nil, Regs{}, StepEnd},
		{"leaf without a frame", AMD64, NewRule(KindSP, 1, FrameKept), leaf, fakeMemory{sp: ra}, Regs{IP: ra, SP: sp + 8, FP: fp}, StepOK},
		{"frame pointer saved by a function that has none", AMD64, NewRule(KindSP, 4, 3), frame, fakeMemory{sp + 24: ra, sp + 8: caller},
			Regs{IP: ra, SP: sp + 32, FP: caller}, StepOK},
		{"frame pointer lost", AMD64, NewRule(KindSP, 1, FrameLost), frame, fakeMemory{sp: ra}, Regs{IP: ra, SP: sp + 8}, StepOK},
		{"lost frame pointer needed", AMD64, Rule(KindFrame), Regs{IP: ip, SP: sp}, fakeMemory{0: ra, 8: ra}, Regs{}, StepBadCFA},
		{"return address 0", AMD64, NewRule(KindSP, 1, FrameKept), frame, fakeMemory{sp: 0}, Regs{}, StepEnd},
		{"stack not readable", AMD64, NewRule(KindSP, 1, FrameKept), frame, nil, Regs{}, StepUnreadable},
		{"saved frame pointer not readable", AMD64, NewRule(KindSP, 1, 2), frame, fakeMemory{sp: ra}, Regs{}, StepUnreadable},
		{"frame by RBP", AMD64, NewRule(KindFP, 3, 3), frame, fakeMemory{fp + 16: ra, fp: caller}, Regs{IP: ra, SP: fp + 24, FP: caller}, StepOK},
		{"exact frame", AMD64, Rule(KindFrame), frame, fakeMemory{fp + 8: ra, fp: caller}, Regs{IP: ra, SP: fp + 16, FP: caller}, StepOK},
		{"frame pointer below SP", AMD64, Rule(KindFrame), Regs{IP: ip, SP: fp + 16, FP: fp}, fakeMemory{fp + 8: ra, fp: caller}, Regs{}, StepBadCFA},
		{"realigned", AMD64, NewRule(KindDerefFP, neg(-1), FrameAtFP), frame, fakeMemory{fp - 8: 0x7208, 0x7200: ra, fp: caller},
			Regs{IP: ra, SP: 0x7208, FP: caller}, StepOK},
		{"realigned, not readable", AMD64, NewRule(KindDerefFP, neg(-1), FrameAtFP), frame, nil, Regs{}, StepUnreadable},
		{"SP saved on the stack", AMD64, NewRule(KindDerefSP, 5|1<<12, 3), frame, fakeMemory{sp + 40: 0x7200, 0x7200: ra, 0x71f0: caller},
			Regs{IP: ra, SP: 0x7208, FP: caller}, StepOK},
		{"SP saved in the red zone", AMD64, NewRule(KindDerefSP, neg(-1)|1<<12, FrameKept), leaf, fakeMemory{sp - 8: 0x7200, 0x7200: ra},
			Regs{IP: ra, SP: 0x7208, FP: fp}, StepOK},
		{"SP saved at the end of an array", AMD64, NewRule(KindDerefIndex, 1<<8|1<<4|9, FrameKept), leaf, fakeMemory{sp + 8 + 16: 0x7200, 0x7200: ra},
			Regs{IP: ra, SP: 0x7208, FP: fp}, StepOK},
		{"caller's SP in r10", AMD64, NewRule(KindReg, 10|2<<4, FrameKept), leaf, fakeMemory{0x7208: ra}, Regs{IP: ra, SP: 0x7210, FP: fp}, StepOK},
		{"caller's SP in r10, which is lost", AMD64, NewRule(KindReg, 10, FrameKept), frame, fakeMemory{0x71f8: ra}, Regs{}, StepLostRegister},
		{"vfork", AMD64, NewRule(KindRAReg, 5, FrameKept), leaf, nil, Regs{IP: ra, SP: sp, FP: fp}, StepOK},
		{"vfork, not in the leaf", AMD64, NewRule(KindRAReg, 5, FrameKept), frame, nil, Regs{}, StepLostRegister},
		{"PLT before the push", AMD64, NewRule(KindPLT, 11, FrameKept), leaf, fakeMemory{sp: ra}, Regs{IP: ra, SP: sp + 8, FP: fp}, StepOK},
		{"PLT behind the push", AMD64, NewRule(KindPLT, 11, FrameKept), Regs{IP: ip + 11, SP: sp, Leaf: true}, fakeMemory{sp + 8: ra},
			Regs{IP: ra, SP: sp + 16}, StepOK},
		{"PLT with endbr64", AMD64, NewRule(KindPLT, 9, FrameKept), Regs{IP: ip + 9, SP: sp, Leaf: true}, fakeMemory{sp + 8: ra},
			Regs{IP: ra, SP: sp + 16}, StepOK},
		{"signal", AMD64, Rule(KindSignal), frame, signal(sp + 40), Regs{
			IP: 0xa010, SP: 0xa00f, FP: 0xa00a, Leaf: true,
			GPR: [17]uint64{0xa00d, 0xa00c, 0xa00e, 0xa00b, 0xa009, 0xa008, 0xa00a, 0xa00f,
				0xa000, 0xa001, 0xa002, 0xa003, 0xa004, 0xa005, 0xa006, 0xa007, 0xa010},
		}, StepOK},
		{"signal frame not readable", AMD64, Rule(KindSignal), frame, nil, Regs{}, StepUnreadable},

		{"arm64 leaf", ARM64, NewRule(KindSP, 0, FrameKept), leaf, nil, Regs{IP: ra, SP: sp, FP: fp}, StepOK},
		{"arm64 leaf's rule, but not in a leaf", ARM64, NewRule(KindSP, 2, FrameKept), frame, nil, Regs{}, StepLostRegister},
		{"arm64 pair", ARM64, NewRule(KindSP, 4, 4), frame, fakeMemory{sp: caller, sp + 8: ra}, Regs{IP: ra, SP: sp + 32, FP: caller}, StepOK},
		{"arm64 pair by FP", ARM64, NewRule(KindFP, 4, 4), frame, fakeMemory{fp: caller, fp + 8: ra}, Regs{IP: ra, SP: fp + 32, FP: caller}, StepOK},
		{"arm64 exact frame", ARM64, Rule(KindFrame), frame, fakeMemory{fp: caller, fp + 8: ra}, Regs{IP: ra, SP: fp + 16, FP: caller}, StepOK},
		{"arm64 link register alone", ARM64, NewRule(KindLR, 4, 2), frame, fakeMemory{sp + 16: ra}, Regs{IP: ra, SP: sp + 32, FP: fp}, StepOK},
		{"arm64 signed return address", ARM64, NewRule(KindLR, 2, 2), Regs{IP: ip, SP: sp, PAC: 0x7f << 48}, fakeMemory{sp: ra | 0x55<<48},
			Regs{IP: ra, SP: sp + 16, PAC: 0x7f << 48}, StepOK},
		{"arm64 signal", ARM64, Rule(KindSignal), frame, signal(sp + 312), Regs{
			IP: 0xa020, SP: 0xa01f, FP: 0xa01d, LR: 0xa01e, Leaf: true,
			GPR: [17]uint64{0xa000, 0xa001, 0xa002, 0xa003, 0xa004, 0xa005, 0xa006, 0xa007, 0xa008,
				0xa009, 0xa00a, 0xa00b, 0xa00c, 0xa00d, 0xa00e, 0xa00f, 0xa010},
		}, StepOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			regs := tt.regs
			got := Step(tt.arch, tt.rule, &regs, tt.mem)
			want := tt.want
			if tt.end != StepOK {
				want = tt.regs
			} else if !want.Leaf { // what only a leaf has is not touched
				want.LR, want.GPR = tt.regs.LR, tt.regs.GPR
			}
			if got != tt.end || regs != want {
				t.Errorf("Step = %d, %+v\nwant   %d, %+v", got, regs, tt.end, want)
			}
		})
	}
}
