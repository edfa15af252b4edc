package symbolize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A pclntab is Go's table of functions, files and lines, as cmd/link/internal/ld/pcln.go
// writes it and runtime/symtab.go reads it. It is in every Go program,
// stripped or not.
type pclntab struct {
	version  pclnVersion
	quantum  uint64 // smallest size of an instruction
	ptrSize  int
	count    uint64  // functions
	text     elfAddr // to which functions are relative, from Go 1.18 on
	stated   uint64  // text as the header has it; 0 from Go 1.26 on and in some PIEs
	names    *window
	units    *window // offsets of file names, in groups per compilation unit; since Go 1.16
	files    *window
	values   *window // file and line by pc
	funcs    *window // at 0 the functab, then the funcs that it refers to
	funcBase uint64  // of the functab, in funcs
	left     int     // steps through tables by pc that are still allowed

	fileNames map[uint32]string // by offset in files
	fileBytes int               // of all of them
}

// pclnVersion is the format, by the Go version that introduced it.
type pclnVersion int

const (
	pcln12  pclnVersion = iota // Go 1.2: one blob
	pcln116                    // Go 1.16: tables of their own
	pcln118                    // Go 1.18: addresses relative to text
	pcln120                    // Go 1.20: start lines
)

// pclnMagic tells the version; internal/abi/symtab.go lists them.
var pclnMagic = map[uint32]pclnVersion{
	0xfffffffb: pcln12,
	0xfffffffa: pcln116,
	0xfffffff0: pcln118,
	0xfffffff1: pcln120,
}

var (
	errNoPclntab  = errors.New("no pclntab")
	errBadPclntab = errors.New("damaged pclntab")
)

// maxGoFuncs is far above what the largest Go programs have, some 300,000.
const maxGoFuncs = 1 << 24

