package unwind

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hotframe/internal/testutil"
)

// A dumpRow is a row of the call frame table as readelf prints it.
type dumpRow struct {
	pc          uint64
	cfa, fp, ra string
	expressions []string // of the CFA, in the whole FDE
}

// A dumpFDE is the table of one function.
type dumpFDE struct {
	start, end uint64
	rows       []dumpRow
}

// dump reads the unwind section of a file by readelf, which interprets it
// independently of this package.
func dump(t *testing.T, path, section string) []dumpFDE {
	t.Helper()
	fdes := make(map[string]*dumpFDE) // by offset and addresses
	readelf(t, path, "frames-interp", section, func(p *dumpParser) {
		if f := p.fde; f != nil {
			fdes[p.key] = f
		}
	})
	readelf(t, path, "frames", section, func(p *dumpParser) {
		if f := fdes[p.key]; f != nil && p.expressions != nil {
			for i := range f.rows {
				f.rows[i].expressions = p.expressions
			}
		}
	})
	var list []dumpFDE
	for _, f := range fdes {
		list = append(list, *f)
	}
	slices.SortFunc(list, func(a, b dumpFDE) int { return cmp.Compare(a.start, b.start) })
	return list
}

// dumpParser is at the end of one entry.
type dumpParser struct {
	key         string
	fde         *dumpFDE
	expressions []string

	cies    map[string][]dumpRow
	columns []string
	rows    []dumpRow
	inherit []dumpRow
	cie     string
}

func readelf(t *testing.T, path, what, section string, entry func(*dumpParser)) {
	t.Helper()
	cmd := exec.Command(testutil.NeedTool(t, "readelf"), "--wide", "--debug-dump="+what, path)
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &dumpParser{cies: make(map[string][]dumpRow)}
	here := false
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "Contents of the "); ok {
			p.finish(entry)
			here = strings.HasPrefix(rest, section+" section")
			continue
		}
		if here {
			p.line(t, line, entry)
		}
	}
	p.finish(entry)
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Logf("readelf %s: %v", path, err)
	}
}

// longRegister is how readelf writes a value that is in another register.
var longRegister = regexp.MustCompile(`r\d+ \((\w+)\)`)

func (p *dumpParser) line(t *testing.T, line string, entry func(*dumpParser)) {
	f := strings.Fields(longRegister.ReplaceAllString(line, "$1"))
	switch {
	case len(f) > 3 && f[3] == "CIE":
		p.finish(entry)
		p.cie = f[0]
	case len(f) > 4 && f[3] == "FDE":
		p.finish(entry)
		p.fde = &dumpFDE{}
		if _, err := fmt.Sscanf(f[5], "pc=%x..%x", &p.fde.start, &p.fde.end); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		p.key = f[0] + f[5]
		p.inherit = p.cies[strings.TrimPrefix(f[4], "cie=")]
	case len(f) > 0 && f[0] == "LOC":
		p.columns = f
	case len(f) > 0 && f[0] == "DW_CFA_def_cfa_expression":
		p.expressions = append(p.expressions, strings.Trim(strings.Join(f[1:], " "), "()"))
	case p.columns != nil && len(f) == len(p.columns):
		r := dumpRow{fp: "u", ra: "u"}
		r.pc, _ = strconv.ParseUint(f[0], 16, 64)
		for i, column := range p.columns {
			switch column {
			case "CFA":
				r.cfa = f[i]
			case "rbp", "x29":
				r.fp = f[i]
			case "ra":
				r.ra = f[i]
			}
		}
		p.rows = append(p.rows, r)
	}
}

// finish hands over the entry that is complete.
func (p *dumpParser) finish(entry func(*dumpParser)) {
	if p.cie != "" {
		p.cies[p.cie] = p.rows
	}
	if p.fde != nil {
		if p.rows == nil { // readelf prints no table for an FDE that has no instructions
			p.rows = slices.Clone(p.inherit)
			for i := range p.rows {
				p.rows[i].pc = p.fde.start
			}
		}
		p.fde.rows = p.rows
		entry(p)
	}
	p.cie, p.fde, p.columns, p.rows, p.expressions = "", nil, nil, nil, nil
}

