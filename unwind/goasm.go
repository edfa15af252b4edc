package unwind

import (
	"bytes"
	"encoding/binary"

	"hotframe/internal/gotab"
)

// Where functions save the frame pointer is not in pclntab. The compiler's do it
// always in the same way; of assembly the instructions are looked at, which
// cmd/internal/obj adds (x86/obj6.go, arm64/obj7.go), or which ABI macros have
// (runtime/cgo/abi_*.h).

const (
	maxGoMoves = 1 << 10 // bytes of a function that are searched for moves of SP
	goPrologue = 64      // bytes behind the first change of SP that are searched for saves
)

// findMoves finds the instructions of a function of the runtime that move SP to another stack.
func (g *goCompiler) findMoves(c *goFrame, f gotab.Func) {
	b := g.code(f.Entry, min(f.End-f.Entry, maxGoMoves))
	if g.arch == ARM64 {
		c.moved, c.lost = movesARM64(b, f.Entry)
	} else {
		c.moved = movesAMD64(b, f.Entry)
	}
}

// findFrame finds where the function saves the frame pointer. It begins to
// take stack at pc.
func (g *goCompiler) findFrame(c *goFrame, f gotab.Func, pc uint64, size int32) {
	c.size = size
	switch {
	case g.arch == AMD64 && c.assembly:
		g.findFrameAMD64(c, f, pc)
	case g.arch == AMD64:
		// Since Go 1.21 PUSHQ BP; MOVQ SP, BP; ADDQ $-x, SP. Before, SUBQ $size, SP;
		// MOVQ BP, size-8(SP), of 5 or 8 bytes; LEAQ size-8(SP), BP.
		c.slot, c.at = 2, pc
		switch {
		case size > 8+127:
			c.at = pc + 8
		case size > 8:
			c.at = pc + 5
		}
	case c.assembly:
		g.findFrameARM64(c, f, pc)
	default:
		// MOVD.W LR, -size(RSP); MOVD R29, -8(RSP); SUB $8, RSP, R29. Where that does not
		// reach, SUB $size, RSP, R20; STP (R29, R30), -8(R20); MOVD R20, RSP.
		const reach = 0xf0
		c.record(pc, size)
		if size <= reach {
			c.at = pc + 4
		}
	}
	if c.special.after == Rule(KindEnd) && !c.special.deeper {
		c.set = never // Go 1.16's gogo, which has a frame but loads another frame pointer
	}
	if c.set != never {
		c.moved = nil
	}
}

// findFrameAMD64 looks at the code around pc, where the stack has been taken.
func (g *goCompiler) findFrameAMD64(c *goFrame, f gotab.Func, pc uint64) {
	b := g.code(pc-1, min(f.End-pc, goPrologue)+1)
	if c.size == 8 && bytes.HasPrefix(b, []byte{0x55, 0x48, 0x89, 0xe5}) { // PUSHQ BP; MOVQ SP, BP
		c.slot, c.at, c.set = 2, pc, pc+3
		return
	}
	for i := 1; i < len(b); i++ {
		save, n := offsetSP(b[i:], 0x89) // MOVQ BP, save(SP)
		if n == 0 || save >= uint32(c.size) || save%8 != 0 {
			continue
		}
		c.slot = uint16(min((uint32(c.size)-save)/8+1, uint32(FrameLost)))
		c.at = pc + uint64(i-1+n)
		if set, m := offsetSP(b[i+n:], 0x8d); m > 0 && set == save && c.slot == 2 { // LEAQ save(SP), BP
			c.set = c.at + uint64(m)
		}
		return
	}
}

// offsetSP decodes an instruction with the operands RBP and an offset from
// RSP, and returns its length; 0 if it is another one.
func offsetSP(b []byte, opcode byte) (off uint32, n int) {
	switch {
	case len(b) >= 4 && bytes.Equal(b[:4], []byte{0x48, opcode, 0x2c, 0x24}):
		return 0, 4
	case len(b) >= 5 && bytes.Equal(b[:4], []byte{0x48, opcode, 0x6c, 0x24}) && b[4] < 0x80:
		return uint32(b[4]), 5
	case len(b) >= 8 && bytes.Equal(b[:4], []byte{0x48, opcode, 0xac, 0x24}):
		return binary.LittleEndian.Uint32(b[4:]), 8
	}
	return 0, 0
}

// movesAMD64 finds MOVQ reg, SP and MOVQ off(reg), SP, and returns where they
// end. It may take other bytes for such.
func movesAMD64(b []byte, addr uint64) []uint64 {
	var moves []uint64
	for i := 0; i+4 <= len(b); i++ {
		rex, opcode, modrm := b[i], b[i+1], b[i+2]
		n := 0
		switch {
		case rex&0xfb == 0x48 && opcode == 0x89 && modrm&0xc7 == 0xc4:
			n = 3
		case rex&0xfe == 0x48 && opcode == 0x8b && modrm&0xf8 == 0x20 && modrm != 0x24 && modrm != 0x25:
			n = 3
		case rex&0xfe == 0x48 && opcode == 0x8b && modrm&0xf8 == 0x60 && modrm != 0x64:
			n = 4
		default:
			continue
		}
		moves = append(moves, addr+uint64(i+n))
	}
	return moves
}

