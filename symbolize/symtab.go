package symbolize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"hotframe/internal/object"
)

// An elfFile is an open ELF file with its headers.
type elfFile struct {
	r       io.ReaderAt
	size    int64
	headers *object.Headers
}

// symbols is the resolver of .symtab and .dynsym. The tables are read once
// from end to end for all addresses asked for and not kept; names are read for
// the symbols that were chosen.
type symbols struct{ elfFile }

// A symbolTable says where a table of symbols and their names is in a file.
type symbolTable struct {
	off, size       uint64
	namesOff, names uint64
}

const (
	maxSymbols    = 512 << 20 // bytes of one table; Chromium with all symbols has 50 MB
	maxName       = 64 << 10  // of a symbol, cut there; C++ has some of several KB
	maxTables     = 16        // a file has two
	symbolChunk   = 24 << 12  // bytes read at once, whole entries of either class
	symbolSize32  = 16
	symbolSize64  = 24
	symbolFunc    = 2  // STT_FUNC
	symbolIFunc   = 10 // STT_GNU_IFUNC
	symbolNoType  = 0  // STT_NOTYPE
	bindLocal     = 0  // STB_LOCAL
	bindWeak      = 2  // STB_WEAK
	sectionUndef  = 0
	sectionLow    = 0xff00 // SHN_LORESERVE: from here on no index of a section
	sectionXIndex = 0xffff // SHN_XINDEX: the index is elsewhere
)

var errNoSymbols = errors.New("the file has no symbol table")