// at returns the row for an address.
func at(fdes []dumpFDE, addr uint64) (dumpRow, bool) {
	i, found := slices.BinarySearchFunc(fdes, addr, func(f dumpFDE, addr uint64) int { return cmp.Compare(f.start, addr) })
	if !found {
		i--
	}
	if i < 0 || addr >= fdes[i].end {
		return dumpRow{}, false
	}
	rows := fdes[i].rows
	for len(rows) > 1 && rows[1].pc <= addr {
		rows = rows[1:]
	}
	if len(rows) == 0 {
		return dumpRow{}, false
	}
	return rows[0], true
}

var registerNames = [...][]string{
	AMD64: {"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"},
	ARM64: {"x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15"},
}

// agrees reports whether a rule says what a row of readelf's says, in
// readelf's words.
func agrees(arch Arch, r Rule, want dumpRow) bool {
	sp, fp := "rsp", "rbp"
	if arch == ARM64 {
		sp, fp = "sp", "x29"
	}
	offset, frame := int(r.Offset()), int(r.Frame())
	cfa, ra := "", "c-8"
	exp := ""
	switch r.Kind() {
	case KindEnd:
		return want.ra == "u"
	case KindSP:
		cfa = fmt.Sprintf("%s+%d", sp, 8*offset)
	case KindFP:
		cfa = fmt.Sprintf("%s+%d", fp, 8*offset)
	case KindFrame:
		cfa, frame = fp+"+16", 2
	case KindLR:
		cfa, ra, frame = fmt.Sprintf("%s+%d", sp, 8*offset), fmt.Sprintf("c-%d", 8*frame), 0
		if want.ra == "c+8" { // _dl_runtime_resolve, see ruleARM64
			cfa, ra = fmt.Sprintf("%s%+d", sp, 8*offset-16), "c+8"
		}
	case KindReg:
		cfa = fmt.Sprintf("%s+%d", registerNames[arch][offset&15], 8*(offset>>4))
	case KindRAReg:
		cfa, ra = fmt.Sprintf("%s+%d", sp, 8*(offset>>4)), registerNames[arch][offset&15]
		if arch == ARM64 && want.ra == "u" { // readelf names no other return address column
			ra = "u"
		}
	case KindPLT:
		cfa = "exp"
		exp = fmt.Sprintf("DW_OP_breg7 (rsp): 8; DW_OP_breg16 (rip): 0; DW_OP_lit15; DW_OP_and; DW_OP_lit%d; DW_OP_ge; DW_OP_lit3; DW_OP_shl; DW_OP_plus", offset)
	case KindDerefSP:
		cfa = "exp"
		exp = fmt.Sprintf("DW_OP_breg7 (rsp): %d; DW_OP_deref", 8*(int16(offset<<4)>>4))
	case KindDerefFP:
		cfa = "exp"
		exp = fmt.Sprintf("DW_OP_breg6 (rbp): %d; DW_OP_deref", 8*(int16(offset<<4)>>4))
	case KindDerefIndex:
		cfa = "exp"
		reg := offset & 15
		exp = fmt.Sprintf("DW_OP_breg7 (rsp): %d; DW_OP_breg%d (%s): 0; DW_OP_lit8; DW_OP_mul; DW_OP_plus; DW_OP_deref; DW_OP_plus_uconst: %d",
			8*(offset>>8), reg, registerNames[arch][reg], 8*(offset>>4&15))
	case KindSignal:
		return want.cfa == "exp" && want.ra == "exp"
	}
	if (r.Kind() == KindDerefSP || r.Kind() == KindDerefFP) && offset>>12 > 0 {
		exp += fmt.Sprintf("; DW_OP_plus_uconst: %d", 8*(offset>>12))
	}
	if cfa == "exp" && !slices.Contains(want.expressions, exp) {
		return false
	}
	saved := fmt.Sprintf("c-%d", 8*frame)
	if arch == ARM64 && r.Kind() != KindLR && r.Kind() != KindRAReg {
		switch {
		case uint16(frame) == FrameKept || uint16(frame) == FrameLost:
			ra = "u"
		case frame == 1:
			ra = "c+0"
		default:
			ra = fmt.Sprintf("c-%d", 8*frame-8)
		}
	}
	switch uint16(frame) {
	case FrameKept:
		saved = "u"
	case FrameAtFP:
		saved = "exp"
	case FrameLost:
		saved = want.fp
	}
	if uint16(frame) == FrameKept && want.fp == "exp" && (cfa == "rsp+8" || cfa == "r10+0") {
		saved = "exp" // see leaveRealigned
	}
	return cfa == want.cfa && (ra == want.ra || want.ra == "s" && ra == "u") && (saved == want.fp || want.fp == "s" && saved == "u")
}

