package gotab

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"hotframe/internal/object"
)

// goStart is what a pclntab of any version is made of here: function i begins
// at start[i], has one file and one line.
type goStart struct {
	version pclnVersion
	ptrSize int
	starts  []uint64 // one more than functions
	names   []string
}

// encode builds the table as the linker of that version would.
func (g goStart) encode() []byte {
	le := binary.LittleEndian
	magic := map[pclnVersion]uint32{pcln12: 0xfffffffb, pcln116: 0xfffffffa, pcln118: 0xfffffff0, pcln120: 0xfffffff1}[g.version]
	word := func(b []byte, v uint64) []byte {
		if g.ptrSize == 4 {
			return le.AppendUint32(b, uint32(v))
		}
		return le.AppendUint64(b, v)
	}
	entrySize := g.ptrSize
	if g.version >= pcln118 {
		entrySize = 4
	}
	entry := func(b []byte, v uint64) []byte {
		if entrySize == 4 {
			return le.AppendUint32(b, uint32(v))
		}
		return word(b, v)
	}
	n := len(g.names)
	header := le.AppendUint32(nil, magic)
	header = append(header, 0, 0, 1, byte(g.ptrSize))
	header = word(header, uint64(n))

	names, nameOff := []byte{}, []uint32{}
	for _, s := range g.names {
		nameOff = append(nameOff, uint32(len(names)))
		names = append(names, s+"\x00"...)
	}
	files := []byte("\x00main.go\x00")
	// At 1: file 0 for 100 bytes; at 4: line 7; at 7: no stack for 4 bytes, 24 for 12.
	values := []byte{0, 2, 100, 0, 16, 100, 0, 2, 4, 48, 12, 0}
	if g.version == pcln12 {
		values[1] = 4 // files count from 1
	}

	functab := func(base int) []byte {
		info := entrySize + 4*g.version.fields() + 4
		at := base + (2*n+1)*entrySize
		if g.version == pcln12 {
			at += 4
		}
		var tab, funcs []byte
		for i := range n {
			tab = entry(entry(tab, g.starts[i]), uint64(at+i*info))
			funcs = entry(funcs, g.starts[i])
			name, file, line, stack := nameOff[i], uint32(1), uint32(4), uint32(7)
			if g.version == pcln12 { // one blob, with names behind the functions, then values, then files
				name += uint32(at + n*info)
				file += uint32(at + n*info + len(names))
				line += uint32(at + n*info + len(names))
				stack += uint32(at + n*info + len(names))
			}
			for _, v := range []uint32{name, 0, 0, stack, file, line, 0} {
				funcs = le.AppendUint32(funcs, v)
			}
			if g.version >= pcln116 {
				funcs = le.AppendUint32(funcs, 0) // unit
			}
			if g.version >= pcln120 {
				funcs = le.AppendUint32(funcs, uint32(5+i)) // start line
			}
			funcs = append(funcs, 14, byte(TopFrame|Assembly), 0, 0)
		}
		tab = entry(tab, g.starts[n])
		if g.version == pcln12 {
			tab = le.AppendUint32(tab, uint32(at+n*info+len(names)+len(values)))
		}
		return append(tab, funcs...)
	}
	if g.version == pcln12 {
		b := append(header, functab(len(header))...)
		b = append(append(b, names...), values...)
		b = le.AppendUint32(b, 2) // files, counted from 1
		b = le.AppendUint32(b, uint32(len(b)+4))
		return append(b, files[1:]...)
	}
	units := le.AppendUint32(nil, 1)
	words := 6
	header = word(header, 1) // files
	if g.version >= pcln118 {
		header, words = word(header, 0), 7 // text
	}
	at := 8 + (words+1)*g.ptrSize
	var body []byte
	for _, part := range [][]byte{names, units, files, values, functab(0)} {
		header = word(header, uint64(at+len(body)))
		body = append(body, part...)
	}
	return append(append(header, make([]byte, at-len(header))...), body...)
}