// record is Go's frame record on arm64, below the return address at SP.
func (c *goFrame) record(pc uint64, size int32) {
	words := min(uint32(size)/8, uint32(FrameLost)-1)
	c.slot, c.at = uint16(words+1), pc
	c.lrSlot, c.lr = uint16(words), pc
}

// Instructions of arm64, and masks of their operands.
const (
	storeFP     = 0xf81f83fd // MOVD R29, -8(RSP)
	storePair20 = 0xa93ffa9d // STP (R29, R30), -8(R20)
	move20      = 0x9100029f // MOVD R20, RSP
	pairSP      = 0xa9007bfd // STP (R29, R30), imm(RSP), with 7 bits of imm/8 at bit 15
	pairSPMask  = 0xffc07fff
	storeLR     = 0xf90003fe // MOVD R30, imm(RSP), with 12 bits of imm/8 at bit 10
	storeLRMask = 0xffc003ff
	pushLR      = 0xf8000ffe // MOVD.W R30, imm(RSP), with 9 bits of imm at bit 12
	pushLRMask  = 0xffe00fff
	moveSP      = 0x9100001f // MOVD Rn, RSP
	moveSPMask  = 0xfffffc1f
	loadFP      = 0xf940039d // MOVD imm(g), R29
	loadFPMask  = 0xffc003ff
	callLabel   = 0x94000000 // BL
	callMask    = 0xfc000000
	callReg     = 0xd63f0000 // BL (Rn)
	callRegMask = 0xfffffc1f
)

// findFrameARM64 looks at the code around pc, where the stack has been taken.
func (g *goCompiler) findFrameARM64(c *goFrame, f gotab.Func, pc uint64) {
	before := min(pc-f.Entry, 8)
	b := g.code(pc-before, min(f.End-pc, goPrologue)+before)
	word := func(at int) uint32 {
		if at += int(before); at < 0 || at+4 > len(b) {
			return 0
		}
		return binary.LittleEndian.Uint32(b[at:])
	}
	switch {
	case word(0) == storeFP:
		c.record(pc, c.size)
		c.at = pc + 4
		c.set = pc + 8
	case word(-4) == move20 && word(-8) == storePair20:
		c.record(pc, c.size)
		c.set = pc + 4
	case word(-4)&pushLRMask == pushLR:
		c.record(pc, c.size)
		c.at = never
	}
	if c.lr != never {
		if c.set != never && g.losesFrame(c, f) {
			c.set = never
		}
		return
	}
	for at := 0; at < goPrologue; at += 4 {
		w := word(at)
		pair, single := w&pairSPMask == pairSP, w&storeLRMask == storeLR
		below := int64(c.size)/8 - int64(w>>15&0x7f) // the CFA, in words
		if single {
			below = int64(c.size)/8 - int64(w>>10&0xfff)
		}
		if !pair && !single || below < 1 || below > int64(FrameMax) {
			continue
		}
		if saved := pc + uint64(at) + 4; pair {
			c.slot, c.at = uint16(below), saved
		} else {
			c.lrSlot, c.lr = uint16(below), saved
		}
		return
	}
}

// movesARM64 finds MOVD Rn, RSP, and returns where they end, and where the
// link register is lost by the last call before: behind the first byte of that,
// since a return address is looked up by the byte before it.
func movesARM64(b []byte, addr uint64) (moves []uint64, lost uint64) {
	lost = never
	for i := 0; i+4 <= len(b); i += 4 {
		at := addr + uint64(i)
		switch w := binary.LittleEndian.Uint32(b[i:]); {
		case w&moveSPMask == moveSP && w != move20:
			moves = append(moves, at+4)
		case w&callMask == callLabel && len(moves) == 0:
			lost = at + 1
		}
	}
	return moves, lost
}

// losesFrame reports whether a function that moves SP loads the frame pointer
// from g.sched before it calls another one there: asmcgocall does, and
// systemstack in Go 1.24 and before.
func (g *goCompiler) losesFrame(c *goFrame, f gotab.Func) bool {
	if len(c.moved) == 0 {
		return false
	}
	const enough = 32
	for b := g.code(c.moved[0], min(f.End-c.moved[0], enough)); len(b) >= 4; b = b[4:] {
		switch w := binary.LittleEndian.Uint32(b); {
		case w&loadFPMask == loadFP:
			return true
		case w&callRegMask == callReg:
			return false
		}
	}
	return false
}
