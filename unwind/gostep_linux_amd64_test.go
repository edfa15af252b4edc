package unwind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sort"
	"syscall"
	"testing"

	"hotframe/internal/gotab"
)

// goSteps is a program that runs through the runtime and through functions of
// assembly: stacks that grow, the system stack, the vDSO, signals, panics, reflection.
const goSteps = `package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"hash/crc32"
	"math/big"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"syscall"
	"time"
)

func init() { runtime.LockOSThread() }

//go:noinline
func grow(n int) int {
	var a [200]int
	for i := range a {
		a[i] = n
	}
	if n == 0 {
		return a[3]
	}
	return grow(n-1) + a[n]
}

//go:noinline
func recovers(n int) (r any) {
	defer func() { r = recover() }()
	var p *[4096]int
	return p[n]
}

//go:noinline
func big512() byte {
	var a [700 << 10]byte
	b := a[:]
	for i := 0; i < len(b); i += 64 << 10 {
		b[i] = byte(i >> 16)
	}
	return bytes.Repeat(b[:8], 2)[3]
}

func main() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	{
		grow(12)
		recovers(5)
		big512()
		runtime.ReadMemStats(new(runtime.MemStats))
		time.Now()
		b := bytes.Repeat([]byte("0123456789"), 200)
		sha256.Sum256(b)
		sha512.Sum512(b)
		crc32.ChecksumIEEE(b)
		bytes.Contains(b, []byte("99"))
		x := new(big.Int).SetBytes(b[:64])
		x.Mul(x, new(big.Int).SetBytes(b[100:163]))
		reflect.ValueOf(grow).Call([]reflect.Value{reflect.ValueOf(2)})
		syscall.Kill(os.Getpid(), syscall.SIGUSR1)
		<-c
		done := make(chan int)
		go func() { done <- grow(3) }()
		<-done
		runtime.Gosched()
	}
}
`

// goNames is the names of functions by address.
type goNames struct {
	entry []uint64
	names []string
}

