package unwind

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/object"
	"hotframe/internal/testutil"
)

const (
	textAddr = 0x401000 // of image's .text
	codeSize = 0x1000
	ehAddr   = 0x402000 // of its unwind section
	ehOff    = 0x100    // of that in the file
	relText  = textAddr & 0xffff
)

// image is an ELF file with an unwind section and a page of code, which is not
// in the file: fuzzing has more to find in small ones.
func image(machine elf.Machine, section string, flags uint64, content []byte) []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	names := "\x00.text\x00.shstrtab\x00" + section + "\x00"
	namesOff := uint64(ehOff + len(content))
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
		Phoff: 64, Shoff: namesOff + uint64(len(names)), Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64, Shnum: 4, Shstrndx: 2,
	})
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: textAddr, Memsz: codeSize})
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R), Off: ehOff, Vaddr: ehAddr, Filesz: uint64(len(content)), Memsz: uint64(len(content))})
	b.Write(make([]byte, ehOff-b.Len()))
	b.Write(content)
	b.WriteString(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: 1, Flags: 6, Addr: textAddr, Size: codeSize})
	put(elf.Section64{Name: 7, Type: 3, Off: namesOff, Size: uint64(len(names))})
	addr := uint64(ehAddr)
	if section == ".debug_frame" {
		addr = 0
	}
	put(elf.Section64{Name: 17, Type: 1, Flags: flags, Addr: addr, Off: ehOff, Size: uint64(len(content))})
	return b.Bytes()
}

func build(b []byte) (*Table, error) { return Build(bytes.NewReader(b), int64(len(b))) }

// entries writes the entries of an .eh_frame.
type entries struct{ b []byte }

func (e *entries) entry(id uint32, body []byte) (pos int) {
	pos = len(e.b)
	e.b = binary.LittleEndian.AppendUint32(e.b, uint32(4+len(body)))
	e.b = binary.LittleEndian.AppendUint32(e.b, id)
	e.b = append(e.b, body...)
	return pos
}

// cie adds a CIE with code alignment 1, data alignment -8 and 32-bit relative addresses.
func (e *entries) cie(augmentation string, ra byte, code ...byte) int {
	body := append([]byte{1}, augmentation+"\x00\x01\x78"...)
	body = append(body, ra)
	data := make([]byte, 0, 2)
	if strings.HasPrefix(augmentation, "zR") {
		data = append(data, pePcrel|peSdata4)
	}
	body = append(append(body, byte(len(data))), data...)
	return e.entry(0, append(body, code...))
}

// fde adds the function of size bytes at an offset in the text.
func (e *entries) fde(cie int, off, size uint32, code ...byte) {
	at := len(e.b) + 8
	body := binary.LittleEndian.AppendUint32(nil, textAddr+off-uint32(ehAddr+at))
	body = binary.LittleEndian.AppendUint32(body, size)
	e.entry(uint32(at-4-cie), append(append(body, 0), code...))
}

