// Package unwind compiles the unwind information of an ELF file to a compact
// Table: for each code address a Rule that finds the caller's frame. It is a
// pure function of the file's bytes, and the same rules are walked in the
// kernel by bpf/ and here by Step.
//
// Upstream: ELF files. Downstream: sampler loads Tables into BPF maps.
package unwind

import (
	"cmp"
	"math"
	"slices"
)

// A Table holds the rules of one ELF file, by address.
type Table struct {
	Arch Arch
	Base uint64 // ELF virtual address that row addresses count from: the lowest that is executable, rounded down to a page of 64 KiB
	// Rows are sorted by PC and hold until the next row. Equal neighbours are merged. What lies
	// before the first row, or in a gap of the unwind information, has no rule (RuleNone).
	Rows  []Row
	Text  uint64 // bytes of executable code in the file, for statistics
	Stats Stats
}

// Stats tell what Build made of the entries of a file.
type Stats struct {
	Functions int // whose instructions are in the Table
	Damaged   int // entries lost alone: cut, contradictory or of an unknown kind
	Dropped   int // entries outside of the executable segments, and doubles
	NoKind    int // stretches with instructions that no Kind can express; they have no rule
}

// A Row says which rule holds from an address on.
type Row struct {
	PC   uint32 // relative to Table.Base
	Rule Rule
}

// Arch is the machine of a Table.
type Arch uint8

const (
	AMD64 Arch = iota
	ARM64
)

// A Rule is one packed unwind step, the same bits in Go and in BPF:
//
//	bits 0-3    Kind
//	bits 4-19   offset: of the CFA, see Kind
//	bits 20-31  frame: where the caller's frame pointer is (and on arm64 the return address)
//
// Offsets are in words of 8 bytes. frame 0: the register holds it still; 1 to
// 4093: saved at CFA - 8*frame, and on arm64 the return address at 8 above that;
// 4094: saved where FP points to (amd64); 4095: it is lost. On amd64 the return address is at
// CFA - 8 unless Kind says else; on arm64 with frame 0 or 4095 it is in the link register, which
// only the leaf has, or which a signal frame restored.
type Rule uint32

// Kind is how a Rule computes the CFA, the value of the stack pointer in the caller.
type Kind uint8

const (
	KindNone       Kind = iota // nothing is known of this address
	KindEnd                    // the bottom of the stack: the return address is undefined
	KindSP                     // CFA = SP + offset, unsigned
	KindFP                     // CFA = FP + offset, unsigned
	KindDerefSP                // CFA = *(SP + 8*low 12 bits, signed) + 8*high 4 bits
	KindDerefFP                // CFA = *(FP + 8*low 12 bits, signed) + 8*high 4 bits
	KindReg                    // leaf only: CFA = register of DWARF number (low 4 bits) + 8*high 12 bits
	KindRAReg                  // leaf only: CFA = SP + 8*high 12 bits, the return address is in the register (low 4 bits)
	KindPLT                    // amd64 .plt: CFA = SP + 8 + 8*((IP & 15) >= offset)  (binutils' DW_CFA_def_cfa_expression of .plt)
	KindSignal                 // a signal frame: the kernel saved all registers above SP (rt_sigframe)
	KindFrame                  // a frame pointer frame, exactly: CFA = FP + 16, FP at CFA - 16, return address at CFA - 8
	KindLR                     // arm64: CFA = SP + offset, FP in its register, return address at CFA - 8*frame
	KindGoSwitch               // Go's systemstack, mcall, asmcgocall, morestack: the stack goes on where offset says (GoSwitch...)
	KindDerefIndex             // leaf only: CFA = *(SP + 8*high 8 bits + 8*register of DWARF number (low 4 bits)) + 8*middle 4 bits
)

// NewRule packs a rule. offset and frame are in words; callers have checked their ranges.
func NewRule(k Kind, offset uint16, frame uint16) Rule {
	return Rule(k) | Rule(offset)<<4 | Rule(frame&0xfff)<<20
}

// Frame values of a Rule.
const (
	FrameKept uint16 = 0
	FrameMax  uint16 = 0xffd // the largest offset from the CFA
	FrameAtFP uint16 = 0xffe // at *FP: gcc's realigned frames, where the distance to the CFA is not constant
	FrameLost uint16 = 0xfff
)

func (r Rule) Kind() Kind     { return Kind(r & 15) }
func (r Rule) Offset() uint16 { return uint16(r >> 4) }
func (r Rule) Frame() uint16  { return uint16(r >> 20) }

// Lookup returns the rule for an instruction at an ELF virtual address. A
// return address belongs to the instruction before it: look up the address less 1.
func (t *Table) Lookup(addr uint64) Rule {
	pc := addr - t.Base
	if addr < t.Base || pc > math.MaxUint32 {
		return Rule(KindNone)
	}
	i, found := slices.BinarySearchFunc(t.Rows, uint32(pc), func(r Row, pc uint32) int { return cmp.Compare(r.PC, pc) })
	if found {
		return t.Rows[i].Rule
	}
	if i == 0 {
		return Rule(KindNone)
	}
	return t.Rows[i-1].Rule
}
