package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/testutil"
)

// A dumped is one signal that testdata/selfwalk.c wrote: registers and stack,
// and what libgcc's unwinder made of them.
type dumped struct {
	gpr           [17]uint64
	stack, signal region
	want          []uint64 // addresses, from the interrupted instruction on
}

type region struct {
	addr  uint64
	words []byte
}

func (r region) ReadUint64(addr uint64) (uint64, bool) {
	off := addr - r.addr
	if addr < r.addr || off+8 > uint64(len(r.words)) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(r.words[off:]), true
}

// ReadUint64 makes a dumped the memory of its process.
func (d *dumped) ReadUint64(addr uint64) (uint64, bool) {
	if v, ok := d.stack.ReadUint64(addr); ok {
		return v, ok
	}
	return d.signal.ReadUint64(addr)
}

// A mapped is the code of one file in a process.
type mapped struct {
	start, end, bias uint64 // bias: address less ELF virtual address
	path             string
	table            *Table
}

func readDump(t *testing.T, b []byte) (list []dumped, maps []mapped) {
	t.Helper()
	c := cursor{b: b}
	area := func() region {
		addr, n := c.u64(), c.u64()
		return region{addr, c.take(n)}
	}
	for c.u64() == 1 {
		var d dumped
		for i := range d.gpr {
			d.gpr[i] = c.u64()
		}
		d.stack, d.signal = area(), area()
		for range c.u64() {
			d.want = append(d.want, c.u64())
		}
		if c.bad {
			t.Fatal("dump is cut")
		}
		list = append(list, d)
	}
	vdso := c.take(c.u64())
	for line := range strings.Lines(string(b[c.off:])) {
		var start, end, off uint64
		var perm, path string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %s %s", &start, &end, &perm, &off, new(string), new(string), &path); n < 7 || perm[2] != 'x' {
			continue
		}
		if path == "[vdso]" {
			maps = append(maps, mapped{start, end, start, path, tableOf(t, path, vdso)})
		} else if strings.HasPrefix(path, "/") {
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			maps = append(maps, mapped{start, end, start - vaddr(t, file, off), path, tableOf(t, path, file)})
		}
	}
	return list, maps
}

// vaddr is the ELF virtual address of what is at an offset in the file.
func vaddr(t *testing.T, file []byte, off uint64) uint64 {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && off >= p.Off&^0xfff && off < p.Off+p.Filesz {
			return p.Vaddr + off - p.Off
		}
	}
	t.Fatalf("no code at offset %#x", off)
	return 0
}

func tableOf(t *testing.T, path string, file []byte) *Table {
	t.Helper()
	table, err := build(file)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	checkRows(t, table)
	return table
}

// rule looks up what holds for a frame.
func rule(maps []mapped, regs *Regs) Rule {
	pc := regs.IP
	if !regs.Leaf {
		pc--
	}
	for _, m := range maps {
		if m.start <= pc && pc < m.end {
			return m.table.Lookup(pc - m.bias)
		}
	}
	return Rule(KindNone)
}

// walk returns the addresses of a stack, and how it ended.
func walk(maps []mapped, regs Regs, mem Memory) ([]uint64, StepResult) {
	pcs := []uint64{regs.IP}
	for len(pcs) < 2000 {
		if r := Step(AMD64, rule(maps, &regs), &regs, mem); r != StepOK {
			return pcs, r
		}
		pcs = append(pcs, regs.IP)
	}
	return pcs, StepOK
}

// TestWalk compares whole stacks, from instructions that signals interrupt at
// random, with those that libgcc's unwinder finds in the process itself.
func TestWalk(t *testing.T) {
	tests := []struct {
		name  string
		flags []string
		args  []string
	}{
		{"no frame pointers", []string{"-fomit-frame-pointer"}, []string{"1500"}},
		{"handler on a stack of its own", nil, []string{"1500", "alt"}},
		{"frame pointers", []string{"-fno-omit-frame-pointer"}, []string{"500"}},
		{"realigned, lazy PLT with endbr64", []string{"-mstackrealign", "-fcf-protection", "-Wl,-z,lazy,-z,ibtplt"}, []string{"1500"}},
		{"not optimized, not PIE", []string{"-O0", "-no-pie", "-Wl,-z,lazy"}, []string{"1500"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			program := testutil.Program(t, "../../unwind/testdata/selfwalk.c", append(tt.flags, "-lm")...)
			out, err := exec.Command(program, tt.args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			list, maps := readDump(t, out)
			frames, differ, lazy := 0, 0, 0
			var kinds [16]int
			for i, d := range list {
				regs := Regs{IP: d.gpr[16], SP: d.gpr[7], FP: d.gpr[6], GPR: d.gpr, Leaf: true}
				kinds[rule(maps, &regs).Kind()]++
				got, end := walk(maps, regs, &d)
				frames += len(got)
				behind := regs
				behind.IP--
				switch {
				case end == StepEnd && (rule(maps, &regs).Kind() == KindReg || rule(maps, &behind).Kind() == KindReg):
					// Here gcc's unwind information misleads libgcc, see leaveRealigned: it skips
					// frames, or crashes.
					if len(got) < len(d.want) {
						t.Errorf("stack %d\n%s\nlibgcc:\n%s", i, places(maps, got), places(maps, d.want))
					}
				case end == StepLostRegister && len(got) < len(d.want) && slices.Equal(got, d.want[:len(got)]):
					lazy++ // _dl_runtime_resolve finds its frame by RBX, which is not followed
				case !slices.Equal(got, d.want) || end != StepEnd:
					differ++
					if differ < 5 {
						t.Errorf("stack %d ends with %d\n%s\nlibgcc:\n%s", i, end, places(maps, got), places(maps, d.want))
					}
				}

				// From the handler's return on: the kernel put the address of the code that
				// returns from it below the context.
				back, _ := d.signal.ReadUint64(d.signal.addr)
				before := Regs{IP: back, SP: d.signal.addr + 8}
				if r := rule(maps, &before); r != Rule(KindSignal) {
					t.Fatalf("rule of the handler's return address is %#x", r)
				}
				if r := Step(AMD64, Rule(KindSignal), &before, &d); r != StepOK || before != regs {
					t.Fatalf("behind the signal frame: %d, %+v, want %+v", r, before, regs)
				}
			}
			if lazy*50 > len(list) {
				t.Errorf("%d of %d stacks end where the linker resolves a symbol", lazy, len(list))
			}
			t.Logf("%d stacks, %d frames, %d differ, %d in lazy binding, leaves by kind %v", len(list), frames, differ, lazy, kinds)
		})
	}
}

// places prints addresses by file.
func places(maps []mapped, pcs []uint64) string {
	var b strings.Builder
	for _, pc := range pcs[:min(len(pcs), 30)] {
		for _, m := range maps {
			if m.start <= pc && pc < m.end {
				fmt.Fprintf(&b, " %s+%#x", m.path[strings.LastIndexByte(m.path, '/')+1:], pc-m.bias)
			}
		}
	}
	return b.String()
}