func TestEntries(t *testing.T) {
	wide := func(e *entries) { // makes the last FDE one with a 64-bit length
		last := 0
		for pos := 0; pos < len(e.b); pos += 4 + int(binary.LittleEndian.Uint32(e.b[pos:])) {
			last = pos
		}
		n := uint64(len(e.b) - last - 4)
		head := binary.LittleEndian.AppendUint64([]byte{0xff, 0xff, 0xff, 0xff}, n)
		e.b = slices.Concat(e.b[:last], head, e.b[last+4:])
		binary.LittleEndian.PutUint32(e.b[last+12:], uint32(last+12))
		binary.LittleEndian.PutUint32(e.b[last+16:], uint32(int64(textAddr)-int64(ehAddr+last+16)))
	}
	tests := []struct {
		name  string
		write func(e *entries)
		want  string
		stats Stats
	}{
		{"functions out of order", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0x20, 0x10, cfaDefCFAOffset, 16)
			e.fde(c, 0, 0x20)
		}, "0 sp 0x1 0; 20 sp 0x2 0; 30 none 0x0 0", Stats{Functions: 2}},
		{"15 bytes of padding belong to the function before", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0, 0x11, cfaDefCFAOffset, 16)
			e.fde(c, 0x20, 0x10)
		}, "0 sp 0x2 0; 20 sp 0x1 0; 30 none 0x0 0", Stats{Functions: 2}},
		{"16 do not", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0, 0x10, cfaDefCFAOffset, 16)
			e.fde(c, 0x20, 0x10)
		}, "0 sp 0x2 0; 10 none 0x0 0; 20 sp 0x1 0; 30 none 0x0 0", Stats{Functions: 2}},
		{"overlap: the next one begins", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0, 0x80, cfaAdvanceLoc1, 0x50, cfaDefCFAOffset, 24)
			e.fde(c, 0x20, 0x10, cfaDefCFAOffset, 16)
		}, "0 sp 0x1 0; 20 sp 0x2 0; 30 none 0x0 0", Stats{Functions: 2}},
		{"doubles, empty ones and others' code", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0, 0x20)
			e.fde(c, 0, 0x30, cfaDefCFAOffset, 16)
			e.fde(c, 0x20, 0)
			e.fde(c, codeSize, 0x10)
		}, "0 sp 0x1 0; 20 none 0x0 0", Stats{Functions: 1, Dropped: 3}},
		{"to the end of the segment", func(e *entries) {
			e.fde(e.cie("zR", 16, startAMD64...), codeSize-0x10, 0x4000, cfaAdvanceLoc2, 0, 1, cfaDefCFAOffset, 16)
		}, "ff0 sp 0x1 0; 1000 none 0x0 0", Stats{Functions: 1}},
		{"a damaged function loses only itself", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0, 0x10)
			e.fde(c, 0x10, 0x10, cfaAdvanceLoc|1, cfaDefCFAOffset, 16, cfaAdvanceLoc|1, 0x3f)
			e.fde(c, 0x20, 0x10)
		}, "0 sp 0x1 0; 10 none 0x0 0; 20 sp 0x1 0; 30 none 0x0 0", Stats{Functions: 2, Damaged: 1}},
		{"a CIE that is none", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			e.fde(c, 0, 0x10)
			e.fde(c+4, 0x10, 0x10)
			e.fde(-0x1000, 0x10, 0x10)
		}, "0 sp 0x1 0; 10 none 0x0 0", Stats{Functions: 1, Damaged: 2}},
		{"CIEs of unknown kinds", func(e *entries) {
			e.fde(e.cie("zR", 17, startAMD64...), 0, 0x10)      // return address column
			e.fde(e.cie("zR", 15, cfaDefCFA, 7, 0), 0x40, 0x10) // that of a register
			e.fde(e.cie("zRX", 16, startAMD64...), 0x10, 0x10)
			e.fde(e.cie("zR", 16, cfaAdvanceLoc|1), 0x20, 0x10) // code in a CIE
			e.fde(e.cie("zR", 16, startAMD64...), 0x30, 0x10)
		}, "30 sp 0x1 0; 40 rareg 0xf 0; 50 none 0x0 0", Stats{Functions: 2, Damaged: 3}},
		{"an entry cut at the end", func(e *entries) {
			e.fde(e.cie("zR", 16, startAMD64...), 0, 0x10)
			e.b = append(e.b, 0x20, 0, 0, 0, 1)
		}, "0 sp 0x1 0; 10 none 0x0 0", Stats{Functions: 1, Damaged: 1}},
		{"terminators between", func(e *entries) {
			e.b = append(e.b, 0, 0, 0, 0)
			e.fde(e.cie("zR", 16, startAMD64...), 0, 0x10)
			e.b = append(e.b, 0, 0, 0, 0)
		}, "0 sp 0x1 0; 10 none 0x0 0", Stats{Functions: 1}},
		{"64-bit length", func(e *entries) {
			e.fde(e.cie("zR", 16, startAMD64...), 0, 0x10)
			wide(e)
		}, "0 sp 0x1 0; 10 none 0x0 0", Stats{Functions: 1}},
		{"more than a page of entries", func(e *entries) {
			c := e.cie("zR", 16, startAMD64...)
			for i := range uint32(400) {
				e.fde(c, 8*i, 8, slices.Repeat([]byte{cfaDefCFAOffset, 16}, 10)...)
			}
		}, "0 sp 0x2 0; c80 none 0x0 0", Stats{Functions: 400}},
		{"signal frame", func(e *entries) {
			c := e.cie("zRS", 16, startAMD64...)
			e.fde(c, 0, 0x10, cfaDefCFAExpression, 4, 0x77, 0xa0, 1, 0x06)
			e.fde(c, 0x10, 0x10, cfaDefCFAOffset, 16) // what else has the flag
		}, "0 signal 0x0 0; 10 sp 0x2 0; 20 none 0x0 0", Stats{Functions: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entries
			tt.write(&e)
			table, err := build(image(elf.EM_X86_64, ".eh_frame", 2, e.b))
			if err != nil {
				t.Fatal(err)
			}
			if got := dumpRows(table.Rows); got != tt.want || table.Stats != tt.stats {
				t.Errorf("%+v, rows\n%s\nwant %+v\n%s", table.Stats, got, tt.stats, tt.want)
			}
		})
	}
}

