package unwind

// Opcodes of call frame instructions (DWARF 5, 7.24).
const (
	cfaAdvanceLoc = 0x40 // in the high two bits, with the delta in the others
	cfaOffset     = 0x80 // likewise, with the register
	cfaRestore    = 0xc0

	cfaNop              = 0x00
	cfaSetLoc           = 0x01
	cfaAdvanceLoc1      = 0x02
	cfaAdvanceLoc2      = 0x03
	cfaAdvanceLoc4      = 0x04
	cfaOffsetExtended   = 0x05
	cfaRestoreExtended  = 0x06
	cfaUndefined        = 0x07
	cfaSameValue        = 0x08
	cfaRegister         = 0x09
	cfaRememberState    = 0x0a
	cfaRestoreState     = 0x0b
	cfaDefCFA           = 0x0c
	cfaDefCFARegister   = 0x0d
	cfaDefCFAOffset     = 0x0e
	cfaDefCFAExpression = 0x0f
	cfaExpression       = 0x10
	cfaOffsetExtendedSF = 0x11
	cfaDefCFASF         = 0x12
	cfaDefCFAOffsetSF   = 0x13
	cfaValOffset        = 0x14
	cfaValOffsetSF      = 0x15
	cfaValExpression    = 0x16

	cfaAdvanceLoc8         = 0x1d // MIPS, but binutils and LLVM read it everywhere
	cfaNegateRAStateWithPC = 0x2c // AArch64, FEAT_PAuth_LR
	cfaNegateRAState       = 0x2d // AArch64; DW_CFA_GNU_window_save elsewhere
	cfaArgsSize            = 0x2e // GNU
	cfaNegOffsetExtended   = 0x2f // GNU
)

// maxRemembered is how deep remembered states nest; compilers nest none.
const maxRemembered = 32

// place says where a value of the caller is.
type place struct {
	how how
	reg uint64
	off int64
	add int64
}

type how uint8

const (
	howSame      how = iota // still in its register; of a CFA: not defined
	howUndefined            // not to be had
	howOffset               // saved at CFA + off
	howRegister             // in register reg; of a CFA: register reg + off
	howAt                   // saved at register reg + off; of a CFA: the value there + add
	howIndexed              // of a CFA: the value at SP + off + 8 * register reg, + add
	howPLT                  // of a CFA: SP + 8 + 8*((IP & 15) >= off)
	howOther                // by an expression of no known form
)

// state is one row of a call frame table, as far as a Rule needs it.
type state struct {
	cfa, fp, ra place
}

// An interpreter runs call frame instructions.
type interpreter struct {
	machine
	cie  *cie
	pc   uint64 // where now holds from
	now  state
	emit func(pc uint64, s *state) // nil for a CIE, which has no code

	remembered []state
}

// initial returns the state that the instructions of a CIE set up.
func (in *interpreter) initial(c *cie, code []byte) (state, bool) {
	ok := in.run(c, field{b: code}, 0, 1)
	return in.now, ok
}

// run interprets instructions from start on and emits every state with the
// address that it holds from, in ascending order and below end. It reports
// whether the instructions are sound.
func (in *interpreter) run(c *cie, code field, start, end uint64) bool {
	in.cie, in.now, in.pc, in.remembered = c, c.initial, start, in.remembered[:0]
	cur := cursor{b: code.b}
	for cur.left() > 0 && in.pc < end {
		op := cur.u8()
		ok := true
		switch op & 0xc0 {
		case cfaAdvanceLoc:
			ok = in.advance(uint64(op & 0x3f))
		case cfaOffset:
			in.set(uint64(op&0x3f), place{how: howOffset, off: int64(cur.uleb()) * c.dataAlign})
		case cfaRestore:
			in.restore(uint64(op & 0x3f))
		default:
			ok = in.extended(op, &cur, code.addr)
		}
		if !ok || cur.bad {
			return false
		}
	}
	if in.pc < end && in.emit != nil {
		in.emit(in.pc, &in.now)
	}
	return true
}

