package symbolize

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/object"
)

const names = "\x00first\x00second\x00__alias\x00alias\x00longer_alias\x00weak\x00plain\x00data\x00"

func nameAt(s string) uint32 { return uint32(strings.Index(names, "\x00"+s+"\x00") + 1) }

var imageSymbols = []elf.Sym64{
	{},
	elfSymbol(nameAt("second"), elf.STB_GLOBAL, elf.STT_FUNC, 0x20100, 0x40),
	elfSymbol(nameAt("first"), elf.STB_LOCAL, elf.STT_FUNC, 0x20000, 0), // ends where second begins
	elfSymbol(nameAt("__alias"), elf.STB_GLOBAL, elf.STT_FUNC, 0x20200, 0x10),
	elfSymbol(nameAt("alias"), elf.STB_GLOBAL, elf.STT_FUNC, 0x20200, 0x10),
	elfSymbol(nameAt("longer_alias"), elf.STB_GLOBAL, elf.STT_GNU_IFUNC, 0x20200, 0x10),
	elfSymbol(nameAt("weak"), elf.STB_WEAK, elf.STT_FUNC, 0x20200, 0x10),
	elfSymbol(nameAt("plain"), elf.STB_GLOBAL, elf.STT_NOTYPE, 0x20300, 0x10),
	elfSymbol(nameAt("data"), elf.STB_GLOBAL, elf.STT_OBJECT, 0x20310, 0x10),
	elfSymbol(nameAt("data"), elf.STB_GLOBAL, elf.STT_NOTYPE, 0x20320, 0),
	{Name: nameAt("data"), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: uint16(elf.SHN_ABS), Value: 0x20330, Size: 0x10},
	{Name: nameAt("data"), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Value: 0x20340, Size: 0x10}, // undefined
	elfSymbol(nameAt("weak"), elf.STB_WEAK, elf.STT_FUNC, 0x20400, 0x10),
	elfSymbol(nameAt("first"), elf.STB_LOCAL, elf.STT_FUNC, 0x20400, 0x10),
	elfSymbol(nameAt("plain"), elf.STB_LOCAL, elf.STT_FUNC, 0x20500, 0xffff_ffff), // reaches past .text
	elfSymbol(0xffff, elf.STB_GLOBAL, elf.STT_FUNC, 0x20050, 0x10),                // no such name
}