func TestEncodings(t *testing.T) {
	const addr, at = textAddr + 0x10, ehAddr + 0x1f // of the code, and of the pointer to it
	rel := int64(addr - at)
	le64 := func(v int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(v)) }
	tests := []struct {
		name     string
		encoding byte
		start    []byte
		length   []byte
		ok       bool
	}{
		{"absptr", peAbsptr, le64(addr), le64(16), true},
		{"pcrel absptr", pePcrel, le64(rel), le64(16), true},
		{"udata4", peUdata4, le32(addr), le32(16), true},
		{"pcrel sdata4", pePcrel | peSdata4, le32(rel), le32(16), true},
		{"udata8", peUdata8, le64(addr), le64(16), true},
		{"pcrel sdata8", pePcrel | peSdata8, le64(rel), le64(16), true},
		{"pcrel sdata2", pePcrel | peSdata2, le32(rel)[:2], []byte{16, 0}, true},
		{"uleb128", peUleb, binary.AppendUvarint(nil, addr), []byte{16}, true},
		{"pcrel sleb128", pePcrel | peSleb, []byte{byte(rel&0x7f | 0x80), byte(rel >> 7 & 0x7f)}, []byte{16}, true},
		{"udata2, too small", peUdata2, le32(addr)[:2], []byte{16, 0}, false},
		{"indirect", 0x80 | pePcrel | peSdata4, le32(rel), le32(16), false},
		{"datarel", 0x30 | peSdata4, le32(rel), le32(16), false},
		{"omitted", 0xff, nil, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entries
			e.entry(0, append([]byte{1, 'z', 'R', 0, 1, 0x78, 16, 1, tt.encoding}, startAMD64...))
			e.b = append(e.b, make([]byte, 0x1f-8-len(e.b))...)
			binary.LittleEndian.PutUint32(e.b, uint32(len(e.b)-4))
			e.entry(uint32(len(e.b)+4), slices.Concat(tt.start, tt.length, []byte{0}))
			table, err := build(image(elf.EM_X86_64, ".eh_frame", 2, e.b))
			want := "10 sp 0x1 0; 20 none 0x0 0"
			if got := ""; tt.ok {
				if err == nil {
					got = dumpRows(table.Rows)
				}
				if got != want {
					t.Errorf("rows %q, %v; want %q", got, err, want)
				}
			} else if !errors.Is(err, ErrNoInfo) {
				t.Errorf("table %v, %v; want %v", table, err, ErrNoInfo)
			}
		})
	}
}

