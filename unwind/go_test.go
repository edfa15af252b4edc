package unwind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/gotab"
	"hotframe/internal/object"
	"hotframe/internal/testutil"
)

// openGo opens a Go program.
func openGo(t testing.TB, path string) goFile {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := object.ReadHeaders(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	arch := AMD64
	if h.Machine == machineARM64 {
		arch = ARM64
	}
	x, err := executable(h)
	if err != nil {
		t.Fatal(err)
	}
	return goFile{r: f, size: info.Size(), headers: h, arch: arch, base: x.base}
}

// A goImage is a Go program of functions that follow each other.
type goImage struct {
	machine uint16
	funcs   []goImageFunc
}

type goImageFunc struct {
	name  string
	flags byte
	code  string
	sizes []int // of the stack, and of the code where it is that, in turns; nil for C functions
}

const goImageText = 0x401000

// pclntab is the table as the linker of Go 1.20 to 1.25 writes it.
func (im goImage) pclntab() []byte {
	quantum := byte(1)
	if im.machine == machineARM64 {
		quantum = 4
	}
	names, values := []byte{}, []byte{0}
	var funcs []byte
	functab := binary.LittleEndian.AppendUint32(nil, 0)
	at, start := uint32(8*len(im.funcs)+4), uint32(0)
	functab = functab[:0]
	for _, f := range im.funcs {
		functab = binary.LittleEndian.AppendUint32(functab, start)
		functab = binary.LittleEndian.AppendUint32(functab, at+uint32(len(funcs)))
		pcsp := uint32(0)
		if f.sizes != nil {
			pcsp = uint32(len(values))
			last := -1
			for i := 0; i+1 < len(f.sizes); i += 2 {
				values = binary.AppendVarint(values, int64(f.sizes[i]-last))
				values = binary.AppendUvarint(values, uint64(f.sizes[i+1])/uint64(quantum))
				last = f.sizes[i]
			}
			values = append(values, 0)
		}
		for _, v := range []uint32{start, uint32(len(names)), 0, 0, pcsp, 0, 0, 0, 0, 1} {
			funcs = binary.LittleEndian.AppendUint32(funcs, v)
		}
		funcs = append(funcs, 0, f.flags, 0, 0)
		funcs = append(funcs, make([]byte, 12)...)
		names = append(names, f.name+"\x00"...)
		start += uint32(len(f.code))
	}
	functab = binary.LittleEndian.AppendUint32(functab, start)

	b := binary.LittleEndian.AppendUint32(nil, 0xfffffff1)
	b = append(b, 0, 0, quantum, 8)
	word := func(v int) { b = binary.LittleEndian.AppendUint64(b, uint64(v)) }
	word(len(im.funcs))
	word(1) // files
	word(goImageText)
	const header = 8 + 8*8
	word(header)
	for _, off := range []int{len(names), len(names), len(names), len(names) + len(values)} { // units, files, values, funcs
		word(header + off)
	}
	return slices.Concat(b, names, values, functab, funcs)
}

// file is the program with a table that may be another one.
func (im goImage) file(pclntab []byte) goFile {
	var code []byte
	for _, f := range im.funcs {
		code = append(code, f.code...)
	}
	n := uint64(len(code))
	b := append(code, pclntab...)
	h := &object.Headers{
		Is64:     true,
		Machine:  im.machine,
		Segments: []object.Segment{{Type: object.SegmentLoad, Flags: object.SegmentExec, Filesz: n, Memsz: n, Vaddr: goImageText}},
		Sections: []object.Section{{Name: ".gopclntab", Off: n, Size: uint64(len(pclntab))}},
	}
	arch := AMD64
	if im.machine == machineARM64 {
		arch = ARM64
	}
	return goFile{r: bytes.NewReader(b), size: int64(len(b)), headers: h, arch: arch, base: goImageText &^ 0xffff}
}

func words32(w ...uint32) string {
	var b []byte
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return string(b)
}

const (
	nop      = 0xd503201f
	flagTop  = byte(gotab.TopFrame)
	flagAsm  = byte(gotab.Assembly)
	flagMove = byte(gotab.Assembly | gotab.SPWrite)
)

var goImages = []goImage{
	{machineAMD64, []goImageFunc{
		{name: "main.compiled", code: strings.Repeat("\x90", 40), sizes: []int{0, 10, 8, 3, 64, 20, 8, 1, 0, 1, 64, 5}},
		{name: "main.before121", code: strings.Repeat("\x90", 40), sizes: []int{0, 10, 64, 30}},
		{name: "main.huge", code: strings.Repeat("\x90", 20), sizes: []int{0, 2, 8, 3, 1 << 20, 15}},
		{name: "from_c", code: strings.Repeat("\x90", 12)},
		{name: "runtime.goexit", flags: flagAsm | flagTop, code: strings.Repeat("\x90", 6), sizes: []int{0, 6}},
		{name: "runtime.systemstack", flags: flagMove, code: "\x55\x48\x89\xe5" + strings.Repeat("\x90", 12), sizes: []int{0, 1, 8, 14, 0, 1}},
		{name: "runtime.morestack", flags: flagMove, code: "\x90\x90\x48\x8b\x63\x38" + strings.Repeat("\x90", 10), sizes: []int{0, 16}},
		{name: "runtime.sigtramp", flags: flagAsm | flagTop, code: "\x48\x83\xec\x30\x48\x89\x6c\x24\x28" + strings.Repeat("\x90", 6) + "\xcc", sizes: []int{0, 4, 48, 11}},
		{name: "runtime.sigreturn__sigaction", flags: flagAsm, code: "\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05\xcc", sizes: []int{0, 10}},
		{name: "asm.odd", flags: flagAsm, code: strings.Repeat("\x90", 8), sizes: []int{0, 2, 2, 6}},
	}},
	{machineARM64, []goImageFunc{
		{name: "main.compiled", code: strings.Repeat(words32(nop), 10), sizes: []int{0, 8, 32, 24, 0, 4, 32, 4}},
		{name: "main.large", code: strings.Repeat(words32(nop), 10), sizes: []int{0, 16, 512, 24}},
		{name: "runtime.systemstack", flags: flagMove, code: words32(0xf81f0ffe, storeFP, 0xd10023ff, callLabel, 0x9100007f, callReg|3<<5, loadFP|0x60<<7, nop), sizes: []int{0, 4, 16, 24, 0, 4}},
		{name: "runtime.asmcgocall", flags: flagMove, code: words32(0xf81f0ffe, storeFP, 0xd10023ff, 0x9100001f, loadFP|0x60<<7, nop, 0x910000bf, nop), sizes: []int{0, 4, 16, 28}},
		{name: "gogo", flags: flagMove, code: words32(nop, callLabel, 0x9100001f, nop), sizes: []int{0, 16}},
		{name: "crosscall2", flags: flagAsm, code: words32(0xd10303ff, nop, pairSP|22<<15, nop), sizes: []int{0, 4, 192, 12}},
		{name: "main.leaf", flags: flagAsm, code: words32(0xd10043ff, nop), sizes: []int{0, 4, 16, 4}},
		{name: "runtime.sigpanic", flags: flagAsm, code: words32(0xf81e0ffe, storeFP, nop), sizes: []int{0, 4, 32, 8}},
	}},
}

func TestGoRows(t *testing.T) {
	type row struct {
		fn   string
		off  uint32
		rule Rule
	}
	sp := func(words, frame uint16) Rule { return NewRule(KindSP, words, frame) }
	want := [][]row{{
		{"main.compiled", 0, sp(1, 0)}, {"main.compiled", 10, sp(2, 2)}, {"main.compiled", 13, sp(9, 2)},
		{"main.compiled", 33, sp(2, 2)}, {"main.compiled", 34, sp(1, 0)}, {"main.compiled", 35, sp(9, 2)},
		{"main.before121", 0, sp(1, 0)}, {"main.before121", 10, sp(9, 0)}, {"main.before121", 15, sp(9, 2)},
		{"main.huge", 0, sp(1, 0)}, {"main.huge", 2, sp(2, 2)}, {"main.huge", 5, Rule(KindFrame)},
		{"from_c", 0, Rule(KindNone)},
		{"runtime.goexit", 0, Rule(KindEnd)},
		{"runtime.systemstack", 0, sp(1, 0)}, {"runtime.systemstack", 1, sp(2, 2)},
		{"runtime.systemstack", 4, NewRule(KindGoSwitch, GoSwitchFrame, 2)}, {"runtime.systemstack", 15, sp(1, 0)},
		{"runtime.morestack", 6, NewRule(KindGoSwitch, GoSwitchMorestack, 0)},
		{"runtime.sigtramp", 0, sp(1, 0)}, {"runtime.sigtramp", 4, sp(7, 0)}, {"runtime.sigtramp", 9, sp(7, 2)},
		{"runtime.sigtramp", 15, Rule(KindSignal)}, // the byte that a return there is looked up at
		{"asm.odd", 0, sp(1, 0)},                   // and then none to the end
	}, {
		{"main.compiled", 0, sp(0, 0)}, {"main.compiled", 8, NewRule(KindLR, 4, 4)}, {"main.compiled", 12, sp(4, 5)},
		{"main.compiled", 32, sp(0, 0)}, {"main.compiled", 36, sp(4, 5)},
		{"main.large", 0, sp(0, 0)}, {"main.large", 16, sp(64, 65)},
		{"runtime.systemstack", 0, sp(0, 0)}, {"runtime.systemstack", 4, NewRule(KindLR, 2, 2)}, {"runtime.systemstack", 8, sp(2, 3)},
		{"runtime.systemstack", 12, NewRule(KindGoSwitch, GoSwitchFrame, 3)}, {"runtime.systemstack", 24, sp(2, 3)}, {"runtime.systemstack", 28, sp(0, 0)},
		{"runtime.asmcgocall", 4, NewRule(KindLR, 2, 2)}, {"runtime.asmcgocall", 8, sp(2, 3)},
		{"runtime.asmcgocall", 16, NewRule(KindGoSwitch, GoSwitchAsmcgocall, 0)}, {"runtime.asmcgocall", 28, sp(2, 3)},
		{"gogo", 0, sp(0, 0)}, {"gogo", 5, Rule(KindEnd)}, // a leaf at the call has LR still
		{"crosscall2", 0, sp(0, 0)}, {"crosscall2", 4, sp(24, 0)}, {"crosscall2", 12, sp(24, 2)},
		{"main.leaf", 0, sp(0, 0)}, {"main.leaf", 4, sp(2, 0)},
		{"runtime.sigpanic", 4, NewRule(KindLR, 6, 6)}, {"runtime.sigpanic", 8, sp(6, 7)},
	}}
	for i, im := range goImages {
		f := im.file(im.pclntab())
		rows, stats, err := goRows(f)
		if err != nil {
			t.Fatal(err)
		}
		checkGoRows(t, f, rows)
		var got []row
		for _, r := range rows[:len(rows)-1] {
			off := r.PC - uint32(goImageText-f.base)
			for _, fn := range im.funcs {
				if off < uint32(len(fn.code)) {
					got = append(got, row{fn.name, off, r.Rule})
					break
				}
				off -= uint32(len(fn.code))
			}
		}
		if !slices.Equal(got, want[i]) {
			for j := range max(len(got), len(want[i])) {
				switch {
				case j >= len(got):
					t.Errorf("arch %d: no %v", f.arch, want[i][j])
				case j >= len(want[i]):
					t.Errorf("arch %d: %v", f.arch, got[j])
				case got[j] != want[i][j]:
					t.Errorf("arch %d: %v, want %v", f.arch, got[j], want[i][j])
				}
			}
		}
		if stats.Damaged != 0 {
			t.Errorf("arch %d: %+v", f.arch, stats)
		}
	}
}

// checkGoRows checks what holds of all rows.
func checkGoRows(t *testing.T, f goFile, rows []Row) {
	t.Helper()
	for i, r := range rows {
		if i > 0 && (r.PC <= rows[i-1].PC || r.Rule == rows[i-1].Rule) {
			t.Fatalf("row %v behind %v", r, rows[i-1])
		}
	}
	if len(rows) == 0 || rows[len(rows)-1].Rule != Rule(KindNone) {
		t.Fatalf("rows do not end with none: %v", rows)
	}
	var code uint64
	for _, s := range f.headers.Segments {
		code += s.Filesz
	}
	if n := uint64(len(rows)); n > min(code, uint64(f.size))+128 {
		t.Fatalf("%d rows for %d bytes of code", n, code)
	}
}

func TestGoRowsErrors(t *testing.T) {
	im := goImages[0]
	good := im.pclntab()
	change := func(off int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[off:], v)
		return b
	}
	funcs := int(binary.LittleEndian.Uint64(good[8+7*8:]))
	tests := []struct {
		name    string
		pclntab []byte
		want    error // nil: it loses only functions
		damaged int
	}{
		{"no table", []byte("\x7fELF, and more"), gotab.ErrNone, 0},
		{"cut", good[:40], gotab.ErrBad, 0},
		{"functions in disorder", change(funcs+8, 0xff, 0xff), gotab.ErrBad, 0},
		{"a func behind the end", change(funcs+4, 0xff, 0xff, 0xff), nil, 1},
		{"stack sizes behind the end", change(funcs+4+8*len(im.funcs)+16, 0xff, 0xff, 0xff), nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := im.file(tt.pclntab)
			rows, stats, err := goRows(f)
			if !errors.Is(err, tt.want) || err != nil && rows != nil || stats.Damaged != tt.damaged {
				t.Fatalf("%d rows, %+v, %v", len(rows), stats, err)
			}
			if err == nil {
				checkGoRows(t, f, rows)
			}
		})
	}
}