func imageFile(t *testing.T, b []byte) elfFile {
	t.Helper()
	h, err := object.ReadHeaders(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return elfFile{r: bytes.NewReader(b), size: int64(len(b)), headers: h}
}

func TestSymbols(t *testing.T) {
	want := map[elfAddr]string{
		0x1fff0: "",
		0x20000: "first",
		0x2004f: "first",
		0x20050: "", // in a symbol without a name
		0x20070: "", // first ends where that begins
		0x20100: "second",
		0x2013f: "second",
		0x20140: "",
		0x20205: "longer_alias",
		0x20305: "plain",
		0x20315: "",
		0x20325: "",
		0x20335: "",
		0x20345: "",
		0x20405: "weak",
		0x20fff: "plain",
		0x21000: "",
	}
	images := map[string]elfImage{
		"ELF64":                         {class: elf.ELFCLASS64},
		"ELF32":                         {class: elf.ELFCLASS32},
		"ELF64, 70,000 sections":        {class: elf.ELFCLASS64, sections: 70_000},
		"ELF64, no sections, GNU hash":  {class: elf.ELFCLASS64, dynamic: true},
		"ELF32, no sections, GNU hash":  {class: elf.ELFCLASS32, dynamic: true},
		"ELF64, no sections, SysV hash": {class: elf.ELFCLASS64, dynamic: true, sysvHash: true},
		"ELF32, no sections, SysV hash": {class: elf.ELFCLASS32, dynamic: true, sysvHash: true},
	}
	for name, im := range images {
		t.Run(name, func(t *testing.T) {
			im.text, im.size, im.symbols, im.names = 0x20000, 0x1000, imageSymbols, names
			var q []query
			for a := range want {
				q = append(q, query{addr: a})
			}
			slices.SortFunc(q, func(a, b query) int { return int(a.addr) - int(b.addr) })
			if err := (symbols{imageFile(t, im.bytes())}).resolve(q); err != nil {
				t.Fatal(err)
			}
			for _, q := range q {
				if got := nameOf(q); got != want[q.addr] {
					t.Errorf("%#x: %q, want %q", q.addr, got, want[q.addr])
				}
			}
		})
	}
}

func TestSymbolsLeaveOthersAnswers(t *testing.T) {
	im := elfImage{class: elf.ELFCLASS64, text: 0x20000, size: 0x1000, symbols: imageSymbols, names: names}
	q := queries(0x20100, 0x20305)
	q[0].frames = []frame{{name: "from a better source"}}
	if err := (symbols{imageFile(t, im.bytes())}).resolve(q); err != nil {
		t.Fatal(err)
	}
	if nameOf(q[0]) != "from a better source" || nameOf(q[1]) != "plain" {
		t.Errorf("names %q, %q", nameOf(q[0]), nameOf(q[1]))
	}
}

func TestSymbolsRefuse(t *testing.T) {
	im := elfImage{class: elf.ELFCLASS64, text: 0x20000, size: 0x1000, symbols: imageSymbols, names: names}
	good := im.bytes()
	const shentsize = 64
	symtab := len(good) - 2*shentsize // its header
	change := func(off int, v uint64) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[off:], v)
		return b
	}
	big := elfFile{r: bytes.NewReader(nil), size: 1 << 40, headers: &object.Headers{Is64: true, Sections: []object.Section{
		{}, {Type: object.SectionSymtab, Size: 600 << 20, Link: 2}, {}}}}
	tests := []struct {
		name string
		file elfFile
		want string
	}{
		{"table of 4 GB in a small file", imageFile(t, change(symtab+32, 4<<30)), "damaged"},
		{"table behind the end", imageFile(t, change(symtab+24, 1<<63)), "damaged"},
		{"names behind the end", imageFile(t, change(symtab+40, 1)) /* .text, which is larger than the file */, "damaged"},
		{"names in no section", imageFile(t, change(symtab+40, 0xffff)), "damaged"},
		{"table of 600 MB", big, "over the limit"},
		{"no table", imageFile(t, change(symtab, 1<<32)), "no symbol table"},
		{"file cut while it is read", elfFile{r: bytes.NewReader(good[:200]), size: int64(len(good)), headers: imageFile(t, good).headers}, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := queries(0x20100)
			err := symbols{tt.file}.resolve(q)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if len(q[0].frames) > 0 {
				t.Errorf("named %q", nameOf(q[0]))
			}
		})
	}
}

func TestLongNamesAreCut(t *testing.T) {
	for _, n := range []int{255, 256, 4096, maxName - 1, maxName, maxName + 1} {
		im := elfImage{class: elf.ELFCLASS64, text: 0x20000, size: 0x1000, names: "\x00" + strings.Repeat("x", n) + "\x00",
			symbols: []elf.Sym64{{}, elfSymbol(1, elf.STB_GLOBAL, elf.STT_FUNC, 0x20000, 0x10)}}
		q := queries(0x20000)
		if err := (symbols{imageFile(t, im.bytes())}).resolve(q); err != nil {
			t.Fatal(err)
		}
		if got, want := len(nameOf(q[0])), min(n, maxName); got != want {
			t.Errorf("name of %d bytes came as %d", n, got)
		}
	}
}

// TestSearch compares with a plain search over random symbols that overlap in
// every way.
func TestSearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 2000 {
		limit := elfAddr(1 + rnd.IntN(60))
		var addrs []elfAddr
		for range 1 + rnd.IntN(12) {
			addrs = append(addrs, elfAddr(rnd.IntN(int(limit)+10)))
		}
		slices.Sort(addrs)
		addrs = slices.Compact(addrs)
		var all []symbol
		s := newSearch(addrs)
		for i := range rnd.IntN(12) {
			sym := symbol{start: elfAddr(rnd.IntN(int(limit))), end: limit, name: uint32(i), rank: uint8(rnd.IntN(3))}
			if rnd.IntN(4) > 0 {
				sym.rank += rankSized
				sym.end = min(limit, sym.start+1+elfAddr(rnd.IntN(20)))
			}
			all = append(all, sym)
			if err := s.add(sym); err != nil {
				t.Fatal(err)
			}
		}
		got := make(map[elfAddr]symbol)
		s.each(func(i int, c *choice) { got[addrs[i]] = c.symbol })
		for _, a := range addrs {
			want, ok := plainSearch(all, a)
			if g, found := got[a]; found != ok || g != want {
				t.Fatalf("round %d: address %d of %v: %+v, %v; want %+v, %v", round, a, all, g, found, want, ok)
			}
		}
	}
}

