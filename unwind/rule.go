package unwind

// machine has the DWARF numbers of the registers that rules are about.
type machine struct {
	arch       Arch
	sp, fp, ra uint64
}

// Numbers from the psABIs: x86-64, figure 3.36; AArch64 DWARF, 4.1.
var machines = [...]machine{
	AMD64: {arch: AMD64, sp: 7, fp: 6, ra: 16},
	ARM64: {arch: ARM64, sp: 31, fp: 29, ra: 30},
}

// rule packs a state. What no Kind can express becomes KindNone.
func (m machine) rule(s *state) Rule {
	if s.ra.how == howUndefined {
		return Rule(KindEnd)
	}
	if s.ra.how == howRegister {
		off, ok := words(s.cfa.off, 0, 1<<12-1)
		if ok && s.cfa.how == howRegister && s.cfa.reg == m.sp && s.ra.reg < 16 {
			return NewRule(KindRAReg, uint16(s.ra.reg)|off<<4, m.frame(s))
		}
		return Rule(KindNone)
	}
	if m.arch == ARM64 {
		return m.ruleARM64(s)
	}
	if off, ok := s.fromCFA(s.ra); !ok || off != -8 {
		return Rule(KindNone)
	}
	return m.withFrame(s, m.frame(s))
}

// ruleARM64: the return address is in the link register, next to the saved
// frame pointer, or saved alone.
func (m machine) ruleARM64(s *state) Rule {
	if s.ra.how == howSame {
		if s.fp.how == howSame {
			return m.withFrame(s, FrameKept)
		}
		return m.withFrame(s, FrameLost)
	}
	off, ok := s.fromCFA(s.ra)
	if !ok {
		return Rule(KindNone)
	}
	if s.fp.how == howSame && off == 8 && s.cfa.how == howRegister && s.cfa.reg == m.sp {
		// glibc's _dl_runtime_resolve leaves out of its CFA what .plt pushed: x16 and x30.
		cfa, ok := words(s.cfa.off+16, 0, 1<<16-1)
		if !ok {
			return Rule(KindNone)
		}
		return NewRule(KindLR, cfa, 1)
	}
	if s.fp.how == howSame {
		frame, ok := words(-off, 1, int64(FrameMax))
		cfa := m.withFrame(s, frame)
		if !ok || cfa.Kind() != KindSP {
			return Rule(KindNone)
		}
		return NewRule(KindLR, cfa.Offset(), frame)
	}
	frame := m.frame(s)
	if frame == FrameLost || frame == FrameAtFP || off != 8-8*int64(frame) {
		return Rule(KindNone)
	}
	return m.withFrame(s, frame)
}

// withFrame packs the CFA of a state and a frame.
func (m machine) withFrame(s *state, frame uint16) Rule {
	switch s.cfa.how {
	case howRegister:
		switch s.cfa.reg {
		case m.sp:
			if off, ok := words(s.cfa.off, 0, 1<<16-1); ok {
				return NewRule(KindSP, off, frame)
			}
		case m.fp:
			off, ok := words(s.cfa.off, 0, 1<<16-1)
			if ok && off == 2 && frame == 2 {
				return Rule(KindFrame)
			}
			if ok {
				return NewRule(KindFP, off, frame)
			}
		default:
			if off, ok := words(s.cfa.off, 0, 1<<12-1); ok && s.cfa.reg < 16 {
				return NewRule(KindReg, uint16(s.cfa.reg)|off<<4, frame)
			}
		}
	case howAt:
		add, ok := words(s.cfa.add, 0, 15)
		if !ok {
			break
		}
		off, ok := words(s.cfa.off, -1<<11, 1<<11-1)
		switch {
		case ok && s.cfa.reg == m.sp:
			return NewRule(KindDerefSP, off&0xfff|add<<12, frame)
		case ok && s.cfa.reg == m.fp:
			return NewRule(KindDerefFP, off&0xfff|add<<12, frame)
		}
	case howIndexed:
		off, ok := words(s.cfa.off, 0, 1<<8-1)
		add, ok2 := words(s.cfa.add, 0, 15)
		if ok && ok2 && s.cfa.reg < 16 {
			return NewRule(KindDerefIndex, off<<8|add<<4|uint16(s.cfa.reg), frame)
		}
	case howPLT:
		if m.arch == AMD64 {
			return NewRule(KindPLT, uint16(s.cfa.off), frame)
		}
	}
	return Rule(KindNone)
}

// frame says where the caller's frame pointer is.
func (m machine) frame(s *state) uint16 {
	if s.fp.how == howSame {
		return FrameKept
	}
	if off, ok := s.fromCFA(s.fp); ok {
		if frame, ok := words(-off, 1, int64(FrameMax)); ok {
			return frame
		}
	}
	if s.fp == (place{how: howAt, reg: m.fp}) && m.arch == AMD64 {
		return FrameAtFP
	}
	return FrameLost
}

// fromCFA is the distance of a saved register from the CFA.
func (s *state) fromCFA(p place) (int64, bool) {
	switch {
	case p.how == howOffset:
		return p.off, true
	case p.how == howAt && s.cfa.how == howRegister && s.cfa.reg == p.reg:
		return p.off - s.cfa.off, true
	}
	return 0, false
}

// words converts an offset in bytes, where it is whole words in range.
func words(bytes, low, high int64) (uint16, bool) {
	n := bytes / 8
	return uint16(n), bytes%8 == 0 && low <= n && n <= high
}
