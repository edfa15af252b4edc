package object

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"testing"
)

// image builds an ELF64 file with one program header and n section headers,
// the last of which holds the section names.
func image(n int) []byte {
	const header, phentsize, shentsize = 64, 56, 64
	names := "\x00.text\x00.names\x00"
	var b bytes.Buffer
	le := binary.LittleEndian
	put := func(v any) { binary.Write(&b, le, v) }
	shoff := uint64(header + phentsize + len(names))
	shnum, strndx := n, n-1
	if n >= 0xff00 {
		shnum, strndx = 0, sectionNone
	}
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: TypeDyn, Machine: 62, Version: 1, Entry: 0x1234,
		Phoff: header, Shoff: shoff, Ehsize: header, Phentsize: phentsize, Phnum: 1,
		Shentsize: shentsize, Shnum: uint16(shnum), Shstrndx: uint16(strndx),
	})
	put(elf.Prog64{Type: SegmentLoad, Flags: SegmentExec, Off: 0x1000, Vaddr: 0x401000, Filesz: 0x500, Memsz: 0x600})
	b.WriteString(names)
	for i := range n {
		s := elf.Section64{Name: 1, Type: 1, Addr: uint64(i)}
		if i == 0 && shnum == 0 {
			s = elf.Section64{Size: uint64(n), Link: uint32(n - 1)}
		}
		if i == n-1 {
			s = elf.Section64{Name: 7, Type: 3, Off: header + phentsize, Size: uint64(len(names))}
		}
		put(s)
	}
	return b.Bytes()
}

func read(b []byte) (*Headers, error) { return ReadHeaders(bytes.NewReader(b), int64(len(b))) }

func TestReadHeaders(t *testing.T) {
	for _, n := range []int{3, 0xff00, 70_000} { // 65,280 sections and more do not fit the ELF header
		h, err := read(image(n))
		if err != nil {
			t.Fatalf("%d sections: %v", n, err)
		}
		want := Segment{Type: SegmentLoad, Flags: SegmentExec, Off: 0x1000, Vaddr: 0x401000, Filesz: 0x500, Memsz: 0x600}
		if len(h.Segments) != 1 || h.Segments[0] != want {
			t.Errorf("%d sections: segments %v, want %v", n, h.Segments, want)
		}
		if len(h.Sections) != n || h.Sections[1].Name != ".text" || h.Section(".names") != &h.Sections[n-1] {
			t.Errorf("%d sections: got %d, [1] is %q", n, len(h.Sections), h.Sections[1].Name)
		}
		if h.Entry != 0x1234 || h.Type != TypeDyn || h.Machine != 62 || !h.Is64 {
			t.Errorf("%d sections: headers %+v", n, h)
		}
	}
}

// TestReadHeadersOfThisProgram compares with debug/elf.
func TestReadHeadersOfThisProgram(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	want, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Segments) != len(want.Progs) || len(h.Sections) != len(want.Sections) {
		t.Fatalf("%d segments, %d sections; want %d, %d", len(h.Segments), len(h.Sections), len(want.Progs), len(want.Sections))
	}
	for i, p := range want.Progs {
		w := Segment{uint32(p.Type), uint32(p.Flags), p.Off, p.Filesz, p.Vaddr, p.Memsz}
		if h.Segments[i] != w {
			t.Errorf("segment %d: %+v, want %+v", i, h.Segments[i], w)
		}
	}
	for i, s := range want.Sections {
		w := Section{Name: s.Name, Type: uint32(s.Type), Link: s.Link, Flags: uint64(s.Flags),
			Addr: s.Addr, Off: s.Offset, Size: s.FileSize, EntSize: s.Entsize}
		if h.Sections[i] != w {
			t.Errorf("section %d: %+v, want %+v", i, h.Sections[i], w)
		}
	}
}

func TestReadHeadersErrors(t *testing.T) {
	good := image(3)
	change := func(off int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[off:], v)
		return b
	}
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"empty", nil, ErrNotELF},
		{"a script", []byte("#!/bin/sh\nexec true\n"), ErrNotELF},
		{"big endian", change(5, 2), ErrNotELF},
		{"unknown class", change(4, 3), ErrNotELF},
		{"cut in the ELF header", good[:40], ErrBadELF},
		{"cut in the program headers", good[:80], ErrBadELF},
		{"cut in the section headers", good[:len(good)-1], ErrBadELF},
		{"program headers behind the end", change(32, 0xff, 0xff, 0xff), ErrBadELF},
		{"program header offset overflows", change(32, bytes.Repeat([]byte{0xff}, 8)...), ErrBadELF},
		{"program headers of another size", change(54, 1), ErrBadELF},
		{"section headers of another size", change(58, 1), ErrBadELF},
		{"65,535 sections claimed", change(60, 0xff, 0xff), ErrBadELF},
		{"no such section of names", change(62, 3), ErrBadELF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if h, err := read(tt.in); !errors.Is(err, tt.want) || h != nil {
				t.Errorf("ReadHeaders = %v, %v; want error %v", h, err, tt.want)
			}
		})
	}
}

func TestFindBuildID(t *testing.T) {
	const gnu = "\x04\x00\x00\x00\x03\x00\x00\x00\x03\x00\x00\x00GNU\x00\xab\xcd\xef"
	tests := []struct {
		name, in, want string
	}{
		{"alone", gnu, "abcdef"},
		{"behind another note with odd sizes", "\x05\x00\x00\x00\x01\x00\x00\x00\x09\x00\x00\x00five\x00pad1pad" + gnu, "abcdef"},
		{"another owner's note of type 3", "\x04\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00Go\x00\x00\x01\x02\x03\x04", ""},
		{"cut", gnu[:len(gnu)-1], ""},
		{"content of 4 GB claimed", "\x04\x00\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00GNU\x00\x01", ""},
		{"name of 4 GB claimed", "\xff\xff\xff\xff\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00\x01\x02\x03\x04", ""},
		{"empty id", "\x04\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00GNU\x00", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := findBuildID([]byte(tt.in)); got != tt.want {
				t.Errorf("findBuildID = %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzReadHeaders(f *testing.F) {
	f.Add(image(3))
	f.Add(image(300))
	f.Add(image(3)[:70])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := read(b)
		if (h == nil) == (err == nil) {
			t.Fatalf("headers %v with error %v", h, err)
		}
		if err != nil {
			return
		}
		// Every header was in the file.
		if n := len(h.Segments)*32 + len(h.Sections)*40; n > len(b)*2 {
			t.Fatalf("%d segments and %d sections in %d bytes", len(h.Segments), len(h.Sections), len(b))
		}
		for _, s := range h.Sections {
			if len(s.Name) > maxSectionName {
				t.Fatalf("name of %d bytes", len(s.Name))
			}
		}
		id := NewFile(ELF, "", bytes.NewReader(b), int64(len(b))).BuildID()
		if len(id) > 2*maxBuildID {
			t.Fatalf("build id of %d digits", len(id))
		}
	})
}
