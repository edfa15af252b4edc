package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"hotframe/internal/object"
)

// goFunctions is the resolver of Go's pclntab. In a program that is not Go's
// it knows nothing.
type goFunctions struct{ elfFile }

func (f goFunctions) resolve(q []query) error {
	t, err := f.pclntab()
	if errors.Is(err, errNoPclntab) {
		return nil
	}
	if err != nil {
		return err
	}
	i, left := 0, maxNames
	err = t.each(func(fn goFunc) bool {
		var in funcInfo
		var read, ok bool
		for ; i < len(q) && q[i].addr < fn.end; i++ {
			if q[i].addr < fn.entry || len(q[i].frames) > 0 {
				continue
			}
			if !read {
				in, ok = t.info(fn)
				read = true
				left -= len(in.name)
			}
			if !ok || left < 0 {
				continue
			}
			file, line := t.position(in, q[i].addr)
			q[i].frames = []frame{{name: in.name, file: file, startLine: in.startLine, line: line}}
		}
		return i < len(q)
	})
	if err == nil && left < 0 {
		err = errNames
	}
	return err
}

// pclntab finds the table and the address that its functions are relative to.
func (f elfFile) pclntab() (*pclntab, error) {
	t, err := f.findPclntab()
	if err != nil || t.version < pcln118 {
		return t, err
	}
	if t.text, err = f.goText(t); err != nil {
		return nil, err
	}
	return t, nil
}

// findPclntab finds the table by its section. In PIEs linked by another linker
// it is within .data.rel.ro (before Go 1.26), and without section headers
// anywhere: then by its magic number.
func (f elfFile) findPclntab() (*pclntab, error) {
	h := f.headers
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s := h.Section(name); s != nil {
			return f.pclntabAt(s.Off, s.Size)
		}
	}
	if len(h.Sections) == 0 {
		for _, s := range h.Segments {
			if s.Type != object.SegmentLoad {
				continue
			}
			if t, err := f.searchPclntab(s.Off, s.Filesz); err == nil {
				return t, nil
			}
		}
		return nil, errNoPclntab
	}
	if s := h.Section(".data.rel.ro"); s != nil && h.Section(".go.buildinfo") != nil {
		return f.searchPclntab(s.Off, s.Size)
	}
	return nil, errNoPclntab
}

func (f elfFile) pclntabAt(off, size uint64) (*pclntab, error) {
	if off > uint64(f.size) || size > uint64(f.size)-off {
		return nil, fmt.Errorf("pclntab of %d bytes at %#x in a file of %d bytes: %w", size, off, f.size, object.ErrBadELF)
	}
	return readPclntab(f.r, off, size)
}

const (
	maxMagicSearch = 256 << 20 // bytes
	maxMagicFound  = 1024      // places that look like a header at first sight
	magicAlign     = 8         // of a pclntab at least
)

// searchPclntab looks for the magic number of a table whose header holds.
func (f elfFile) searchPclntab(off, size uint64) (*pclntab, error) {
	if off > uint64(f.size) {
		return nil, errNoPclntab
	}
	size = min(size, uint64(f.size)-off)
	if size <= magicAlign {
		return nil, errNoPclntab
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
				return nil, errNoPclntab
			}
			if t, err := readPclntab(f.r, off+start, size-start); err == nil {
				return t, nil
			}
		}
		if n <= magicAlign {
			break
		}
	}
	return nil, errNoPclntab
}

// goText is the address of runtime.text, which functions are relative to since
// Go 1.18. Up to Go 1.25 the header has it, unless it is left to a relocation;
// since then the moduledata, in its own section. Else the symbol; else, if
// the program is entered in Go's own start code, that says where it is.
func (f elfFile) goText(t *pclntab) (elfAddr, error) {
	candidates := []func(*pclntab) elfAddr{
		func(t *pclntab) elfAddr { return elfAddr(t.stated) },
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

func (f elfFile) isCode(a elfAddr) bool {
	_, ok := f.codeEnd(sectionXIndex, a)
	return ok
}

// textByModule reads the field text of runtime.firstmoduledata, behind a
// pointer, six slices, and three pointers.
func (f elfFile) textByModule(t *pclntab) elfAddr {
	const word = 1 + 6*3 + 3
	s := f.headers.Section(".go.module")
	if s == nil || s.Off > uint64(f.size) {
		return 0
	}
	b := newWindow(f.r, s.Off, min(s.Size, uint64(f.size)-s.Off)).at(uint64(word*t.ptrSize), t.ptrSize)
	if len(b) < t.ptrSize {
		return 0
	}
	return elfAddr(t.word(b))
}

// maxMarkers bounds the symbols without a size whose names are read; Go has
// two, the start and the end of its code.
const maxMarkers = 256

func (f elfFile) textBySymbol(*pclntab) elfAddr {
	tables, err := f.tables()
	if err != nil {
		return 0
	}
	var markers []symbol
	for i, t := range tables {
		f.scan(t, uint8(i), func(s symbol) error {
			if s.rank < rankSized && len(markers) < maxMarkers {
				markers = append(markers, s)
			}
			return nil
		})
	}
	names := newNameReader(f, tables)
	for _, s := range markers {
		if names.read(s) == "runtime.text" {
			return s.start
		}
	}
	return 0
}

const maxEntrySearch = 1 << 20 // functions

// textByEntry finds the function that a program without C code is entered in,
// _rt0_amd64_linux or its like.
func (f elfFile) textByEntry(t *pclntab) elfAddr {
	var text elfAddr
	asked := 0
	t.each(func(fn goFunc) bool {
		if asked++; asked > maxEntrySearch {
			return false
		}
		in, ok := t.info(fn)
		if !ok || !strings.HasPrefix(in.name, "_rt0_") || !strings.HasSuffix(in.name, "_linux") {
			return true
		}
		text = elfAddr(f.headers.Entry) - fn.entry // t.text is 0: entry is relative
		return false
	})
	return text
}