func newGoNames(t testing.TB, path string) goNames {
	f := openGo(t, path)
	tab, err := gotab.Find(f.r, f.size, f.headers)
	if err != nil {
		t.Fatal(err)
	}
	var n goNames
	if err := tab.Each(func(fn gotab.Func) bool {
		in, _ := tab.Info(fn)
		n.entry = append(n.entry, fn.Entry)
		n.names = append(n.names, string(tab.Name(in)))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n goNames) isEntry(addr uint64) bool {
	_, ok := slices.BinarySearch(n.entry, addr)
	return ok
}

func (n goNames) name(addr uint64) string {
	i := sort.Search(len(n.entry), func(i int) bool { return n.entry[i] > addr })
	if i == 0 {
		return ""
	}
	return n.names[i-1]
}

func (n goNames) find(t *testing.T, name string) uint64 {
	t.Helper()
	i := slices.Index(n.names, name)
	if i < 0 {
		t.Fatalf("no %s", name)
	}
	return n.entry[i]
}

// inGo reports whether an address is in the code that the table is about.
func (t *Table) inGo(addr uint64) bool {
	return addr >= t.Base && addr < t.Base+uint64(t.Rows[len(t.Rows)-1].PC)
}

// processMemory is /proc/PID/mem.
type processMemory struct{ r io.ReaderAt }

func (m processMemory) ReadUint64(addr uint64) (uint64, bool) {
	var b [8]byte
	if _, err := m.r.ReadAt(b[:], int64(addr)); err != nil {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b[:]), true
}

// stepAny is Step, and across the stacks of Go.
func stepAny(arch Arch, r Rule, regs *Regs, mem Memory) StepResult {
	if r.Kind() == KindGoSwitch {
		return stepGoSwitch(arch, r, regs, reader{mem: mem})
	}
	return Step(arch, r, regs, mem)
}

// A tracee is a process whose first thread is stopped.
type tracee struct {
	pid    int
	exited bool
	mem    processMemory
}

func startTracee(t *testing.T, cmd *exec.Cmd) *tracee {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	p := &tracee{pid: cmd.Process.Pid}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	p.mem = processMemory{f}
	return p
}

// resume runs the tracee until it traps, with signals delivered.
func (p *tracee) resume(t *testing.T, request uintptr) {
	t.Helper()
	for sig := syscall.Signal(0); ; {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, request, uintptr(p.pid), 0, uintptr(sig), 0, 0); errno != 0 {
			t.Fatal(errno)
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(p.pid, &status, 0, nil); err != nil {
			t.Fatal(err)
		}
		p.exited = status.Exited() || status.Signaled()
		if sig = status.StopSignal(); p.exited || sig == syscall.SIGTRAP {
			return
		}
	}
}

func (p *tracee) regs(t *testing.T) syscall.PtraceRegs {
	t.Helper()
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(p.pid, &regs); err != nil {
		t.Fatal(err)
	}
	return regs
}

// runTo runs the tracee until it enters a function.
func (p *tracee) runTo(t *testing.T, addr uint64) {
	t.Helper()
	var old [1]byte
	if _, err := syscall.PtracePeekText(p.pid, uintptr(addr), old[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.PtracePokeText(p.pid, uintptr(addr), []byte{0xcc}); err != nil {
		t.Fatal(err)
	}
	p.resume(t, syscall.PTRACE_CONT)
	if p.exited {
		t.Fatal("the program ended")
	}
	regs := p.regs(t)
	if regs.Rip != addr+1 {
		t.Fatalf("stopped at %#x, not at %#x", regs.Rip, addr+1)
	}
	regs.Rip = addr
	if err := syscall.PtraceSetRegs(p.pid, &regs); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.PtracePokeText(p.pid, uintptr(addr), old[:]); err != nil {
		t.Fatal(err)
	}
}

// A call is one that was seen.
type call struct {
	fn     string // called
	ra, fp uint64 // of the caller: the address returned to, and the frame pointer
}

type site struct {
	fn string
	ra uint64
}

// calls are those seen, the latest for each address of a return address.
type calls struct {
	goNames
	at    map[uint64]call
	sites map[site]bool
}

func (c *calls) note(slot uint64, call call) {
	c.at[slot] = call
	c.sites[site{call.fn, call.ra}] = true
}

// see notes what the instruction between two states has called.
func (c *calls) see(before, now syscall.PtraceRegs, mem Memory) {
	name := c.name(now.Rip)
	top, ok := mem.ReadUint64(now.Rsp)
	old, known := c.at[now.Rsp]
	const longest = 7 // bytes of a call
	switch {
	case !ok:
	case now.Rsp == before.Rsp-8 && top > before.Rip && top-before.Rip <= longest && now.Rip != top:
		c.note(now.Rsp, call{name, top, now.Rbp})
	case now.Rsp == before.Rsp && known && old.fn == c.name(before.Rip):
		if old.fn != name { // it jumped there
			c.note(now.Rsp, call{name, old.ra, old.fp})
		}
	case c.isEntry(now.Rip) && (now.Rsp != before.Rsp || old.fn != name): // a handler of signals, a goroutine
		c.note(now.Rsp, call{name, top, now.Rbp})
	}
}

// TestGoRowsAtEveryInstruction runs a program instruction by instruction on
// one thread and notes all calls. At each instruction the rule must find the
// return address that the call of this very function pushed, and the frame
// pointer of its caller; and chains of rules the bottom of the stack.
func TestGoRowsAtEveryInstruction(t *testing.T) {
	if testing.Short() {
		t.Skip("stops several 100,000 times")
	}
	path := buildGoProgram(t, goSteps, []string{"CGO_ENABLED=0"})
	table, names := goTable(t, path), newGoNames(t, path)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1") // a preemption every 10 ms would leave no time for more
	p := startTracee(t, cmd)
	p.runTo(t, names.find(t, "main.main"))

	const chainEvery, minChecked, maxSteps = 31, 20_000, 1_000_000
	seen := calls{names, make(map[uint64]call), make(map[site]bool)}
	wrong, covered := make(map[string]int), make(map[string]bool)
	ends := make(map[StepResult]int)
	checked, moved, steps := 0, 0, 0
	regs := p.regs(t)
	for before := (syscall.PtraceRegs{}); !p.exited && steps < maxSteps; steps++ {
		seen.see(before, regs, p.mem)
		name, rule := names.name(regs.Rip), table.Lookup(regs.Rip)
		if name == "runtime.main" { // its call was not seen
			break
		}
		start := Regs{IP: regs.Rip, SP: regs.Rsp, FP: regs.Rbp, Leaf: true}
		if table.inGo(regs.Rip) && rule.Kind() != KindEnd && rule.Kind() != KindSignal {
			covered[name] = true
			r := start
			result := stepAny(AMD64, rule, &r, p.mem)
			c, ok := seen.at[r.SP-8]
			ok = ok && result == StepOK && c.fn == name && c.ra == r.IP
			switch {
			case ok && c.fp == r.FP:
				checked++
			case result == StepGoSwitch && name == "runtime.morestack":
			case result == StepOK && !ok && seen.sites[site{name, r.IP}]:
				moved++ // the runtime has copied the stack
			default:
				wrong[fmt.Sprintf("%s: result %d, return to %s, call seen %t", name, result, names.name(r.IP), ok)]++
			}
		}
		if steps%chainEvery == 0 && table.inGo(regs.Rip) {
			r, at, result := start, regs.Rip, StepOK
			for result == StepOK { // until in the vDSO at last
				if at = r.IP; !r.Leaf {
					at--
				}
				result = stepAny(AMD64, table.Lookup(at), &r, p.mem)
			}
			ends[result]++
			if result != StepEnd && table.inGo(at) && (result != StepGoSwitch || names.name(at) != "runtime.morestack") {
				wrong[fmt.Sprintf("chain from %s ends in %s with result %d", name, names.name(at), result)]++
			}
		}
		before = regs
		if p.resume(t, syscall.PTRACE_SINGLESTEP); !p.exited {
			regs = p.regs(t)
		}
	}
	t.Logf("%d instructions in %d functions: %d right, %d right on stacks that were copied; ends of chains %v",
		steps, len(covered), checked, moved, ends)
	for what, n := range wrong {
		t.Errorf("%d times %s", n, what)
	}
	if checked < minChecked || moved > checked/50 || ends[StepEnd] < minChecked/chainEvery/2 {
		t.Error("too little was compared")
	}
	for _, name := range []string{"runtime.systemstack", "runtime.nanotime1", "runtime.mcall", "runtime.morestack", "runtime.sigtramp",
		"runtime.sigpanic", "callRet", "reflect.Value.call", "main.big512"} {
		if !covered[name] {
			t.Errorf("%s did not run", name)
		}
	}
}