func FuzzGoRows(f *testing.F) {
	for i, im := range goImages {
		var code []byte
		for _, fn := range im.funcs {
			code = append(code, fn.code...)
		}
		f.Add(im.pclntab(), code, i == 1)
	}
	f.Fuzz(func(t *testing.T, pclntab, code []byte, arm64 bool) {
		im := goImage{machine: machineAMD64, funcs: []goImageFunc{{code: string(code)}}}
		if arm64 {
			im.machine = machineARM64
		}
		file := im.file(pclntab)
		rows, _, err := goRows(file)
		if err != nil {
			if rows != nil {
				t.Fatalf("%d rows with %v", len(rows), err)
			}
			return
		}
		checkGoRows(t, file, rows)
	})
}

// TestGoPrologues compares what is taken for granted of compiled functions with their code.
func TestGoPrologues(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			if arch != runtime.GOARCH && testing.Short() {
				t.Skip("compiles the standard library")
			}
			path := filepath.Join(t.TempDir(), "program")
			cmd := exec.Command(testutil.NeedTool(t, "go"), "build", "-o", path, "cmd/vet")
			cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
			if b, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, b)
			}
			f := openGo(t, path)
			tab, err := gotab.Find(f.r, f.size, f.headers)
			if err != nil {
				t.Fatal(err)
			}
			g := goCompiler{goFile: f, tab: tab, file: object.NewWindow(f.r, 0, uint64(f.size))}
			compared, large := 0, 0
			err = tab.Each(func(fn gotab.Func) bool {
				in, ok := tab.Info(fn)
				if !ok || in.Flags&gotab.Assembly != 0 {
					return true
				}
				tab.StackSizes(in, func(from, _ uint64, size int32) bool {
					if size == 0 {
						return true
					}
					want := goFrame{arch: f.arch, at: never, set: never, lr: never, lost: never, assembly: true}
					got := want
					got.assembly = false
					g.findFrame(&want, fn, from, size)
					g.findFrame(&got, fn, from, size)
					if got.slot != want.slot || got.at != want.at || got.lr != want.lr || got.lrSlot != want.lrSlot {
						t.Errorf("%s, %d bytes of stack: %+v, by its code %+v", tab.Name(in), size, got, want)
					}
					if compared++; size > 0xf0 {
						large++
					}
					return false
				})
				return true
			})
			if err != nil || compared < 5000 || arch == "arm64" && large < 100 {
				t.Errorf("%d functions compared, %d with large frames, %v", compared, large, err)
			}
			t.Logf("%d functions compared, %d with large frames", compared, large)
		})
	}
}

func goCompilerPath(t testing.TB) string {
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(path, "tool", "-n", "compile").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestGoRowsSize bounds the rows by the code of the compiler, a large program.
func TestGoRowsSize(t *testing.T) {
	testutil.NeedTool(t, "go")
	f := openGo(t, goCompilerPath(t))
	rows, stats, err := goRows(f)
	if err != nil {
		t.Fatal(err)
	}
	checkGoRows(t, f, rows)
	text := textSize(f.headers)
	t.Logf("%d rows for %d functions, %.1f KB for each of %.1f MB", len(rows), stats.Functions, float64(8*len(rows))/1e3/(float64(text)/1e6), float64(text)/1e6)
	if perMB := uint64(len(rows)) * 8 << 20 / text; perMB > 160<<10 || stats.Damaged > 0 {
		t.Errorf("%d bytes for each MB of code, %+v", perMB, stats)
	}
}

func BenchmarkGoRows(b *testing.B) {
	f := openGo(b, goCompilerPath(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := goRows(f); err != nil {
			b.Fatal(err)
		}
	}
}