// extended interprets the instructions that are a byte of their own. addr is
// the address of the first instruction.
func (in *interpreter) extended(op uint8, cur *cursor, addr uint64) bool {
	align := in.cie.dataAlign
	switch op {
	case cfaNop, cfaNegateRAState, cfaNegateRAStateWithPC:
	case cfaArgsSize:
		cur.uleb()

	case cfaSetLoc:
		to, ok := in.cie.pointer(cur, addr)
		return ok && to >= in.pc && in.advanceTo(to)
	case cfaAdvanceLoc1:
		return in.advance(uint64(cur.u8()))
	case cfaAdvanceLoc2:
		return in.advance(uint64(cur.u16()))
	case cfaAdvanceLoc4:
		return in.advance(uint64(cur.u32()))
	case cfaAdvanceLoc8:
		return in.advance(cur.u64())

	case cfaDefCFA:
		in.now.cfa = place{how: howRegister, reg: cur.uleb(), off: int64(cur.uleb())}
	case cfaDefCFASF:
		in.now.cfa = place{how: howRegister, reg: cur.uleb(), off: cur.sleb() * align}
	case cfaDefCFARegister:
		in.now.cfa.reg = cur.uleb()
		return in.now.cfa.how == howRegister
	case cfaDefCFAOffset:
		in.now.cfa.off = int64(cur.uleb())
		return in.now.cfa.how == howRegister
	case cfaDefCFAOffsetSF:
		in.now.cfa.off = cur.sleb() * align
		return in.now.cfa.how == howRegister
	case cfaDefCFAExpression:
		in.now.cfa = expression(cur.take(cur.uleb()), in.sp)

	case cfaOffsetExtended:
		in.set(cur.uleb(), place{how: howOffset, off: int64(cur.uleb()) * align})
	case cfaOffsetExtendedSF:
		in.set(cur.uleb(), place{how: howOffset, off: cur.sleb() * align})
	case cfaNegOffsetExtended:
		in.set(cur.uleb(), place{how: howOffset, off: -int64(cur.uleb()) * align})
	case cfaRegister:
		in.set(cur.uleb(), place{how: howRegister, reg: cur.uleb()})
	case cfaUndefined:
		in.set(cur.uleb(), place{how: howUndefined})
	case cfaSameValue:
		in.set(cur.uleb(), place{})
	case cfaRestoreExtended:
		in.restore(cur.uleb())
	case cfaExpression:
		reg := cur.uleb()
		in.set(reg, savedAt(expression(cur.take(cur.uleb()), in.sp)))
	case cfaValExpression:
		in.set(cur.uleb(), place{how: howOther})
		cur.take(cur.uleb())
	case cfaValOffset:
		in.set(cur.uleb(), place{how: howOther})
		cur.uleb()
	case cfaValOffsetSF:
		in.set(cur.uleb(), place{how: howOther})
		cur.sleb()

	case cfaRememberState:
		if len(in.remembered) == maxRemembered {
			return false
		}
		in.remembered = append(in.remembered, in.now)
	case cfaRestoreState: // the CFA too, as gcc means it and unlike DWARF 2 reads
		n := len(in.remembered)
		if n == 0 {
			return false
		}
		in.now, in.remembered = in.remembered[n-1], in.remembered[:n-1]
	default:
		return false
	}
	return true
}

// advance moves on by a delta in units of the code alignment.
func (in *interpreter) advance(delta uint64) bool {
	if delta == 0 {
		return true
	}
	to := in.pc + delta*in.cie.codeAlign
	return to > in.pc && in.advanceTo(to)
}

func (in *interpreter) advanceTo(to uint64) bool {
	if in.emit == nil {
		return false
	}
	if to != in.pc {
		in.emit(in.pc, &in.now)
		in.pc = to
	}
	return true
}

// of is where the place of a register is noted, nil for one that no Rule needs.
func (s *state) of(reg uint64, m machine) *place {
	switch reg {
	case m.fp:
		return &s.fp
	case m.ra:
		return &s.ra
	}
	return nil
}

func (in *interpreter) set(reg uint64, p place) {
	if to := in.now.of(reg, in.machine); to != nil {
		*to = p
	}
}

func (in *interpreter) restore(reg uint64) {
	if to := in.now.of(reg, in.machine); to != nil {
		*to = *in.cie.initial.of(reg, in.machine)
	}
}
