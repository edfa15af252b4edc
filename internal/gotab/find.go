package gotab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"hotframe/internal/object"
)

// A file is an open ELF file with its headers.
type file struct {
	r    io.ReaderAt
	size int64
	h    *object.Headers
}

// Find reads the table of an ELF file of size bytes, with the address that its
// functions are relative to. The error is ErrNone if the file is not a Go program.
func Find(r io.ReaderAt, size int64, h *object.Headers) (*Table, error) {
	f := file{r, size, h}
	t, err := f.find()
	if err != nil || t.version < pcln118 {
		return t, err
	}
	if t.text, err = f.text(t); err != nil {
		return nil, err
	}
	return t, nil
}

// find finds the table by its section. In PIEs linked by another linker
// it is within .data.rel.ro (before Go 1.26), and without section headers
// anywhere: then by its magic number.
func (f file) find() (*Table, error) {
	h := f.h
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s := h.Section(name); s != nil {
			return f.at(s.Off, s.Size)
		}
	}
	if len(h.Sections) == 0 {
		for _, s := range h.Segments {
			if s.Type != object.SegmentLoad {
				continue
			}
			if t, err := f.search(s.Off, s.Filesz); err == nil {
				return t, nil
			}
		}
		return nil, ErrNone
	}
	if s := h.Section(".data.rel.ro"); s != nil && h.Section(".go.buildinfo") != nil {
		return f.search(s.Off, s.Size)
	}
	return nil, ErrNone
}

func (f file) at(off, size uint64) (*Table, error) {
	if off > uint64(f.size) || size > uint64(f.size)-off {
		return nil, fmt.Errorf("pclntab of %d bytes at %#x in a file of %d bytes: %w", size, off, f.size, object.ErrBadELF)
	}
	return read(f.r, off, size)
}

const (
	maxMagicSearch = 256 << 20 // bytes
	maxMagicFound  = 1024      // places that look like a header at first sight
	magicAlign     = 8         // of a pclntab at least
)

// search looks for the magic number of a table whose header holds.
func (f file) search(off, size uint64) (*Table, error) {
	if off > uint64(f.size) {
		return nil, ErrNone
	}
	size = min(size, uint64(f.size)-off)
	if size <= magicAlign {
		return nil, ErrNone
	}
	found := 0
	tail := []byte{0xff, 0xff, 0xff, 0, 0} // of the magic number, and what follows it
	buf := make([]byte, min(1<<20, size))
	for at := uint64(0); at < min(size, maxMagicSearch); at += uint64(len(buf)) - magicAlign {
		n, err := f.r.ReadAt(buf[:min(uint64(len(buf)), size-at)], int64(off+at))
		if n == 0 && err != nil {
			return nil, fmt.Errorf("search for a pclntab at %#x: %w", off+at, err)
		}
		for i := 0; ; i++ {
			next := bytes.Index(buf[i:n], tail)
			if next < 0 {
				break
			}
			i += next
			start := at + uint64(i) - 1
			if i == 0 || (off+start)%magicAlign != 0 {
				continue
			}
			if found++; found > maxMagicFound {
				return nil, ErrNone
			}
			if t, err := read(f.r, off+start, size-start); err == nil {
				return t, nil
			}
		}
		if n <= magicAlign {
			break
		}
	}
	return nil, ErrNone
}

// text is the address of runtime.text, which functions are relative to since
// Go 1.18. Up to Go 1.25 the header has it, unless it is left to a relocation;
// since then the moduledata, in its own section. Else the symbol; else, if
// the program is entered in Go's own start code, that says where it is.
func (f file) text(t *Table) (uint64, error) {
	candidates := []func(*Table) uint64{
		func(t *Table) uint64 { return uint64(t.stated) },
		f.textByModule,
		f.textBySymbol,
		f.textByEntry,
	}
	for _, text := range candidates {
		if a := text(t); a != 0 && f.isCode(a) && f.isCode(a+t.lastEnd()-1) {
			return a, nil
		}
	}
	return 0, errors.New("the address of Go's code is not known")
}

func (f file) isCode(a uint64) bool {
	for _, s := range f.h.Segments {
		if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 && a >= s.Vaddr && a-s.Vaddr < s.Memsz {
			return true
		}
	}
	return false
}

// textByModule reads the field text of runtime.firstmoduledata, behind a
// pointer, six slices, and three pointers.
func (f file) textByModule(t *Table) uint64 {
	const word = 1 + 6*3 + 3
	s := f.h.Section(".go.module")
	if s == nil {
		return 0
	}
	b := f.section(s).At(uint64(word*t.ptrSize), t.ptrSize)
	if len(b) < t.ptrSize {
		return 0
	}
	return uint64(t.word(b))
}

const (
	symbolSize = 24 // Elf64_Sym
	symbolFunc = 2  // STT_FUNC

	maxSymbols = 1 << 24
	maxMarkers = 256 // symbols without a size whose names are read; Go has two, the start and the end of its code
)

// textBySymbol finds runtime.text in the symbol table of a 64-bit file.
func (f file) textBySymbol(*Table) uint64 {
	s := f.h.Section(".symtab")
	if s == nil || !f.h.Is64 || uint64(s.Link) >= uint64(len(f.h.Sections)) {
		return 0
	}
	le := binary.LittleEndian
	symbols, names := f.section(s), f.section(&f.h.Sections[s.Link])
	markers := 0
	for i := range min(s.Size/symbolSize, maxSymbols) {
		e := symbols.At(i*symbolSize, symbolSize)
		if len(e) < symbolSize || markers == maxMarkers {
			return 0
		}
		value, size := le.Uint64(e[8:]), le.Uint64(e[16:])
		if e[4]&0xf != symbolFunc || size != 0 || value == 0 {
			continue
		}
		markers++
		if name, _ := names.Text(uint64(le.Uint32(e))); string(name) == "runtime.text" {
			return value
		}
	}
	return 0
}

// section is a window over as much of a section as is in the file.
func (f file) section(s *object.Section) *object.Window {
	off := min(s.Off, uint64(f.size))
	return object.NewWindow(f.r, off, min(s.Size, uint64(f.size)-off))
}

const maxEntrySearch = 1 << 20 // functions

// textByEntry finds the function that a program without C code is entered in,
// _rt0_amd64_linux or its like.
func (f file) textByEntry(t *Table) uint64 {
	var text uint64
	asked := 0
	t.Each(func(fn Func) bool {
		if asked++; asked > maxEntrySearch {
			return false
		}
		in, ok := t.Info(fn)
		if !ok {
			return true
		}
		if name := string(t.Name(in)); !strings.HasPrefix(name, "_rt0_") || !strings.HasSuffix(name, "_linux") {
			return true
		}
		text = uint64(f.h.Entry) - fn.Entry // t.text is 0: entry is relative
		return false
	})
	return text
}
