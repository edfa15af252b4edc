package symbolize

import (
	"bytes"
	"debug/elf"
	"encoding/binary"

	"hotframe/internal/object"
)

// An elfImage is a small ELF file with one executable segment and section.
type elfImage struct {
	class    elf.Class
	text     uint64 // its address
	size     uint64
	symbols  []elf.Sym64
	names    string // begins with a NUL
	sections int    // empty ones before those in use
	dynamic  bool   // no section headers; symbols in the dynamic segment
	sysvHash bool   // DT_HASH in place of DT_GNU_HASH
}

const imageTextIndex = 0x1234 // of .text in symbols; replaced by what it is

// bytes lays the file out: headers, symbols, names, hash, dynamic tags, section headers.
func (im elfImage) bytes() []byte {
	le := binary.LittleEndian
	is64 := im.class == elf.ELFCLASS64
	put := func(b *bytes.Buffer, v64, v32 any) {
		if is64 {
			binary.Write(b, le, v64)
		} else {
			binary.Write(b, le, v32)
		}
	}
	sizes := map[bool][4]uint64{true: {64, 56, 64, 24}, false: {52, 32, 40, 16}}[is64]
	phnum := uint64(2)
	symOff := sizes[0] + phnum*sizes[1]
	text := im.sections + 1

	var data bytes.Buffer
	for _, s := range im.symbols {
		if s.Shndx == imageTextIndex {
			s.Shndx = uint16(text)
			if text >= 0xff00 {
				s.Shndx = uint16(elf.SHN_XINDEX)
			}
		}
		put(&data, s, elf.Sym32{Name: s.Name, Info: s.Info, Other: s.Other, Shndx: s.Shndx, Value: uint32(s.Value), Size: uint32(s.Size)})
	}
	nameOff := symOff + uint64(data.Len())
	data.WriteString(im.names)
	hashOff := symOff + uint64(data.Len())
	if im.sysvHash { // nbucket, nchain
		binary.Write(&data, le, []uint32{1, uint32(len(im.symbols))})
	} else { // buckets, first symbol, filter words, shift; filter; bucket; chain
		binary.Write(&data, le, []uint32{1, 1, 1, 0, 0})
		if is64 {
			binary.Write(&data, le, uint32(0))
		}
		chain := make([]uint32, max(0, len(im.symbols)-1))
		if len(chain) > 0 {
			chain[len(chain)-1] = 1
			binary.Write(&data, le, uint32(1))
		} else {
			binary.Write(&data, le, uint32(0))
		}
		binary.Write(&data, le, chain)
	}
	const base = 0x10000 // of the file's first byte in memory
	dynOff := symOff + uint64(data.Len())
	hashTag := uint64(dynGNUHash)
	if im.sysvHash {
		hashTag = dynHash
	}
	for _, v := range []uint64{dynSymtab, base + symOff, dynStrtab, base + nameOff, dynStrsz, uint64(len(im.names)), hashTag, base + hashOff} {
		put(&data, v, uint32(v))
	}
	shoff := symOff + uint64(data.Len())

	type section struct{ kind, flags, addr, off, size, link, entry uint64 }
	sections := make([]section, im.sections+1)
	sections = append(sections,
		section{kind: 1, flags: object.SectionAlloc | object.SectionExec, addr: im.text, size: im.size},
		section{kind: object.SectionSymtab, off: symOff, size: nameOff - symOff, link: uint64(text + 2), entry: sizes[3]},
		section{kind: 3, off: nameOff, size: uint64(len(im.names))})
	shnum := len(sections)
	if shnum >= 0xff00 {
		sections[0].size, sections[0].link = uint64(shnum), uint64(shnum-1)
		shnum = 0
	}
	if im.dynamic {
		sections, shoff, shnum = nil, 0, 0
	}
	for _, s := range sections {
		put(&data,
			elf.Section64{Type: uint32(s.kind), Flags: s.flags, Addr: s.addr, Off: s.off, Size: s.size, Link: uint32(s.link), Entsize: s.entry},
			elf.Section32{Type: uint32(s.kind), Flags: uint32(s.flags), Addr: uint32(s.addr), Off: uint32(s.off), Size: uint32(s.size), Link: uint32(s.link), Entsize: uint32(s.entry)})
	}

	var head bytes.Buffer
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(im.class), 1, 1}
	strndx := uint16(len(sections) - 1)
	if len(sections) == 0 {
		strndx = 0
	} else if shnum == 0 {
		strndx = 0xffff
	}
	put(&head,
		elf.Header64{Ident: ident, Type: 3, Machine: 62, Version: 1, Phoff: sizes[0], Shoff: shoff, Ehsize: uint16(sizes[0]),
			Phentsize: uint16(sizes[1]), Phnum: uint16(phnum), Shentsize: uint16(sizes[2]), Shnum: uint16(shnum), Shstrndx: strndx},
		elf.Header32{Ident: ident, Type: 3, Machine: 3, Version: 1, Phoff: uint32(sizes[0]), Shoff: uint32(shoff), Ehsize: uint16(sizes[0]),
			Phentsize: uint16(sizes[1]), Phnum: uint16(phnum), Shentsize: uint16(sizes[2]), Shnum: uint16(shnum), Shstrndx: strndx})
	for _, p := range []elf.Prog64{
		{Type: object.SegmentLoad, Flags: 5, Off: 0, Vaddr: base, Filesz: shoff + 1<<20, Memsz: im.text + im.size - base},
		{Type: object.SegmentDynamic, Off: dynOff, Vaddr: base + dynOff, Filesz: 1 << 10},
	} {
		put(&head, p, elf.Prog32{Type: p.Type, Flags: p.Flags, Off: uint32(p.Off), Vaddr: uint32(p.Vaddr), Filesz: uint32(p.Filesz), Memsz: uint32(p.Memsz)})
	}
	return append(head.Bytes(), data.Bytes()...)
}

// elfSymbol is a symbol of .text.
func elfSymbol(name uint32, bind elf.SymBind, kind elf.SymType, value, size uint64) elf.Sym64 {
	return elf.Sym64{Name: name, Info: elf.ST_INFO(bind, kind), Shndx: imageTextIndex, Value: value, Size: size}
}
