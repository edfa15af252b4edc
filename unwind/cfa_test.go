package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Instructions that the CIEs of all compilers have: CFA = RSP + 8, RIP at
// CFA - 8; and on arm64 CFA = SP.
var (
	startAMD64 = []byte{cfaDefCFA, 7, 8, cfaOffset | 16, 1}
	startARM64 = []byte{cfaDefCFA, 31, 0}
)

// dumpRows prints rows relative to the text, one a line.
func dumpRows(rows []Row) string {
	var b strings.Builder
	for _, r := range rows {
		names := []string{"none", "end", "sp", "fp", "derefsp", "dereffp", "reg", "rareg", "plt", "signal", "frame", "lr", "goswitch", "index"}
		name := fmt.Sprint(r.Rule.Kind())
		if int(r.Rule.Kind()) < len(names) {
			name = names[r.Rule.Kind()]
		}
		fmt.Fprintf(&b, "%x %s %#x %d; ", int64(r.PC)-relText, name, r.Rule.Offset(), r.Rule.Frame())
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestInstructions(t *testing.T) {
	uleb := func(v uint64) []byte { return binary.AppendUvarint(nil, v) }
	seq := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	plt := func(lit byte) []byte {
		return []byte{cfaDefCFAExpression, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, lit, 0x2a, 0x33, 0x24, 0x22}
	}
	tests := []struct {
		name string
		code []byte
		want string // for the 0x40 bytes at 0, with the start of the CIE
	}{
		{"none but the CIE's", nil, "0 sp 0x1 0"},
		{"a frame pointer frame is built and left", []byte{
			cfaAdvanceLoc | 1, cfaDefCFAOffset, 16, cfaOffset | 6, 2, cfaAdvanceLoc | 3, cfaDefCFARegister, 6, cfaAdvanceLoc | 10, cfaDefCFA, 7, 8,
		}, "0 sp 0x1 0; 1 sp 0x2 2; 4 frame 0x0 0; e sp 0x1 2"},
		{"equal states make one row", []byte{cfaAdvanceLoc | 1, cfaNop, cfaAdvanceLoc | 1, cfaOffset | 3, 2, cfaAdvanceLoc | 1, cfaDefCFAOffset, 16}, "0 sp 0x1 0; 3 sp 0x2 0"},
		{"advance_loc of 0 is none", []byte{cfaAdvanceLoc, cfaDefCFAOffset, 16}, "0 sp 0x2 0"},
		{"advance_loc1", []byte{cfaAdvanceLoc1, 0x20, cfaDefCFAOffset, 16}, "0 sp 0x1 0; 20 sp 0x2 0"},
		{"advance_loc2", []byte{cfaAdvanceLoc2, 0x20, 0, cfaDefCFAOffset, 16}, "0 sp 0x1 0; 20 sp 0x2 0"},
		{"advance_loc4", []byte{cfaAdvanceLoc4, 0x20, 0, 0, 0, cfaDefCFAOffset, 16}, "0 sp 0x1 0; 20 sp 0x2 0"},
		{"MIPS_advance_loc8", []byte{cfaAdvanceLoc8, 0x20, 0, 0, 0, 0, 0, 0, 0, cfaDefCFAOffset, 16}, "0 sp 0x1 0; 20 sp 0x2 0"},
		{"advance_loc past the end", []byte{cfaAdvanceLoc1, 0x80, cfaDefCFAOffset, 16}, "0 sp 0x1 0"},
		{"advance_loc4 around the address space", seq([]byte{cfaAdvanceLoc8}, bytes.Repeat([]byte{0xff}, 8)), "0 none 0x0 0"},
		{"set_loc", seq([]byte{cfaSetLoc}, le32(textAddr+0x20-(ehAddr+0x28)), []byte{cfaDefCFAOffset, 16}), "0 sp 0x1 0; 20 sp 0x2 0"},
		{"set_loc backwards", seq([]byte{cfaSetLoc}, le32(textAddr-1-(ehAddr+0x28))), "0 none 0x0 0"},
		{"def_cfa_sf", []byte{cfaDefCFASF, 7, 0x7e}, "0 sp 0x2 0"},
		{"def_cfa_offset_sf", []byte{cfaDefCFAOffsetSF, 0x7d}, "0 sp 0x3 0"},
		{"offset_extended", []byte{cfaOffsetExtended, 6, 3}, "0 sp 0x1 3"},
		{"offset_extended_sf", []byte{cfaOffsetExtendedSF, 6, 4}, "0 sp 0x1 4"},
		{"GNU_negative_offset_extended", []byte{cfaNegOffsetExtended, 6, 2, cfaNegOffsetExtended, 6, 2}, "0 sp 0x1 4095"},
		{"restore", []byte{cfaOffset | 6, 3, cfaAdvanceLoc | 2, cfaRestore | 6}, "0 sp 0x1 3; 2 sp 0x1 0"},
		{"restore_extended", []byte{cfaOffset | 6, 3, cfaAdvanceLoc | 2, cfaRestoreExtended, 6}, "0 sp 0x1 3; 2 sp 0x1 0"},
		{"undefined RBP", []byte{cfaUndefined, 6}, "0 sp 0x1 4095"},
		{"undefined RIP: the bottom", []byte{cfaUndefined, 16}, "0 end 0x0 0"},
		{"same_value", []byte{cfaOffset | 6, 3, cfaAdvanceLoc | 2, cfaSameValue, 6}, "0 sp 0x1 3; 2 sp 0x1 0"},
		{"register: RBP", []byte{cfaRegister, 6, 9}, "0 sp 0x1 4095"},
		{"register: RIP, as in vfork", []byte{cfaDefCFAOffset, 0, cfaRegister, 16, 5}, "0 rareg 0x5 0"},
		{"remember_state and restore_state, with the CFA", []byte{
			cfaDefCFAOffset, 16, cfaOffset | 6, 2, cfaRememberState, cfaAdvanceLoc | 4, cfaDefCFAOffset, 8, cfaRestore | 6, cfaAdvanceLoc | 1, cfaRestoreState,
		}, "0 sp 0x2 2; 4 sp 0x1 0; 5 sp 0x2 2"},
		{"restore_state of nothing", []byte{cfaRestoreState}, "0 none 0x0 0"},
		{"states remembered 32 deep", seq(bytes.Repeat([]byte{cfaRememberState}, 32), bytes.Repeat([]byte{cfaRestoreState}, 32)), "0 sp 0x1 0"},
		{"states remembered 33 deep", bytes.Repeat([]byte{cfaRememberState}, 33), "0 none 0x0 0"},
		{"val_offset, val_offset_sf, val_expression", []byte{
			cfaValOffset, 3, 2, cfaValOffsetSF, 3, 0x7f, cfaValExpression, 3, 1, 0x30, cfaAdvanceLoc | 1,
			cfaValOffset, 6, 2, cfaAdvanceLoc | 1, cfaSameValue, 6, cfaAdvanceLoc | 1, cfaValOffsetSF, 6, 0x7f, cfaAdvanceLoc | 1,
			cfaSameValue, 6, cfaAdvanceLoc | 1, cfaValExpression, 6, 1, 0x30,
		}, "0 sp 0x1 0; 1 sp 0x1 4095; 2 sp 0x1 0; 3 sp 0x1 4095; 4 sp 0x1 0; 5 sp 0x1 4095"},
		{"GNU_args_size", []byte{cfaArgsSize, 0x90, 1, cfaDefCFAOffset, 16}, "0 sp 0x2 0"},
		{"an unknown instruction", []byte{cfaDefCFAOffset, 16, cfaAdvanceLoc | 1, 0x3e}, "0 none 0x0 0"},
		{"cut in an operand", []byte{cfaDefCFAOffset, 0x80}, "0 none 0x0 0"},
		{"offset of a CFA that is none", []byte{cfaDefCFAExpression, 1, 0x30, cfaDefCFAOffset, 8}, "0 none 0x0 0"},

		{"RBP with an offset", []byte{cfaDefCFA, 6, 24, cfaOffset | 6, 3}, "0 fp 0x3 3"},
		{"another register", []byte{cfaDefCFA, 10, 16}, "0 reg 0x2a 0"},
		{"the largest frame", seq([]byte{cfaDefCFAOffset}, uleb(8*65535)), "0 sp 0xffff 0"},
		{"a frame too large", seq([]byte{cfaDefCFAOffset}, uleb(8*65536)), "0 none 0x0 0"},
		{"no whole words", []byte{cfaDefCFAOffset, 12}, "0 none 0x0 0"},
		{"RBP far from the CFA", seq([]byte{cfaOffset | 6}, uleb(4093)), "0 sp 0x1 4093"},
		{"RBP too far from the CFA", seq([]byte{cfaOffset | 6}, uleb(4094)), "0 sp 0x1 4095"},
		{"RIP elsewhere", []byte{cfaOffset | 16, 2}, "0 none 0x0 0"},
		{"RBP by an expression on the CFA's register", []byte{cfaDefCFAOffset, 32, cfaExpression, 6, 2, 0x77, 8}, "0 sp 0x4 3"},
		{"gcc's realigned frame", []byte{
			cfaDefCFA, 10, 0, cfaAdvanceLoc | 9, cfaExpression, 6, 2, 0x76, 0, cfaAdvanceLoc | 2, cfaDefCFAExpression, 3, 0x76, 0x78, 0x06,
		}, "0 reg 0xa 0; 9 reg 0xa 4094; b dereffp 0xfff 4094"},
		{"gcc's realigned frame is left, with RBP restored before the last 4 bytes", []byte{
			cfaDefCFAExpression, 3, 0x76, 0x78, 0x06, cfaExpression, 6, 2, 0x76, 0, cfaAdvanceLoc | 0x10, cfaDefCFA, 10, 0, cfaAdvanceLoc | 0xd, cfaDefCFA, 7, 8,
		}, "0 dereffp 0xfff 4094; 10 reg 0xa 4094; 19 reg 0xa 0; 1d sp 0x1 0"},
		{"CFA saved at RSP", []byte{cfaDefCFAExpression, 5, 0x77, 0xa8, 1, 0x06, 0x23}, "0 none 0x0 0"},
		{"CFA saved at RSP, plus_uconst", []byte{cfaDefCFAExpression, 6, 0x77, 0xa8, 1, 0x06, 0x23, 8}, "0 derefsp 0x1015 0"},
		{"CFA saved at RSP, lit and plus", []byte{cfaDefCFAExpression, 6, 0x77, 0xa8, 1, 0x06, 0x38, 0x22}, "0 derefsp 0x1015 0"},
		{"CFA saved at RSP, const1u and plus", []byte{cfaDefCFAExpression, 7, 0x77, 0xa8, 1, 0x06, 0x08, 8, 0x22}, "0 derefsp 0x1015 0"},
		{"CFA saved at RSP, bregx", []byte{cfaDefCFAExpression, 4, 0x92, 7, 16, 0x06}, "0 derefsp 0x2 0"},
		{"CFA saved in an array", []byte{cfaDefCFAExpression, 10, 0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8}, "0 index 0x119 0"},
		{"CFA register by expression", []byte{cfaDefCFAExpression, 2, 0x77, 24}, "0 sp 0x3 0"},
		{".plt", plt(0x3b), "0 plt 0xb 0"},
		{".plt with endbr64", plt(0x39), "0 plt 0x9 0"},
		{"not quite .plt", plt(0x50), "0 none 0x0 0"},
		{"an empty expression", []byte{cfaDefCFAExpression, 0}, "0 none 0x0 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entries
			e.fde(e.cie("zR", 16, startAMD64...), 0, 0x40, tt.code...)
			table, err := build(image(elf.EM_X86_64, ".eh_frame", 2, e.b))
			want := tt.want
			if want == "0 none 0x0 0" { // is what there is without a table
				if !errors.Is(err, ErrNoInfo) {
					t.Errorf("table %v, %v; want %v", table, err, ErrNoInfo)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := dumpRows(table.Rows); got != want+"; 40 none 0x0 0" {
				t.Errorf("rows\n%s\nwant\n%s; 40 none 0x0 0", got, want)
			}
		})
	}
}

func le32(v int64) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }

func TestARM64(t *testing.T) {
	tests := []struct {
		name string
		code []byte
		want string
	}{
		{"leaf", nil, "0 sp 0x0 0"},
		{"pair, signed", []byte{cfaNegateRAState, cfaAdvanceLoc | 4, cfaDefCFAOffset, 32, cfaOffset | 29, 4, cfaOffset | 30, 3, cfaNegateRAStateWithPC}, "0 sp 0x0 0; 4 sp 0x4 4"},
		{"pair by FP", []byte{cfaDefCFA, 29, 32, cfaOffset | 29, 4, cfaOffset | 30, 3}, "0 fp 0x4 4"},
		{"exact frame", []byte{cfaDefCFA, 29, 16, cfaOffset | 29, 2, cfaOffset | 30, 1}, "0 frame 0x0 0"},
		{"link register alone", []byte{cfaDefCFAOffset, 32, cfaOffset | 30, 4}, "0 lr 0x4 4"},
		{"bottom", []byte{cfaUndefined, 30}, "0 end 0x0 0"},
		{"outlined: link register in x9", []byte{cfaRegister, 30, 9}, "0 rareg 0x9 0"},
		{"pushed by .plt", []byte{cfaOffsetExtendedSF, 30, 0x7f, cfaAdvanceLoc | 8, cfaDefCFAOffset, 0xd0, 1}, "0 lr 0x2 1; 8 lr 0x1c 1"},
		{"no pair", []byte{cfaDefCFAOffset, 32, cfaOffset | 29, 4, cfaOffset | 30, 1}, "0 none 0x0 0"},
		{"frame pointer saved alone", []byte{cfaDefCFAOffset, 16, cfaOffset | 29, 2}, "0 sp 0x2 4095"},
		{"SVE: CFA depends on the vector length", []byte{cfaDefCFAExpression, 7, 0x8f, 16, 0x92, 46, 0, 0x40, 0x1e}, "0 none 0x0 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entries
			e.fde(e.cie("zRB", 30, startARM64...), 0, 0x40, tt.code...)
			table, err := build(image(elf.EM_AARCH64, ".eh_frame", 2, e.b))
			if err != nil {
				if !errors.Is(err, ErrNoInfo) || tt.want != "0 none 0x0 0" {
					t.Error(err)
				}
				return
			}
			if got := dumpRows(table.Rows); got != tt.want+"; 40 none 0x0 0" || table.Arch != ARM64 {
				t.Errorf("rows\n%s\nwant\n%s; 40 none 0x0 0", got, tt.want)
			}
		})
	}
}

// FuzzCFA: whatever the instructions of a function are, its neighbours have
// their rules, and its own rows lie between them.
func FuzzCFA(f *testing.F) {
	f.Add([]byte{cfaAdvanceLoc | 1, cfaDefCFAOffset, 16, cfaOffset | 6, 2, cfaAdvanceLoc | 3, cfaDefCFARegister, 6}, false)
	f.Add([]byte{cfaDefCFAExpression, 3, 0x76, 0x78, 0x06, cfaRememberState, cfaAdvanceLoc1, 9, cfaRestoreState}, true)
	f.Add([]byte{cfaSetLoc, 0, 0, 0, 0, cfaValExpression, 6, 2, 0x76, 0, cfaUndefined, 16}, true)
	f.Fuzz(func(t *testing.T, code []byte, arm bool) {
		machine, ra, start := elf.EM_X86_64, byte(16), startAMD64
		if arm {
			machine, ra, start = elf.EM_AARCH64, 30, startARM64
		}
		var e entries
		c := e.cie("zR", ra, start...)
		e.fde(c, 0, 0x10)
		e.fde(c, 0x10, 0x10, code...)
		e.fde(c, 0x20, 0x10)
		table, err := build(image(machine, ".eh_frame", 2, e.b))
		if err != nil {
			t.Fatal(err)
		}
		checkRows(t, table)
		first, last := table.Lookup(textAddr), table.Lookup(textAddr+0x20)
		if first != last || first.Kind() != KindSP || table.Stats.Functions+table.Stats.Damaged != 3 {
			t.Errorf("rules %#x and %#x beside it, %+v", first, last, table.Stats)
		}
	})
}