// readPclntab reads the header of a table that begins at off and may be size
// bytes long.
func readPclntab(r io.ReaderAt, off, size uint64) (*pclntab, error) {
	part := newWindow(r, off, size)
	head := part.at(0, 8)
	if len(head) < 8 {
		return nil, errNoPclntab
	}
	version, ok := pclnMagic[binary.LittleEndian.Uint32(head)]
	quantum, ptrSize := head[6], head[7]
	if !ok || head[4] != 0 || head[5] != 0 ||
		quantum != 1 && quantum != 2 && quantum != 4 || ptrSize != 4 && ptrSize != 8 {
		return nil, errNoPclntab
	}
	t := &pclntab{version: version, quantum: uint64(quantum), ptrSize: int(ptrSize), left: maxSteps, fileNames: make(map[uint32]string)}

	// The words of the header: numbers of functions and, since Go 1.16, of
	// files; since Go 1.18 the text address; then offsets of the tables.
	word := make([]uint64, 8)
	b := part.at(8, len(word)*t.ptrSize)
	if len(b) < len(word)*t.ptrSize {
		return nil, fmt.Errorf("header cut at %d bytes: %w", len(b), errBadPclntab)
	}
	for i := range word {
		word[i] = t.word(b[i*t.ptrSize:])
	}
	t.count = word[0]
	tables := word[2:] // names, units, files, values, funcs
	switch version {
	case pcln118, pcln120:
		t.stated, tables = word[2], word[3:]
	case pcln12:
		tables = []uint64{0, 0, 0, 0, 8 + uint64(t.ptrSize)}
	}
	for _, at := range tables[:5] {
		if at >= size {
			return nil, fmt.Errorf("table at %#x of %#x: %w", at, size, errBadPclntab)
		}
	}
	at := func(i int) *window { return newWindow(r, off+tables[i], size-tables[i]) }
	t.names, t.units, t.files, t.values, t.funcs = at(0), at(1), at(2), at(3), at(4)
	if t.count == 0 || t.count > maxGoFuncs || (2*t.count+1)*uint64(t.entrySize()) > t.funcs.size {
		return nil, fmt.Errorf("%d functions in %d bytes: %w", t.count, t.funcs.size, errBadPclntab)
	}
	if version == pcln12 {
		t.funcs, t.funcBase = part, tables[4]
		if err := t.findFiles12(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// findFiles12 finds the offsets of file names, which in Go 1.2 follow the functab.
func (t *pclntab) findFiles12() error {
	b := t.funcs.at(t.funcBase+(2*t.count+1)*uint64(t.entrySize()), 4)
	if len(b) < 4 {
		return fmt.Errorf("no file table: %w", errBadPclntab)
	}
	off := uint64(binary.LittleEndian.Uint32(b))
	if off >= t.funcs.size {
		return fmt.Errorf("file table at %#x of %#x: %w", off, t.funcs.size, errBadPclntab)
	}
	t.units = newWindow(t.funcs.r, t.funcs.base+off, t.funcs.size-off)
	return nil
}

// word decodes a pointer-sized number.
func (t *pclntab) word(b []byte) uint64 {
	if t.ptrSize == 4 {
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// entrySize is the size of the fields of the functab: two for each function,
// address and offset, and the address where the last one ends.
func (t *pclntab) entrySize() int {
	if t.version >= pcln118 {
		return 4
	}
	return t.ptrSize
}

// A goFunc is an entry of the functab.
type goFunc struct {
	entry, end elfAddr
	off        uint64 // of its func
}

// each calls visit for the functions in order, as long as it returns true. The
// functab must be sorted.
func (t *pclntab) each(visit func(goFunc) bool) error {
	size := t.entrySize()
	field := func(b []byte) uint64 {
		if size == 4 {
			return uint64(binary.LittleEndian.Uint32(b))
		}
		return binary.LittleEndian.Uint64(b)
	}
	table := t.functab()
	for i := range t.count {
		b := table.at(i*2*uint64(size), 3*size)
		if len(b) < 3*size {
			return fmt.Errorf("function %d of %d is not in the file: %w", i, t.count, errBadPclntab)
		}
		f := goFunc{
			entry: t.text + elfAddr(field(b)),
			off:   field(b[size:]),
			end:   t.text + elfAddr(field(b[2*size:])),
		}
		if f.end < f.entry {
			return fmt.Errorf("function %d of %d ends before it starts: %w", i, t.count, errBadPclntab)
		}
		if !visit(f) {
			return nil
		}
	}
	return nil
}

// lastEnd is where the last function ends, relative to the code.
func (t *pclntab) lastEnd() elfAddr {
	b := t.functab().at(2*t.count*uint64(t.entrySize()), t.entrySize())
	if len(b) < 4 {
		return 0
	}
	return elfAddr(binary.LittleEndian.Uint32(b))
}

// functab is a window of its own, since funcs moves among the funcs meanwhile.
func (t *pclntab) functab() *window {
	return newWindow(t.funcs.r, t.funcs.base+t.funcBase, t.funcs.size-t.funcBase)
}

// A funcInfo is what a func says besides tables by pc: runtime._func.
type funcInfo struct {
	entry     elfAddr
	name      string
	startLine int64
	unit      uint64 // index of the first file of its compilation unit
	file      uint32 // offsets in values; 0 is none
	line      uint32
	inlined   uint32
}

// Fields of a func behind its entry, 4 bytes each.
const (
	funcName      = 0
	funcPCFile    = 4
	funcPCLine    = 5
	funcNPCData   = 6
	funcUnit      = 7 // since Go 1.16
	funcStartLine = 8 // since Go 1.20

	// pcdataInlTree is the index of the table that tells in which inlined
	// call a pc is; abi.PCDATA_InlTreeIndex, since Go 1.13.
	pcdataInlTree = 2
)

// info reads the func of f; ok is false if it is not in the file or not the
// one of that entry.
func (t *pclntab) info(f goFunc) (in funcInfo, ok bool) {
	fields := map[pclnVersion]int{pcln12: 7, pcln116: 8, pcln118: 8, pcln120: 9}[t.version]
	entrySize := t.entrySize()
	pcdata := entrySize + 4*fields + 4 // behind flags and the number of funcdata
	b := t.funcs.at(f.off, pcdata+4*(pcdataInlTree+1))
	if len(b) < pcdata {
		return in, false
	}
	field := func(i int) uint32 { return binary.LittleEndian.Uint32(b[entrySize+4*i:]) }
	in.entry = f.entry
	var entry uint64
	if entrySize == 4 {
		entry = uint64(binary.LittleEndian.Uint32(b))
	} else {
		entry = t.word(b)
	}
	if t.text+elfAddr(entry) != f.entry {
		return in, false
	}
	in.file, in.line = field(funcPCFile), field(funcPCLine)
	if t.version >= pcln116 {
		in.unit = uint64(field(funcUnit))
	}
	if t.version >= pcln120 {
		in.startLine = int64(int32(field(funcStartLine)))
	}
	if field(funcNPCData) > pcdataInlTree && len(b) >= pcdata+4*(pcdataInlTree+1) {
		in.inlined = binary.LittleEndian.Uint32(b[pcdata+4*pcdataInlTree:])
	}
	name, ok := t.names.text(uint64(field(funcName)))
	in.name = string(name)
	return in, ok && in.name != ""
}

// position is the file and line of an address in a function. In an inlined
// call the line is not the function's own: then it is 0, as what is not known,
// and the file is the one where the function begins.
func (t *pclntab) position(in funcInfo, a elfAddr) (file string, line int64) {
	own := a
	switch {
	case t.version < pcln116: // which table tells inlined calls changed from version to version
		own = in.entry
	case in.inlined != 0:
		if n, ok := t.value(in.inlined, in.entry, a); !ok || n >= 0 {
			own = t.firstOutside(in)
		}
	}
	n, ok := t.value(in.file, in.entry, own)
	if !ok { // the tables end before the padding behind the function
		own = in.entry
		n, ok = t.value(in.file, in.entry, own)
	}
	if ok {
		file = t.fileName(in.unit, n)
	}
	if own != a || t.version < pcln116 {
		return file, 0
	}
	if n, ok := t.value(in.line, in.entry, a); ok && n > 0 {
		line = int64(n)
	}
	return file, line
}

// firstOutside is the first address of a function that is in no inlined call,
// its entry if there is none.
func (t *pclntab) firstOutside(in funcInfo) elfAddr {
	own := in.entry
	t.steps(in.inlined, in.entry, func(from, _ elfAddr, v int32) bool {
		if v < 0 {
			own = from
		}
		return v >= 0
	})
	return own
}

// value looks an address up in a table by pc.
func (t *pclntab) value(table uint32, entry, a elfAddr) (v int32, ok bool) {
	if table == 0 {
		return 0, false
	}
	t.steps(table, entry, func(_, to elfAddr, value int32) bool {
		v, ok = value, a < to
		return !ok
	})
	return v, ok
}

// maxSteps bounds the steps for all addresses of a file. An address takes some
// tens, and tens of thousands in functions that initialize large tables.
const maxSteps = 1 << 26

// steps calls visit for the runs of addresses with one value, as long as it
// returns true. Each is a difference in value, zigzag, and one in address, in
// units of the quantum, as varints; the first value counts from -1, and a
// difference of 0 ends the table.
func (t *pclntab) steps(table uint32, entry elfAddr, visit func(from, to elfAddr, v int32) bool) {
	off, pc, v := uint64(table), entry, int32(-1)
	for first := true; t.left > 0; first = false {
		t.left--
		b := t.values.at(off, 2*binary.MaxVarintLen32)
		dv, n := binary.Uvarint(b)
		if n <= 0 || dv == 0 && !first {
			return
		}
		dpc, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return
		}
		off += uint64(n + m)
		v += int32(uint32(dv)>>1) ^ -int32(dv&1)
		next := pc + elfAddr(dpc*t.quantum)
		if next < pc || !visit(pc, next, v) {
			return
		}
		pc = next
	}
}

// fileName is the n-th file of a compilation unit; in Go 1.2 of the program,
// counted from 1, in a table that begins with its length.
func (t *pclntab) fileName(unit uint64, n int32) string {
	if n < 0 {
		return ""
	}
	b := t.units.at((unit+uint64(n))*4, 4)
	if len(b) < 4 {
		return ""
	}
	off := binary.LittleEndian.Uint32(b)
	if off == ^uint32(0) { // the linker left the file out
		return ""
	}
	name, known := t.fileNames[off]
	if !known && t.fileBytes < maxNames {
		b, _ := t.files.text(uint64(off))
		name = string(b)
		t.fileBytes += len(name)
		t.fileNames[off] = name
	}
	return name
}