func (f symbols) resolve(q []query) error {
	var addrs []elfAddr
	var open []*query
	for i := range q {
		if len(q[i].frames) == 0 {
			addrs = append(addrs, q[i].addr)
			open = append(open, &q[i])
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	tables, err := f.tables()
	if err != nil {
		return err
	}
	s := newSearch(addrs)
	var problems error
	for i, t := range tables {
		if err := f.scan(t, uint8(i), s.add); err != nil && problems == nil {
			problems = err
		}
	}
	names := newNameReader(f.elfFile, tables)
	s.each(func(i int, c *choice) {
		if name := names.best(c); name != "" {
			open[i].frames = []frame{{name: name, mangled: true}}
		}
	})
	if problems == nil && names.left < 0 {
		problems = errNames
	}
	return problems
}

// tables finds .symtab and .dynsym by the section headers, .dynsym by the
// dynamic segment where there are none.
func (f elfFile) tables() ([]symbolTable, error) {
	var tables []symbolTable
	sections := f.headers.Sections
	for _, kind := range []uint32{object.SectionSymtab, object.SectionDynsym} {
		for _, s := range sections {
			if s.Type != kind || len(tables) == maxTables {
				continue
			}
			if uint64(s.Link) >= uint64(len(sections)) {
				return nil, fmt.Errorf("names of %s in section %d of %d: %w", s.Name, s.Link, len(sections), object.ErrBadELF)
			}
			names := sections[s.Link]
			tables = append(tables, symbolTable{s.Off, s.Size, names.Off, names.Size})
		}
	}
	if len(sections) == 0 {
		t, err := f.dynamicTable()
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	for _, t := range tables {
		if err := f.check(t); err != nil {
			return nil, err
		}
	}
	if len(tables) == 0 {
		return nil, errNoSymbols
	}
	return tables, nil
}

func (f elfFile) check(t symbolTable) error {
	size := uint64(f.size)
	if t.off > size || t.size > size-t.off || t.namesOff > size || t.names > size-t.namesOff {
		return fmt.Errorf("symbol table of %d bytes at %#x with names of %d bytes at %#x in a file of %d bytes: %w",
			t.size, t.off, t.names, t.namesOff, f.size, object.ErrBadELF)
	}
	if t.size > maxSymbols {
		return fmt.Errorf("symbol table of %d MB, over the limit of %d", t.size>>20, maxSymbols>>20)
	}
	return nil
}

// scan calls add with each function symbol of a table.
func (f elfFile) scan(t symbolTable, table uint8, add func(symbol) error) error {
	entry := uint64(symbolSize64)
	if !f.headers.Is64 {
		entry = symbolSize32
	}
	buf := make([]byte, min(symbolChunk, t.size/entry*entry))
	for done := uint64(0); t.size-done >= entry; {
		b := buf[:min(uint64(len(buf)), (t.size-done)/entry*entry)]
		if _, err := f.r.ReadAt(b, int64(t.off+done)); err != nil {
			return fmt.Errorf("symbols at %#x: %w", t.off+done, err)
		}
		for e := b; len(e) > 0; e = e[entry:] {
			sym, ok := f.function(e)
			if !ok {
				continue
			}
			sym.table = table
			if err := add(sym); err != nil {
				return err
			}
		}
		done += uint64(len(b))
	}
	return nil
}

// function decodes a table entry; ok is false unless it is a function with a
// name, or something with a size and a name in an executable section, which is
// what assembly code has that tells no types.
func (f elfFile) function(e []byte) (sym symbol, ok bool) {
	le := binary.LittleEndian
	var info byte
	var section uint16
	var size uint64
	if f.headers.Is64 {
		info, section = e[4], le.Uint16(e[6:])
		sym.start, size = elfAddr(le.Uint64(e[8:])), le.Uint64(e[16:])
	} else {
		info, section = e[12], le.Uint16(e[14:])
		sym.start, size = elfAddr(le.Uint32(e[4:])), uint64(le.Uint32(e[8:]))
	}
	sym.name = le.Uint32(e)
	switch info & 0xf {
	case symbolFunc, symbolIFunc:
	case symbolNoType:
		if size == 0 {
			return sym, false
		}
	default:
		return sym, false
	}
	limit, ok := f.codeEnd(section, sym.start)
	if !ok || sym.name == 0 {
		return sym, false
	}
	switch info >> 4 {
	case bindLocal:
		sym.rank = rankLocal
	case bindWeak:
		sym.rank = rankWeak
	default:
		sym.rank = rankGlobal
	}
	sym.end = limit
	if size > 0 {
		sym.rank += rankSized
		sym.end = sym.start + elfAddr(min(size, uint64(limit-sym.start)))
	}
	return sym, true
}

// codeEnd is the end of the executable section in which a symbol says it is,
// or of the executable segment where it does not say; ok is false if the
// symbol is not in one.
func (f elfFile) codeEnd(section uint16, a elfAddr) (end elfAddr, ok bool) {
	h := f.headers
	switch {
	case section == sectionUndef:
		return 0, false
	case int(section) < len(h.Sections) && section < sectionLow:
		s := &h.Sections[section]
		if s.Flags&object.SectionExec == 0 || uint64(a) < s.Addr || uint64(a)-s.Addr >= s.Size {
			return 0, false
		}
		return elfAddr(s.Addr + min(s.Size, ^s.Addr)), true
	case section >= sectionLow && section != sectionXIndex:
		return 0, false // absolute and common symbols
	}
	for _, s := range h.Segments {
		if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 && uint64(a) >= s.Vaddr && uint64(a)-s.Vaddr < s.Memsz {
			return elfAddr(s.Vaddr + min(s.Memsz, ^s.Vaddr)), true
		}
	}
	return 0, false
}

// nameReader reads names of symbols.
type nameReader struct {
	file   elfFile
	tables []symbolTable
	known  map[symbol]string // several addresses lie in one function
	left   int               // bytes of names still allowed; negative once exceeded
	buf    []byte
}

func newNameReader(f elfFile, tables []symbolTable) *nameReader {
	return &nameReader{file: f, tables: tables, known: make(map[symbol]string), left: maxNames}
}

// best is the name of a choice: of its aliases, the one with the fewest
// leading underscores, then the longest, then the first in the file.
func (n *nameReader) best(c *choice) string {
	name, known := n.known[c.symbol]
	if known {
		return name
	}
	name = n.read(c.symbol)
	for _, a := range c.aliases {
		if other := n.read(a); betterName(other, name) {
			name = other
		}
	}
	if n.left -= len(name); n.left < 0 {
		name = ""
	}
	n.known[c.symbol] = name
	return name
}

// betterName reports whether a is to be preferred to b.
func betterName(a, b string) bool {
	if a == "" || b == "" {
		return b == "" && a != ""
	}
	if ua, ub := underscores(a), underscores(b); ua != ub {
		return ua < ub
	}
	return len(a) > len(b)
}

func underscores(s string) int {
	n := 0
	for n < len(s) && s[n] == '_' {
		n++
	}
	return n
}

// read returns the name of a symbol, cut at maxName; "" where it has none.
func (n *nameReader) read(s symbol) string {
	t := n.tables[s.table]
	if uint64(s.name) >= t.names {
		return ""
	}
	left := min(t.names-uint64(s.name), maxName)
	for size := min(left, 256); ; size = min(left, size*16) {
		n.buf = slices.Grow(n.buf[:0], int(size))[:size]
		got, err := n.file.r.ReadAt(n.buf, int64(t.namesOff+uint64(s.name)))
		if end := bytes.IndexByte(n.buf[:got], 0); end >= 0 {
			return string(n.buf[:end])
		}
		if err != nil {
			return ""
		}
		if size == left {
			return string(n.buf)
		}
	}
}