// compare checks the rules of a file at each row of readelf's and at random
// addresses in between.
func compare(t *testing.T, path, section string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := Build(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, table)
	fdes := dump(t, path, section)
	if len(fdes) == 0 {
		t.Fatalf("readelf finds no FDE in %s of %s", section, path)
	}

	checked, kinds := 0, [16]int{}
	var odd []string
	check := func(addr uint64) {
		got := table.Lookup(addr)
		want, ok := at(fdes, addr)
		checked++
		kinds[got.Kind()]++
		switch {
		case !ok && got != 0:
			i, _ := slices.BinarySearchFunc(fdes, addr, func(f dumpFDE, addr uint64) int { return cmp.Compare(f.start, addr) })
			if i > 0 && addr < fdes[i-1].end+maxGap {
				return // padding
			}
			fallthrough
		case ok && !agrees(table.Arch, got, want):
			if got == 0 && ok {
				odd = append(odd, fmt.Sprintf("%x: CFA %s, FP %s, RA %s %q", addr, want.cfa, want.fp, want.ra, want.expressions))
				return
			}
			t.Errorf("%#x: kind %d, offset %#x, frame %#x; readelf: %+v", addr, got.Kind(), got.Offset(), got.Frame(), want)
		}
	}
	for _, f := range fdes {
		for _, r := range f.rows {
			check(r.pc)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	low, high := fdes[0].start, fdes[len(fdes)-1].end
	for range 20_000 {
		check(low + random.Uint64N(high-low))
	}
	t.Logf("%s: %d addresses, %d rows, %+v, by kind %v", filepath.Base(path), checked, len(table.Rows), table.Stats, kinds)
	slices.Sort(odd)
	for _, s := range odd[:min(len(odd), 20)] {
		t.Log("no rule for ", s)
	}
	if len(odd)*1000 > checked {
		t.Errorf("%d of %d addresses have no rule", len(odd), checked)
	}
}

// checkRows holds what every Table promises.
func checkRows(t *testing.T, table *Table) {
	t.Helper()
	if len(table.Rows) == 0 {
		t.Error("a table without rows")
	}
	for i, r := range table.Rows {
		if i > 0 && r.PC <= table.Rows[i-1].PC {
			t.Fatalf("row %d at %#x behind %#x", i, r.PC, table.Rows[i-1].PC)
		}
		if i > 0 && r.Rule == table.Rows[i-1].Rule {
			t.Fatalf("rows %d and %d at %#x are equal", i-1, i, r.PC)
		}
		if r.Rule.Kind() > KindDerefIndex {
			t.Fatalf("row %d has kind %d", i, r.Rule.Kind())
		}
	}
}

// programOf is the path of one of gcc's own programs, or its name where there is no gcc.
func programOf(name string) string {
	out, err := exec.Command("gcc", "-print-prog-name="+name).Output()
	if err != nil {
		return name
	}
	return strings.TrimSpace(string(out))
}

// TestReadelf compares with binutils.
func TestReadelf(t *testing.T) {
	libraries := []string{
		"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
		"/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/bin/node", "/usr/bin/python3", programOf("cc1plus"),
		"/usr/aarch64-linux-gnu/lib/libc.so.6", "/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1", "/usr/aarch64-linux-gnu/lib/libstdc++.so.6",
	}
	for _, path := range libraries {
		t.Run(path, func(t *testing.T) {
			compare(t, path, ".eh_frame")
		})
	}
	programs := []struct {
		source string
		flags  []string
	}{
		{"shares.c", []string{"-fomit-frame-pointer"}},
		{"shares.c", []string{"-fno-omit-frame-pointer"}},
		{"deep.c", []string{"-O0"}},
		{"deep.c", []string{"-mstackrealign"}},
		{"threads.c", []string{"-static"}},
		{"cppwork.cc", []string{"-mstackrealign", "-fcf-protection", "-Wl,-z,ibtplt,-z,lazy"}},
		{"cppwork.cc", []string{"-static"}},
	}
	for _, p := range programs {
		t.Run(p.source+strings.Join(p.flags, ""), func(t *testing.T) {
			compare(t, testutil.Program(t, p.source, p.flags...), ".eh_frame")
		})
	}
}