func plainSearch(all []symbol, a elfAddr) (best symbol, ok bool) {
	nearest, sizedThere := elfAddr(0), false
	for _, s := range all {
		if s.start > a {
			continue
		}
		if s.start > nearest {
			nearest, sizedThere = s.start, false
		}
		sizedThere = sizedThere || s.start == nearest && s.rank >= rankSized
	}
	for _, s := range all {
		sized := s.rank >= rankSized
		if s.start > a || a >= s.end || !sized && (s.start != nearest || sizedThere) {
			continue
		}
		if !ok || s.start > best.start || s.start == best.start && s.rank > best.rank {
			best, ok = s, true
		}
	}
	return best, ok
}

func TestSearchIsBounded(t *testing.T) {
	var addrs []elfAddr
	for i := range elfAddr(1 << 14) {
		addrs = append(addrs, i*16)
	}
	s := newSearch(addrs)
	var err error
	n := 0
	for ; err == nil && n < 1<<20; n++ {
		err = s.add(symbol{start: 0, end: 1 << 20, rank: rankSized, name: uint32(n)})
	}
	if !errors.Is(err, errOverlap) {
		t.Errorf("error %v after %d symbols over %d addresses each, want %v", err, n, len(addrs), errOverlap)
	}
}

// FuzzSymbols reads any file as ELF.
func FuzzSymbols(f *testing.F) {
	for _, class := range []elf.Class{elf.ELFCLASS64, elf.ELFCLASS32} {
		for _, dynamic := range []bool{false, true} {
			im := elfImage{class: class, dynamic: dynamic, text: 0x20000, size: 0x1000, symbols: imageSymbols, names: names}
			f.Add(im.bytes(), uint64(0x20205))
			im.sysvHash = true
			f.Add(im.bytes(), uint64(0x20005))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, addr uint64) {
		h, err := object.ReadHeaders(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			checkSymbols(t, elfFile{r: bytes.NewReader(b), size: int64(len(b)), headers: h}, elfAddr(addr))
		}
	})
}

// FuzzSymbolTable reads any bytes as the table of a file that is good otherwise.
func FuzzSymbolTable(f *testing.F) {
	im := elfImage{class: elf.ELFCLASS64, text: 0x20000, size: 0x1000, symbols: imageSymbols, names: names}
	b := im.bytes()
	h, err := object.ReadHeaders(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		f.Fatal(err)
	}
	table := b[h.Sections[2].Off:][:h.Sections[2].Size]
	f.Add(table, []byte(names), uint64(0x20205), true)
	f.Add(table, []byte(names), uint64(0x20005), false)
	f.Fuzz(func(t *testing.T, table, names []byte, addr uint64, is64 bool) {
		b := slices.Concat(table, names)
		h := &object.Headers{Is64: is64, Sections: []object.Section{
			{},
			{Flags: object.SectionExec, Addr: 0x20000, Size: 0x1000},
			{Type: object.SectionSymtab, Size: uint64(len(table)), Link: 3},
			{Off: uint64(len(table)), Size: uint64(len(names))},
		}}
		checkSymbols(t, elfFile{r: bytes.NewReader(b), size: int64(len(b)), headers: h}, elfAddr(addr))
	})
}

// checkSymbols asks for the name of an address. The symbol must contain it and
// be the one that a search finds that is slow and plain.
func checkSymbols(t *testing.T, file elfFile, addr elfAddr) {
	t.Helper()
	tables, err := file.tables()
	if err != nil {
		return
	}
	var all []symbol
	s := newSearch([]elfAddr{addr})
	for i, table := range tables {
		file.scan(table, uint8(i), func(sym symbol) error {
			if sym.end <= sym.start {
				t.Fatalf("symbol from %#x to %#x", sym.start, sym.end)
			}
			all = append(all, sym)
			return s.add(sym)
		})
	}
	want, ok := plainSearch(all, addr)
	found := false
	names := newNameReader(file, tables)
	s.each(func(_ int, c *choice) {
		found = true
		if c.symbol != want || addr < c.start || addr >= c.end {
			t.Fatalf("%#x: %+v, want %+v", addr, c.symbol, want)
		}
		if name := names.best(c); len(name) > maxName || strings.Contains(name, "\x00") {
			t.Fatalf("name %q", name)
		}
	})
	if found != ok {
		t.Fatalf("%#x: found %v, want %v", addr, found, ok)
	}
}
