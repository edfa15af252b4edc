package unwind

import "bytes"

// Operations of DWARF expressions (DWARF 5, 7.7.1) that occur in the forms below.
const (
	opDeref      = 0x06
	opConst1u    = 0x08
	opPlus       = 0x22
	opPlusUconst = 0x23
	opLit0       = 0x30 // to opLit0+31
	opBreg0      = 0x70 // to opBreg0+31
	opBregx      = 0x92
)

// pltPrefix and pltSuffix are what binutils writes for .plt around the literal
// that says how far into an entry its push is: DW_OP_breg7 8; DW_OP_breg16 0;
// DW_OP_lit15; DW_OP_and; DW_OP_lit11 (9 or 10 with endbr64); DW_OP_ge;
// DW_OP_lit3; DW_OP_shl; DW_OP_plus (bfd/elfxx-x86.c).
var (
	pltPrefix = []byte{opBreg0 + 7, 8, opBreg0 + 16, 0, opLit0 + 15, 0x1a}
	pltSuffix = []byte{0x2a, opLit0 + 3, 0x24, opPlus}
)

// indexSuffix is behind two registers what makes them *(first + 8*second):
// 0; DW_OP_lit8; DW_OP_mul; DW_OP_plus; DW_OP_deref. OpenSSL's Montgomery
// multiplication keeps its caller's stack pointer at the end of an array.
var indexSuffix = []byte{0, opLit0 + 8, 0x1e, opPlus, opDeref}

// expression returns the value of an expression as a place of a CFA: register
// + off, what is there + add, an element of an array, or the CFA in a PLT. sp
// is the number of the stack pointer.
func expression(b []byte, sp uint64) place {
	if rest, ok := bytes.CutPrefix(b, pltPrefix); ok {
		if lit, ok := bytes.CutSuffix(rest, pltSuffix); ok && len(lit) == 1 && opLit0 <= lit[0] && lit[0] < opLit0+16 {
			return place{how: howPLT, off: int64(lit[0] - opLit0)}
		}
	}

	c := cursor{b: b}
	p := place{how: howRegister}
	switch op := c.u8(); {
	case opBreg0 <= op && op < opBreg0+32:
		p.reg = uint64(op - opBreg0)
	case op == opBregx:
		p.reg = c.uleb()
	default:
		return place{how: howOther}
	}
	p.off = c.sleb()
	if rest := b[c.off:]; p.reg == sp && len(rest) > 6 && opBreg0 <= rest[0] && rest[0] < opBreg0+32 && bytes.HasPrefix(rest[1:], indexSuffix) {
		p.how, p.reg = howIndexed, uint64(rest[0]-opBreg0)
		c.off += 1 + len(indexSuffix)
		p.add = addend(&c)
	} else if c.left() > 0 && c.u8() == opDeref {
		p.how, p.add = howAt, addend(&c)
	}
	if c.bad || c.left() > 0 {
		return place{how: howOther}
	}
	return p
}

// addend reads the addition of a constant at the end of an expression.
func addend(c *cursor) int64 {
	if c.left() == 0 {
		return 0
	}
	var v int64
	switch op := c.u8(); {
	case op == opPlusUconst:
		return int64(c.uleb())
	case op == opConst1u:
		v = int64(c.u8())
	case opLit0 <= op && op < opLit0+32:
		v = int64(op - opLit0)
	default:
		c.bad = true
	}
	if c.u8() != opPlus {
		c.bad = true
	}
	return v
}

// savedAt turns the value of an expression into the place of a register that
// is saved at that address.
func savedAt(p place) place {
	if p.how == howRegister {
		p.how = howAt
		return p
	}
	return place{how: howOther}
}
