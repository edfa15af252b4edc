// Package gotab reads Go's pclntab, the table of functions, files, lines and
// stack sizes that is in every Go program, stripped or not.
//
// Upstream: ELF files. Downstream: symbolize takes names and lines, unwind
// takes stack sizes.
package gotab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"hotframe/internal/object"
)

// A Table is a pclntab as cmd/link/internal/ld/pcln.go writes it and
// runtime/symtab.go reads it. It is not safe for concurrent use.
type Table struct {
	version pclnVersion
	quantum uint64 // smallest size of an instruction
	ptrSize int
	Count   uint64 // of functions
	text    uint64 // to which functions are relative, from Go 1.18 on
	stated  uint64 // text as the header has it; 0 from Go 1.26 on and in some PIEs
	names   *object.Window
	units   *object.Window // offsets of file names, in groups per compilation unit; since Go 1.16
	files   *object.Window
	values  *object.Window // file and line by pc
	functab *object.Window // addresses of functions, and offsets in funcs
	funcs   *object.Window
	left    int // steps through tables by pc that are still allowed

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

// ErrNone says that a file is not a Go program, ErrBad that its table
// contradicts itself or the file's size.
var (
	ErrNone = errors.New("no pclntab")
	ErrBad  = errors.New("damaged pclntab")
)

// maxFuncs is far above what the largest Go programs have, some 300,000.
const maxFuncs = 1 << 24

// read reads the header of a table that begins at off and may be size
// bytes long.
func read(r io.ReaderAt, off, size uint64) (*Table, error) {
	part := object.NewWindow(r, off, size)
	head := part.At(0, 8)
	if len(head) < 8 {
		return nil, ErrNone
	}
	version, ok := pclnMagic[binary.LittleEndian.Uint32(head)]
	quantum, ptrSize := head[6], head[7]
	if !ok || head[4] != 0 || head[5] != 0 ||
		quantum != 1 && quantum != 2 && quantum != 4 || ptrSize != 4 && ptrSize != 8 {
		return nil, ErrNone
	}
	t := &Table{version: version, quantum: uint64(quantum), ptrSize: int(ptrSize), left: maxSteps, fileNames: make(map[uint32]string)}

	// The words of the header: numbers of functions and, since Go 1.16, of
	// files; since Go 1.18 the text address; then offsets of the tables.
	word := make([]uint64, 8)
	b := part.At(8, len(word)*t.ptrSize)
	if len(b) < len(word)*t.ptrSize {
		return nil, fmt.Errorf("header cut at %d bytes: %w", len(b), ErrBad)
	}
	for i := range word {
		word[i] = t.word(b[i*t.ptrSize:])
	}
	t.Count = word[0]
	tables := word[2:] // names, units, files, values, funcs
	switch version {
	case pcln118, pcln120:
		t.stated, tables = word[2], word[3:]
	case pcln12:
		tables = []uint64{0, 0, 0, 0, 8 + uint64(t.ptrSize)}
	}
	for _, at := range tables[:5] {
		if at >= size {
			return nil, fmt.Errorf("table at %#x of %#x: %w", at, size, ErrBad)
		}
	}
	at := func(i int) *object.Window { return part.Rest(tables[i]) }
	t.names, t.units, t.files, t.values, t.funcs, t.functab = at(0), at(1), at(2), at(3), at(4), at(4)
	if left := size - tables[4]; t.Count == 0 || t.Count > maxFuncs || (2*t.Count+1)*uint64(t.entrySize()) > left {
		return nil, fmt.Errorf("%d functions in %d bytes: %w", t.Count, left, ErrBad)
	}
	if version == pcln12 {
		t.funcs = part
		if err := t.findFiles12(part, size); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// findFiles12 finds the offsets of file names, which in Go 1.2 follow the functab.
func (t *Table) findFiles12(part *object.Window, size uint64) error {
	b := t.functab.At((2*t.Count+1)*uint64(t.entrySize()), 4)
	if len(b) < 4 {
		return fmt.Errorf("no file table: %w", ErrBad)
	}
	off := uint64(binary.LittleEndian.Uint32(b))
	if off >= size {
		return fmt.Errorf("file table at %#x of %#x: %w", off, size, ErrBad)
	}
	t.units = part.Rest(off)
	return nil
}

// word decodes a pointer-sized number.
func (t *Table) word(b []byte) uint64 {
	if t.ptrSize == 4 {
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// entrySize is the size of the fields of the functab: two for each function,
// address and offset, and the address where the last one ends.
func (t *Table) entrySize() int {
	if t.version >= pcln118 {
		return 4
	}
	return t.ptrSize
}

// A Func is an entry of the functab.
type Func struct {
	Entry, End uint64
	off        uint64 // of its func
}

// Each calls visit for the functions in order, as long as it returns true. The
// functab must be sorted.
func (t *Table) Each(visit func(Func) bool) error {
	size := t.entrySize()
	field := func(b []byte) uint64 {
		if size == 4 {
			return uint64(binary.LittleEndian.Uint32(b))
		}
		return binary.LittleEndian.Uint64(b)
	}
	for i := range t.Count {
		b := t.functab.At(i*2*uint64(size), 3*size)
		if len(b) < 3*size {
			return fmt.Errorf("function %d of %d is not in the file: %w", i, t.Count, ErrBad)
		}
		f := Func{
			Entry: t.text + uint64(field(b)),
			off:   field(b[size:]),
			End:   t.text + uint64(field(b[2*size:])),
		}
		if f.End < f.Entry {
			return fmt.Errorf("function %d of %d ends before it starts: %w", i, t.Count, ErrBad)
		}
		if !visit(f) {
			return nil
		}
	}
	return nil
}

// lastEnd is where the last function ends, relative to the code.
func (t *Table) lastEnd() uint64 {
	b := t.functab.At(2*t.Count*uint64(t.entrySize()), t.entrySize())
	if len(b) < 4 {
		return 0
	}
	return uint64(binary.LittleEndian.Uint32(b))
}

// An Info is what a func says: runtime._func.
type Info struct {
	Entry     uint64
	StartLine int64
	ID        uint8 // 0 for functions that the runtime knows nothing special of
	Flags     Flags
	Stack     bool // there is a table of stack sizes; C functions have none

	name    uint32 // offset in names
	unit    uint64 // index of the first file of its compilation unit
	stack   uint32 // offsets in values; 0 is none
	file    uint32
	line    uint32
	inlined uint32
}

// Flags are those of internal/abi/symtab.go, since Go 1.17. Before Go 1.18 none is read.
type Flags uint8

const (
	TopFrame Flags = 1 << iota // nothing calls it
	SPWrite                    // its stack sizes do not hold where it moves the stack pointer elsewhere
	Assembly
)

// HasFlags reports whether Flags are known.
func (t *Table) HasFlags() bool { return t.version >= pcln118 }

// Fields of a func behind its entry, 4 bytes each.
const (
	funcName      = 0
	funcPCSP      = 3
	funcPCFile    = 4
	funcPCLine    = 5
	funcNPCData   = 6
	funcUnit      = 7 // since Go 1.16
	funcStartLine = 8 // since Go 1.20

	// pcdataInlTree is the index of the table that tells in which inlined
	// call a pc is; abi.PCDATA_InlTreeIndex, since Go 1.13.
	pcdataInlTree = 2
)

// fields is how many a func has.
func (v pclnVersion) fields() int {
	switch v {
	case pcln12:
		return 7
	case pcln120:
		return 9
	}
	return 8
}

// Info reads the func of f; ok is false if it is not in the file or not the
// one of that entry.
func (t *Table) Info(f Func) (in Info, ok bool) {
	entrySize := t.entrySize()
	special := entrySize + 4*t.version.fields() // funcID, flags, padding, the number of funcdata
	pcdata := special + 4
	b := t.funcs.At(f.off, pcdata+4*(pcdataInlTree+1))
	if len(b) < pcdata {
		return in, false
	}
	field := func(i int) uint32 { return binary.LittleEndian.Uint32(b[entrySize+4*i:]) }
	in.Entry = f.Entry
	var entry uint64
	if entrySize == 4 {
		entry = uint64(binary.LittleEndian.Uint32(b))
	} else {
		entry = t.word(b)
	}
	if t.text+entry != f.Entry {
		return in, false
	}
	in.name, in.stack, in.file, in.line = field(funcName), field(funcPCSP), field(funcPCFile), field(funcPCLine)
	in.Stack, in.ID = in.stack != 0, b[special]
	if t.HasFlags() {
		in.Flags = Flags(b[special+1])
	}
	if t.version >= pcln116 {
		in.unit = uint64(field(funcUnit))
	}
	if t.version >= pcln120 {
		in.StartLine = int64(int32(field(funcStartLine)))
	}
	if field(funcNPCData) > pcdataInlTree && len(b) >= pcdata+4*(pcdataInlTree+1) {
		in.inlined = binary.LittleEndian.Uint32(b[pcdata+4*pcdataInlTree:])
	}
	return in, true
}

// Name is the name of a function, or "". It is valid until the next call.
func (t *Table) Name(in Info) []byte {
	name, _ := t.names.Text(uint64(in.name))
	return name
}

// StackSizes calls visit for the runs of addresses of a function with one size
// of the stack that it has taken, return address not included, as long as it
// returns true. They are in order, but may end before or behind the function.
func (t *Table) StackSizes(in Info, visit func(from, to uint64, size int32) bool) {
	if in.stack != 0 {
		t.steps(in.stack, in.Entry, visit)
	}
}

// Position is the file and line of an address in a function. In an inlined
// call the line is not the function's own: then it is 0, as what is not known,
// and the file is the one where the function begins.
func (t *Table) Position(in Info, a uint64) (file string, line int64) {
	own := a
	switch {
	case t.version < pcln116: // which table tells inlined calls changed from version to version
		own = in.Entry
	case in.inlined != 0:
		if n, ok := t.value(in.inlined, in.Entry, a); !ok || n >= 0 {
			own = t.firstOutside(in)
		}
	}
	n, ok := t.value(in.file, in.Entry, own)
	if !ok { // the tables end before the padding behind the function
		own = in.Entry
		n, ok = t.value(in.file, in.Entry, own)
	}
	if ok {
		file = t.fileName(in.unit, n)
	}
	if own != a || t.version < pcln116 {
		return file, 0
	}
	if n, ok := t.value(in.line, in.Entry, a); ok && n > 0 {
		line = int64(n)
	}
	return file, line
}

// firstOutside is the first address of a function that is in no inlined call,
// its entry if there is none.
func (t *Table) firstOutside(in Info) uint64 {
	own := in.Entry
	t.steps(in.inlined, in.Entry, func(from, _ uint64, v int32) bool {
		if v < 0 {
			own = from
		}
		return v >= 0
	})
	return own
}

// value looks an address up in a table by pc.
func (t *Table) value(table uint32, entry, a uint64) (v int32, ok bool) {
	if table == 0 {
		return 0, false
	}
	t.steps(table, entry, func(_, to uint64, value int32) bool {
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
func (t *Table) steps(table uint32, entry uint64, visit func(from, to uint64, v int32) bool) {
	off, pc, v := uint64(table), entry, int32(-1)
	for first := true; t.left > 0; first = false {
		t.left--
		b := t.values.At(off, 2*binary.MaxVarintLen32)
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
		next := pc + uint64(dpc*t.quantum)
		if next < pc || !visit(pc, next, v) {
			return
		}
		pc = next
	}
}

const maxFileNames = 16 << 20 // bytes

// fileName is the n-th file of a compilation unit; in Go 1.2 of the program,
// counted from 1, in a table that begins with its length.
func (t *Table) fileName(unit uint64, n int32) string {
	if n < 0 {
		return ""
	}
	b := t.units.At((unit+uint64(n))*4, 4)
	if len(b) < 4 {
		return ""
	}
	off := binary.LittleEndian.Uint32(b)
	if off == ^uint32(0) { // the linker left the file out
		return ""
	}
	name, known := t.fileNames[off]
	if !known && t.fileBytes < maxFileNames {
		b, _ := t.files.Text(uint64(off))
		name = string(b)
		t.fileBytes += len(name)
		t.fileNames[off] = name
	}
	return name
}
