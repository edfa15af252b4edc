package object

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Values of the ELF headers that readers of Headers compare with (ELF gABI 4.1, chapters 4 and 5).
const (
	TypeExec = 2 // ET_EXEC
	TypeDyn  = 3 // ET_DYN

	SegmentLoad    = 1 // PT_LOAD
	SegmentDynamic = 2 // PT_DYNAMIC
	SegmentNote    = 4 // PT_NOTE
	SegmentExec    = 1 // PF_X in Segment.Flags

	SectionSymtab = 2  // SHT_SYMTAB
	SectionNote   = 7  // SHT_NOTE
	SectionNobits = 8  // SHT_NOBITS: takes no space in the file
	SectionDynsym = 11 // SHT_DYNSYM
	SectionAlloc  = 2  // SHF_ALLOC in Section.Flags
	SectionExec   = 4  // SHF_EXECINSTR in Section.Flags
)

// Headers are the program and section headers of an ELF file. Offsets and
// sizes in them are the file's own claims: whatever is read by them must be
// checked against the file's size.
type Headers struct {
	Is64     bool
	Type     uint16
	Machine  uint16
	Entry    uint64
	Segments []Segment
	Sections []Section // nil where the file has none
}

// A Segment is a program header.
type Segment struct {
	Type, Flags  uint32
	Off, Filesz  uint64
	Vaddr, Memsz uint64
}

// A Section is a section header. Names longer than maxSectionName are cut.
type Section struct {
	Name            string
	Type            uint32
	Link            uint32
	Flags           uint64
	Addr, Off, Size uint64
	EntSize         uint64
}

// ErrNotELF and ErrBadELF say that a file is no little-endian ELF file, or
// one whose headers contradict each other or the file's size.
var (
	ErrNotELF = errors.New("not a little-endian ELF file")
	ErrBadELF = errors.New("damaged ELF headers")
)

const (
	// maxSections is far above what linkers produce for programs and
	// libraries (some 50); object files compiled with -ffunction-sections
	// have the most, one or two for each function.
	maxSections    = 1 << 18
	maxSectionName = 256
	maxNameTable   = 16 << 20 // of section names

	sectionNone = 0xffff // SHN_XINDEX: the index is in section header 0
	segmentNum  = 0xffff // PN_XNUM: the count is in section header 0
)

// layout has the sizes and offsets in which the two ELF classes differ.
type layout struct {
	header, segment, section int
}