func TestPclntabVersions(t *testing.T) {
	for version := pcln12; version <= pcln120; version++ {
		for _, ptrSize := range []int{4, 8} {
			g := goStart{version, ptrSize, []uint64{0x1000, 0x1040, 0x1050}, []string{"main.main", "main.(*T).f[...]"}}
			b := g.encode()
			tab, err := read(bytes.NewReader(b), 0, uint64(len(b)))
			if err != nil {
				t.Errorf("version %d, %d bits: %v", version, 8*ptrSize, err)
				continue
			}
			type run struct {
				from, to uint64
				size     int32
			}
			type answer struct {
				name, file      string
				startLine, line int64
			}
			var got []answer
			err = tab.Each(func(f Func) bool {
				in, ok := tab.Info(f)
				if !ok {
					t.Errorf("version %d, %d bits: no info of %#x", version, 8*ptrSize, f.Entry)
				}
				var runs []run
				tab.StackSizes(in, func(from, to uint64, size int32) bool {
					runs = append(runs, run{from - f.Entry, to - f.Entry, size})
					return true
				})
				if want := []run{{0, 4, 0}, {4, 16, 24}}; !in.Stack || !slices.Equal(runs, want) {
					t.Errorf("version %d, %d bits: stack sizes %v, want %v", version, 8*ptrSize, runs, want)
				}
				if flags := TopFrame | Assembly; in.ID != 14 || tab.HasFlags() && in.Flags != flags || !tab.HasFlags() && in.Flags != 0 {
					t.Errorf("version %d, %d bits: ID %d, flags %d", version, 8*ptrSize, in.ID, in.Flags)
				}
				file, line := tab.Position(in, f.Entry+2)
				got = append(got, answer{string(tab.Name(in)), file, in.StartLine, line})
				return true
			})
			if err != nil {
				t.Errorf("version %d, %d bits: %v", version, 8*ptrSize, err)
			}
			want := []answer{{"main.main", "main.go", 5, 7}, {"main.(*T).f[...]", "main.go", 6, 7}}
			for i := range want {
				if version < pcln120 {
					want[i].startLine = 0
				}
				if version < pcln116 {
					want[i].line = 0
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("version %d, %d bits: %+v, want %+v", version, 8*ptrSize, got, want)
			}
		}
	}
}

func TestReadPclntabErrors(t *testing.T) {
	good := goStart{pcln120, 8, []uint64{0, 0x40}, []string{"main.main"}}.encode()
	change := func(off int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[off:], v)
		return b
	}
	tests := []struct {
		name string
		in   []byte
	}{
		{"empty", nil},
		{"header cut", good[:20]},
		{"another magic number", change(0, 0xf2)},
		{"pointers of 16 bytes", change(7, 16)},
		{"4 billion functions", change(8, 0xff, 0xff, 0xff, 0xff)},
		{"no functions", change(8, 0)},
		{"more functions than bytes", change(8, 200)},
		{"names behind the end", change(8+3*8, 0xff, 0xff)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tab, err := read(bytes.NewReader(tt.in), 0, uint64(len(tt.in))); err == nil || tab != nil {
				t.Errorf("read = %v, %v", tab, err)
			}
		})
	}
}

func FuzzPclntab(f *testing.F) {
	for version := pcln12; version <= pcln120; version++ {
		f.Add(goStart{version, 8, []uint64{0x1000, 0x1040, 0x1050}, []string{"main.main", "main.f"}}.encode())
		f.Add(goStart{version, 4, []uint64{0x1000, 0x1040}, []string{"main.main"}}.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := read(bytes.NewReader(b), 0, uint64(len(b)))
		if (tab == nil) == (err == nil) {
			t.Fatalf("table %v with error %v", tab, err)
		}
		if err != nil {
			return
		}
		n := uint64(0)
		tab.Each(func(fn Func) bool {
			if fn.End < fn.Entry {
				t.Fatalf("function from %#x to %#x", fn.Entry, fn.End)
			}
			if n++; n > tab.Count {
				t.Fatalf("%d functions of %d", n, tab.Count)
			}
			if in, ok := tab.Info(fn); ok {
				last := fn.Entry
				tab.StackSizes(in, func(from, to uint64, _ int32) bool {
					if from != last || to < from {
						t.Fatalf("stack size from %#x to %#x behind %#x", from, to, last)
					}
					last = to
					return to < fn.End
				})
				file, line := tab.Position(in, fn.Entry)
				if len(tab.Name(in)) > object.WindowSize || len(file) > object.WindowSize || line < 0 {
					t.Fatalf("name of %d bytes, file of %d, line %d", len(tab.Name(in)), len(file), line)
				}
			}
			return true
		})
	})
}

func TestSearchPclntabAcrossChunks(t *testing.T) {
	g := goStart{pcln120, 8, []uint64{0, 0x40}, []string{"main.main"}}.encode()
	for _, at := range []int{8, 1<<20 - 16, 1<<20 - 8, 1 << 20, 2<<20 - 24} {
		b := slices.Concat(make([]byte, at), g)
		f := file{bytes.NewReader(b), int64(len(b)), &object.Headers{Is64: true}}
		if _, err := f.search(0, uint64(len(b))); err != nil {
			t.Errorf("table at %#x: %v", at, err)
		}
	}
}