func TestCIEs(t *testing.T) {
	tests := []struct {
		name string
		body []byte
		ok   bool
	}{
		{"version 1", slices.Concat([]byte("\x01zR\x00\x01\x78\x10\x01\x1b"), startAMD64), true},
		{"version 3", slices.Concat([]byte("\x03zR\x00\x01\x78\x90\x00\x01\x1b"), startAMD64), true},
		{"version 4", slices.Concat([]byte("\x04zR\x00\x08\x00\x01\x78\x10\x01\x1b"), startAMD64), true},
		{"version 4 with addresses of 4 bytes", slices.Concat([]byte("\x04zR\x00\x04\x00\x01\x78\x10\x01\x1b"), startAMD64), false},
		{"version 2", slices.Concat([]byte("\x02zR\x00\x01\x78\x10\x01\x1b"), startAMD64), false},
		{"personality and exception tables", slices.Concat([]byte("\x01zPLR\x00\x01\x78\x10\x07\x9b\x01\x02\x03\x04\x1b\x1b"), startAMD64), true},
		{"personality of an unknown size", slices.Concat([]byte("\x01zPR\x00\x01\x78\x10\x06\x9f\x01\x02\x03\x04\x1b"), startAMD64), false},
		{"augmentation that does not begin with z", slices.Concat([]byte("\x01R\x00\x01\x78\x10\x01\x1b"), startAMD64), false},
		{"code alignment 0", slices.Concat([]byte("\x01zR\x00\x00\x78\x10\x01\x1b"), startAMD64), false},
		{"augmentation data larger than the entry", []byte("\x01zR\x00\x01\x78\x10\xff\x7f\x1b"), false},
		{"cut in the augmentation", []byte("\x01zR"), false},
		{"larger than any", slices.Concat([]byte("\x01zR\x00\x01\x78\x10\x01\x1b"), startAMD64, make([]byte, maxCIE)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entries
			e.fde(e.entry(0, tt.body), 0, 0x10)
			table, err := build(image(elf.EM_X86_64, ".eh_frame", 2, e.b))
			if !tt.ok {
				if !errors.Is(err, ErrNoInfo) {
					t.Errorf("table %v, %v; want %v", table, err, ErrNoInfo)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := dumpRows(table.Rows), "0 sp 0x1 0; 10 none 0x0 0"; got != want {
				t.Errorf("rows %q, want %q", got, want)
			}
		})
	}
}

// debugFrame has one function, in the form of .debug_frame.
func debugFrame() []byte {
	var e entries
	e.entry(0xffff_ffff, append([]byte{4, 0, 8, 0, 1, 0x78, 16}, startAMD64...))
	body := binary.LittleEndian.AppendUint64(nil, textAddr)
	body = binary.LittleEndian.AppendUint64(body, 0x10)
	e.entry(0, append(body, cfaDefCFAOffset, 16))
	return e.b
}

func compressed(b []byte, size uint64) []byte {
	out := binary.LittleEndian.AppendUint64(nil, 1)
	out = binary.LittleEndian.AppendUint64(out, size)
	z := bytes.NewBuffer(binary.LittleEndian.AppendUint64(out, 8))
	w := zlib.NewWriter(z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

func TestSections(t *testing.T) {
	var e entries
	e.fde(e.cie("zR", 16, startAMD64...), 0, 0x10)
	eh := image(elf.EM_X86_64, ".eh_frame", 2, e.b)

	// Without section headers PT_GNU_EH_FRAME leads to .eh_frame.
	stripped := image(elf.EM_X86_64, ".other", 2, slices.Concat(e.b, make([]byte, 4), []byte{1, 0x1b, 3, 0x3b}, le32(-int64(len(e.b)+8))))
	clear(stripped[40:48]) // e_shoff
	clear(stripped[58:64])
	binary.LittleEndian.PutUint16(stripped[56:], 3)
	var p bytes.Buffer
	binary.Write(&p, binary.LittleEndian, elf.Prog64{Type: segmentEHFrame, Off: uint64(ehOff + len(e.b) + 4), Vaddr: uint64(ehAddr + len(e.b) + 4), Filesz: 8})
	copy(stripped[64+2*56:], p.Bytes())

	arch := bytes.Clone(eh)
	binary.LittleEndian.PutUint16(arch[18:], uint16(elf.EM_RISCV))
	data := bytes.Clone(eh)
	data[64+4] = byte(elf.PF_R)
	far := bytes.Clone(eh)
	far[64+56+4], far[64+56+22] = byte(elf.PF_X), 1 // the second segment is executable, at 1<<48
	outside := bytes.Clone(eh)
	binary.LittleEndian.PutUint64(outside[len(outside)-64+24:], uint64(len(outside)))
	debug := debugFrame()
	method := compressed(debug, uint64(len(debug)))
	method[0] = 2
	damaged := compressed(debug, uint64(len(debug)))
	damaged[30] ^= 0xff

	tests := []struct {
		name string
		file []byte
		want string
		err  error
	}{
		{".eh_frame", eh, "0 sp 0x1 0; 10 none 0x0 0", nil},
		{"by PT_GNU_EH_FRAME", stripped, "0 sp 0x1 0; 10 none 0x0 0", nil},
		{".debug_frame", image(elf.EM_X86_64, ".debug_frame", 0, debug), "0 sp 0x2 0; 10 none 0x0 0", nil},
		{".debug_frame, compressed", image(elf.EM_X86_64, ".debug_frame", sectionCompressed, compressed(debug, uint64(len(debug)))), "0 sp 0x2 0; 10 none 0x0 0", nil},
		{".debug_frame, compressed, of another size", image(elf.EM_X86_64, ".debug_frame", sectionCompressed, compressed(debug, 1<<40)), "", ErrTooLarge},
		{".debug_frame, compressed, by zstd", image(elf.EM_X86_64, ".debug_frame", sectionCompressed, method), "", ErrNoInfo},
		{".debug_frame, compressed, damaged", image(elf.EM_X86_64, ".debug_frame", sectionCompressed, damaged), "", ErrDamaged},
		{".debug_frame, compressed, without a header", image(elf.EM_X86_64, ".debug_frame", sectionCompressed, debug[:10]), "", ErrDamaged},
		{"another section", image(elf.EM_X86_64, ".other", 2, e.b), "", ErrNoInfo},
		{"another machine", arch, "", ErrMachine},
		{"no ELF file", []byte("#!/bin/sh\n"), "", object.ErrNotELF},
		{"no code", data, "", ErrNoInfo},
		{"code too far apart", far, "", ErrTooLarge},
		{"section outside of the file", outside, "", ErrDamaged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table, err := build(tt.file)
			if !errors.Is(err, tt.err) || (err == nil) != (table != nil) {
				t.Fatalf("table %v, %v; want %v", table, err, tt.err)
			}
			if err != nil {
				return
			}
			if got := dumpRows(table.Rows); got != tt.want || table.Base != 0x400000 || table.Text != codeSize && tt.file[40] != 0 {
				t.Errorf("base %#x, text %d, rows %q, want %q", table.Base, table.Text, got, tt.want)
			}
		})
	}
}

// TestSigreturn: arm64's vDSO and musl have no unwind information where signal
// handlers return to.
func TestSigreturn(t *testing.T) {
	tests := []struct {
		name    string
		machine elf.Machine
		code    []byte
		want    string
	}{
		{"amd64", elf.EM_X86_64, slices.Concat(make([]byte, 0x20), sigreturnCode[AMD64]), "1f signal 0x0 0; 29 none 0x0 0"},
		{"arm64", elf.EM_AARCH64, slices.Concat(make([]byte, 0x20), sigreturnCode[ARM64]), "1f signal 0x0 0; 28 none 0x0 0"},
		{"first in the segment", elf.EM_AARCH64, sigreturnCode[ARM64], "0 signal 0x0 0; 8 none 0x0 0"},
		{"another machine's", elf.EM_AARCH64, sigreturnCode[AMD64], ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := image(tt.machine, ".rodata", 2, tt.code)
			binary.LittleEndian.PutUint64(b[64+8:], ehOff) // the code is in the file
			binary.LittleEndian.PutUint64(b[64+32:], uint64(len(tt.code)))
			table, err := build(b)
			if tt.want == "" {
				if !errors.Is(err, ErrNoInfo) {
					t.Errorf("table %v, %v; want %v", table, err, ErrNoInfo)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := dumpRows(table.Rows); got != tt.want {
				t.Errorf("rows %q, want %q", got, tt.want)
			}
		})
	}
}

// TestGoProgram: all of a Go program's code has rules, whatever the linker left out.
func TestGoProgram(t *testing.T) {
	for _, flags := range [][]string{nil, {"-ldflags=-s -w"}, {"-buildmode=pie"}} {
		b, err := os.ReadFile(testutil.Program(t, "gowork.go", flags...))
		if err != nil {
			t.Fatal(err)
		}
		table, err := build(b)
		if err != nil {
			t.Fatalf("%v: %v", flags, err)
		}
		checkRows(t, table)
		none := uint64(0) // bytes
		for i, r := range table.Rows[:len(table.Rows)-1] {
			if r.Rule.Kind() == KindNone {
				none += uint64(table.Rows[i+1].PC - r.PC)
			}
		}
		span := uint64(table.Rows[len(table.Rows)-1].PC - table.Rows[0].PC)
		if none*100 > span || span*10 < table.Text*9 || table.Stats.Functions < 1000 {
			t.Errorf("%v: %d bytes of %d in rows, %d without a rule, %+v", flags, span, table.Text, none, table.Stats)
		}
	}
}

func TestLookup(t *testing.T) {
	table := &Table{Base: 0x10000, Rows: []Row{{0x10, 1}, {0x20, 2}, {0x30, 0}}}
	tests := []struct {
		addr uint64
		want Rule
	}{{0, 0}, {0xffff, 0}, {0x10000, 0}, {0x1000f, 0}, {0x10010, 1}, {0x1001f, 1}, {0x10020, 2}, {0x10030, 0}, {1<<32 + 0x10010, 0}, {^uint64(0), 0}}
	for _, tt := range tests {
		if got := table.Lookup(tt.addr); got != tt.want {
			t.Errorf("Lookup(%#x) = %d, want %d", tt.addr, got, tt.want)
		}
	}
	if got := (&Table{}).Lookup(0); got != 0 {
		t.Errorf("Lookup in an empty table = %d", got)
	}
}

func TestFill(t *testing.T) {
	rows := []Row{{0x10, 1}, {0x20, 0}, {0x40, 2}, {0x50, 0}}
	others := []Row{{0x18, 3}, {0x30, 2}, {0x48, 0}, {0x50, 4}, {0x60, 0}}
	want := []Row{{0x10, 1}, {0x20, 3}, {0x30, 2}, {0x50, 4}, {0x60, 0}}
	if got := fill(rows, others); !slices.Equal(got, want) {
		t.Errorf("fill = %v, want %v", got, want)
	}
}

// FuzzBuild: any file has a Table that keeps its promises, or an error; and
// neither takes memory out of proportion.
func FuzzBuild(f *testing.F) {
	var e entries
	c := e.cie("zR", 16, startAMD64...)
	e.fde(c, 0x20, 0x10, cfaDefCFAOffset, 16, cfaAdvanceLoc|4, cfaRememberState, cfaDefCFARegister, 6)
	e.fde(c, 0, 0x20)
	f.Add(image(elf.EM_X86_64, ".eh_frame", 2, e.b))
	f.Add(image(elf.EM_AARCH64, ".eh_frame", 2, e.b))
	f.Add(image(elf.EM_X86_64, ".debug_frame", 0, debugFrame()))
	f.Add(image(elf.EM_X86_64, ".debug_frame", sectionCompressed, compressed(debugFrame(), uint64(len(debugFrame())))))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		table, err := build(b)
		runtime.ReadMemStats(&after)
		// The pages of each section, and rows of 8 bytes for 2 bytes of instructions.
		if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(2<<20+64*maxRatio*len(b)); n > limit {
			t.Errorf("%d bytes allocated for %d", n, len(b))
		}
		if (table == nil) == (err == nil) {
			t.Fatalf("table %v, %v", table, err)
		}
		if err == nil {
			checkRows(t, table)
		}
	})
}