// ReadHeaders reads and checks the headers of an ELF file of size bytes.
func ReadHeaders(r io.ReaderAt, size int64) (*Headers, error) {
	var ident [64]byte
	n, err := r.ReadAt(ident[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// e_ident: magic, class, data (1: little endian), version.
	if n < 16 || !bytes.HasPrefix(ident[:], []byte("\x7fELF")) || ident[5] != 1 {
		return nil, ErrNotELF
	}
	h := &Headers{}
	var l layout
	switch ident[4] {
	case 1:
		l = layout{header: 52, segment: 32, section: 40}
	case 2:
		l, h.Is64 = layout{header: 64, segment: 56, section: 64}, true
	default:
		return nil, ErrNotELF
	}
	if n < l.header {
		return nil, fmt.Errorf("file of %d bytes: %w", n, ErrBadELF)
	}
	err = h.read(table{r: r, size: size, layout: l}, ident[:l.header])
	if err != nil {
		return nil, err
	}
	return h, nil
}

// table reads header tables of a file.
type table struct {
	layout
	r    io.ReaderAt
	size int64
}

// entries reads n headers of entry bytes at off.
func (t table) entries(off uint64, n, entry int) ([]byte, error) {
	length := uint64(n) * uint64(entry)
	if off > uint64(t.size) || length > uint64(t.size)-off {
		return nil, fmt.Errorf("%d headers at %#x in a file of %d bytes: %w", n, off, t.size, ErrBadELF)
	}
	b := make([]byte, length)
	if _, err := t.r.ReadAt(b, int64(off)); err != nil {
		return nil, fmt.Errorf("headers at %#x: %w", off, err)
	}
	return b, nil
}

func (h *Headers) read(t table, b []byte) error {
	f := fields{b: b, is64: h.Is64, off: 16}
	h.Type, h.Machine = f.u16(), f.u16()
	f.u32() // e_version
	h.Entry = f.word()
	phoff, shoff := f.word(), f.word()
	f.u32() // e_flags
	f.u16() // e_ehsize
	phentsize, phnum := int(f.u16()), int(f.u16())
	shentsize, shnum, shstrndx := int(f.u16()), int(f.u16()), int(f.u16())

	if shoff != 0 {
		if shentsize != t.section {
			return fmt.Errorf("section headers of %d bytes: %w", shentsize, ErrBadELF)
		}
		first, err := t.entries(shoff, 1, t.section)
		if err != nil {
			return err
		}
		// Counts that do not fit 16 bits are in section header 0.
		s, info, _ := h.section(first)
		if shnum == 0 {
			if s.Size > maxSections {
				return fmt.Errorf("%d sections, over the limit of %d: %w", s.Size, maxSections, ErrBadELF)
			}
			shnum = int(s.Size)
		}
		if shstrndx == sectionNone {
			shstrndx = int(s.Link)
		}
		if phnum == segmentNum {
			phnum = int(min(info, maxSections))
		}
	}
	if phnum > 0 {
		if phentsize != t.segment {
			return fmt.Errorf("program headers of %d bytes: %w", phentsize, ErrBadELF)
		}
		b, err := t.entries(phoff, phnum, t.segment)
		if err != nil {
			return err
		}
		h.Segments = make([]Segment, phnum)
		for i := range h.Segments {
			h.Segments[i] = h.segment(b[i*t.segment:])
		}
	}
	if shoff == 0 || shnum == 0 {
		return nil
	}
	return h.readSections(t, shoff, shnum, shstrndx)
}

func (h *Headers) readSections(t table, shoff uint64, shnum, shstrndx int) error {
	b, err := t.entries(shoff, shnum, t.section)
	if err != nil {
		return err
	}
	h.Sections = make([]Section, shnum)
	nameOff := make([]uint32, shnum)
	for i := range h.Sections {
		h.Sections[i], _, nameOff[i] = h.section(b[i*t.section:])
	}
	if shstrndx >= shnum {
		return fmt.Errorf("section names in section %d of %d: %w", shstrndx, shnum, ErrBadELF)
	}
	names, err := t.entries(h.Sections[shstrndx].Off, int(min(h.Sections[shstrndx].Size, maxNameTable)), 1)
	if err != nil {
		return err
	}
	for i, off := range nameOff {
		if uint64(off) >= uint64(len(names)) {
			continue
		}
		name := names[off:]
		name = name[:min(len(name), maxSectionName)]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		h.Sections[i].Name = string(name)
	}
	return nil
}

func (h *Headers) segment(b []byte) Segment {
	f := fields{b: b, is64: h.Is64}
	var s Segment
	s.Type = f.u32()
	if h.Is64 {
		s.Flags = f.u32()
	}
	s.Off, s.Vaddr = f.word(), f.word()
	f.word() // p_paddr
	s.Filesz, s.Memsz = f.word(), f.word()
	if !h.Is64 {
		s.Flags = f.u32()
	}
	return s
}

func (h *Headers) section(b []byte) (s Section, info, nameOff uint32) {
	f := fields{b: b, is64: h.Is64}
	nameOff = f.u32()
	s.Type = f.u32()
	s.Flags, s.Addr, s.Off, s.Size = f.word(), f.word(), f.word(), f.word()
	s.Link = f.u32()
	info = f.u32()
	f.word() // sh_addralign
	s.EntSize = f.word()
	return s, info, nameOff
}

// Section returns the first section of that name, or nil.
func (h *Headers) Section(name string) *Section {
	for i := range h.Sections {
		if h.Sections[i].Name == name {
			return &h.Sections[i]
		}
	}
	return nil
}

// fields reads the fields of one header in order. b must be long enough.
type fields struct {
	b    []byte
	off  int
	is64 bool
}

func (f *fields) u16() uint16 {
	f.off += 2
	return binary.LittleEndian.Uint16(f.b[f.off-2:])
}

func (f *fields) u32() uint32 {
	f.off += 4
	return binary.LittleEndian.Uint32(f.b[f.off-4:])
}

// word is an address, offset or size: 8 bytes in ELF64, 4 in ELF32.
func (f *fields) word() uint64 {
	if !f.is64 {
		return uint64(f.u32())
	}
	f.off += 8
	return binary.LittleEndian.Uint64(f.b[f.off-8:])
}
