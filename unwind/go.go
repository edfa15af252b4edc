package unwind

import (
	"fmt"
	"io"
	"math"
	"strings"

	"hotframe/internal/gotab"
	"hotframe/internal/object"
)

// A goFile is an ELF file of size bytes that may be a Go program.
type goFile struct {
	r       io.ReaderAt
	size    int64
	headers *object.Headers
	arch    Arch
	base    uint64 // of the rows
}

// goRows compiles the stack sizes of a Go program to rows. They are sorted,
// begin with the first function and end with a KindNone where the last one
// ends; C functions in between, which Go's linker put there, are KindNone too.
// The error is gotab.ErrNone if the file is not a Go program.
//
// Most of the rows are KindSP, which is right at every instruction, in
// prologues and epilogues too, and needs no frame pointer. The frame pointer is
// followed all the same, for it alone leads from the stack of a thread (g0) to
// that of a goroutine, and C code may need it.
func goRows(f goFile) ([]Row, Stats, error) {
	t, err := gotab.Find(f.r, f.size, f.headers)
	if err != nil {
		return nil, Stats{}, err
	}
	g := goCompiler{goFile: f, tab: t, file: object.NewWindow(f.r, 0, uint64(f.size))}
	g.maxRows = g.codeSize()/minGoCode + 64
	g.rows = make([]Row, 0, min(t.Count*usualGoRows, g.maxRows))
	end, outside := f.base, false
	err = t.Each(func(fn gotab.Func) bool {
		if fn.Entry < end || fn.End-f.base > math.MaxUint32 {
			outside = true
			return false
		}
		end = fn.End
		g.function(fn)
		return uint64(len(g.rows)) <= g.maxRows
	})
	switch {
	case err != nil:
		return nil, Stats{}, err
	case outside:
		return nil, Stats{}, fmt.Errorf("function at %#x: %w", end, gotab.ErrBad)
	case uint64(len(g.rows)) > g.maxRows:
		return nil, Stats{}, fmt.Errorf("more than %d rows for %d bytes of code: %w", g.maxRows, g.codeSize(), gotab.ErrBad)
	}
	g.add(end, Rule(KindNone))
	return g.rows, g.stats, nil
}

const (
	usualGoRows = 10 // of a function
	minGoCode   = 4  // bytes of code a row, over a whole program; some 60 are usual
)

// Where the stack goes on, of a KindGoSwitch: its offset.
//
// Go's runtime runs on three kinds of stacks: a goroutine's, the thread's own
// (g0) and the one for signals. What the crossings need:
//
//   - systemstack leaves the frame pointer register at its frame on the
//     goroutine's stack: GoSwitchFrame. So it is on amd64 from Go 1.21 on, and on
//     arm64 in Go 1.26, not yet in 1.24; the code tells. nanotime1, walltime, time.now and
//     vgetrandom1 did so always, in which the vDSO runs on g0.
//   - asmcgocall does that on amd64 from Go 1.21 on; C code keeps RBP, or its
//     unwind information tells where it is. On arm64 it loads g0's, but what it
//     saved on g0 tells where it came from: GoSwitchAsmcgocall. On amd64
//     before Go 1.21 that is at 40 and 48 from SP, and no frame pointer saved.
//   - cgocallback, which C code called on g0, leaves the frame pointer
//     register at its frame there and runs on the goroutine's stack.
//     GoSwitchFrame leads to the C code, and through asmcgocall back to the
//     goroutine: all frames in their order in time. Go's own traceback leaves
//     the C code out.
//   - mcall never returns, and the goroutine that it left may run elsewhere at
//     the same time: on g0 it is KindEnd, as it is for Go's own traceback. So
//     are gogo, and the new thread in clone.
//   - morestack clears the frame pointer. Unless newstack has given the
//     thread to the scheduler, the goroutine is at its saved state:
//     GoSwitchMorestack. That needs the thread's current g, in R14 (amd64) or
//     x28 (arm64) where the leaf is Go code, else in TLS (8 below FS base on
//     amd64, programs with cgo only on arm64). From there g.m is at 48, m.curg at an offset that
//     changes with versions (an operand in systemstack has it), and if that is
//     not nil, in it g.sched.sp at 56, pc at 64, lr at 88 and bp at 96
//     (in Go 1.26; 96 and 104 up to 1.24): the registers of the function that called
//     morestack, whose stack size is 0 there. On arm64 its return address is in lr.
//   - systemstack that loses the frame pointer: GoSwitchSystemstack. The
//     return address is at g.sched.sp of m.curg; the CFA 8 above it (amd64, with the
//     frame pointer in g.sched.bp), or 16 (arm64, with the frame pointer 8 below it).
const (
	GoSwitchFrame       uint16 = 1 + iota // CFA = FP + 8*frame, maybe below SP; the caller's FP at FP; the return address at CFA - 8 (amd64) or FP + 8 (arm64)
	GoSwitchAsmcgocall                    // see stepGoSwitch
	GoSwitchMorestack                     // m.curg.sched
	GoSwitchSystemstack                   // m.curg.sched.sp
)

// stepGoSwitch is Step for KindGoSwitch. What needs data of the runtime that
// is not on the stack is StepGoSwitch.
func stepGoSwitch(arch Arch, r Rule, regs *Regs, m reader) StepResult {
	next := Regs{PAC: regs.PAC}
	switch r.Offset() {
	case GoSwitchFrame:
		next.SP, next.FP = regs.FP+8*uint64(r.Frame()), m.read(regs.FP)
		if arch == AMD64 {
			next.IP = m.read(next.SP - 8)
		} else {
			next.IP = m.read(regs.FP + 8)
		}
	case GoSwitchAsmcgocall:
		if arch != ARM64 || regs.Leaf {
			return StepGoSwitch
		}
		// The old g, and how deep its stack was; without one the old SP.
		sp := m.read(regs.SP + 8)
		if g := m.read(regs.SP); g != 0 {
			const stackHi = 8 // in g
			sp = m.read(g+stackHi) - sp
		}
		next.SP, next.FP, next.IP = sp+16, m.read(sp-8), m.read(sp)
	default:
		return StepGoSwitch
	}
	switch {
	case m.failed:
		return StepUnreadable
	case next.IP == 0:
		return StepEnd
	}
	*regs = next
	return StepOK
}

// A goSpecial says what is peculiar to a function of the runtime.
type goSpecial struct {
	end      bool // nothing calls it, at all its instructions
	called   bool // though it has the flag TopFrame
	signal   bool // the kernel's handlers return to it
	injected bool // a signal handler made the call; on arm64 it saved LR on the stack before
	moves    bool // SP to another stack; since Go 1.17 there is a flag
	stays    bool // though it has that flag
	after    Rule // where it has moved SP and there is no frame pointer
	deeper   bool // where the stack is larger than its frame it has moved SP
}

// goSpecials are in runtime/asm_*.s and runtime/sys_linux_*.s.
var goSpecials = map[string]goSpecial{
	"runtime.goexit":               {end: true},
	"runtime.mstart":               {end: true},
	"runtime.rt0_go":               {end: true},
	"runtime.sigtramp":             {called: true},
	"runtime.sigreturn":            {signal: true}, // before Go 1.21
	"runtime.sigreturn__sigaction": {signal: true},
	"runtime.sigpanic":             {injected: true},
	"runtime.asyncPreempt":         {injected: true},
	"runtime.morestack_noctxt":     {stays: true},
	"runtime.mcall":                {moves: true, deeper: true, after: Rule(KindEnd)},
	"runtime.gogo":                 {moves: true, after: Rule(KindEnd)},
	"gogo":                         {moves: true, after: Rule(KindEnd)},
	"runtime.clone":                {moves: true, after: Rule(KindEnd)},
	"runtime.morestack":            {moves: true, after: NewRule(KindGoSwitch, GoSwitchMorestack, 0)},
	"runtime.systemstack":          {moves: true, after: NewRule(KindGoSwitch, GoSwitchSystemstack, 0)},
	"runtime.asmcgocall":           {moves: true, after: NewRule(KindGoSwitch, GoSwitchAsmcgocall, 0)},
	"runtime.cgocallback":          {moves: true},
	"runtime.cgocallback_gofunc":   {moves: true}, // before Go 1.16
	"runtime.nanotime1":            {moves: true},
	"runtime.walltime1":            {moves: true},
	"runtime.walltime":             {moves: true},
	"time.now":                     {moves: true},
	"runtime.sigfwd":               {moves: true},
	"runtime.callCgoSigaction":     {moves: true},
	"runtime.callCgoMmap":          {moves: true},
	"runtime.callCgoMunmap":        {moves: true},
}

// special tells by name. Only the runtime and assembly have such functions, so
// that of most the name need not be read.
func (g *goCompiler) special(in gotab.Info) goSpecial {
	if g.tab.HasFlags() && in.ID == 0 && in.Flags&gotab.Assembly == 0 {
		return goSpecial{}
	}
	name := string(g.tab.Name(in))
	s := goSpecials[name]
	switch {
	case in.Flags&gotab.TopFrame != 0 && !s.called:
		s.end = true
	case strings.HasPrefix(name, "_rt0_") && !strings.Contains(name, "_lib"):
		s.end = true // the kernel starts the program there
	}
	s.moves = (s.moves || in.Flags&gotab.SPWrite != 0) && !s.stays
	return s
}

// A goCompiler makes rows of functions in order.
type goCompiler struct {
	goFile
	tab     *gotab.Table
	file    *object.Window
	rows    []Row
	maxRows uint64
	stats   Stats
}

// add appends a row. Where the rule does not change there is none.
func (g *goCompiler) add(addr uint64, rule Rule) {
	pc := uint32(addr - g.base)
	if n := len(g.rows); n > 0 && g.rows[n-1].PC >= pc {
		g.rows = g.rows[:n-1]
	}
	if n := len(g.rows); n == 0 || g.rows[n-1].Rule != rule {
		g.rows = append(g.rows, Row{pc, rule})
	}
}

// codeSize is how much executable code the file has.
func (g *goCompiler) codeSize() uint64 {
	n := uint64(0)
	for _, s := range g.headers.Segments {
		if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 && s.Off < uint64(g.size) {
			n += min(s.Filesz, uint64(g.size)-s.Off)
		}
	}
	return min(n, uint64(g.size))
}

// code returns up to n bytes of code, valid until the next call.
func (g *goCompiler) code(addr uint64, n uint64) []byte {
	for _, s := range g.headers.Segments {
		if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 && s.Vaddr <= addr && addr-s.Vaddr < s.Filesz {
			return g.file.At(s.Off+addr-s.Vaddr, int(min(n, s.Filesz-(addr-s.Vaddr), object.WindowSize)))
		}
	}
	return nil
}

// function adds the rows of one function.
func (g *goCompiler) function(f gotab.Func) {
	if f.Entry == f.End {
		return
	}
	in, ok := g.tab.Info(f)
	if !ok {
		g.stats.Damaged++
	}
	if !ok || !in.Stack { // C functions have no stack sizes
		g.add(f.Entry, Rule(KindNone))
		return
	}
	g.stats.Functions++
	c := goFrame{special: g.special(in), arch: g.arch, at: never, set: never, lr: never, lost: never}
	c.assembly = in.Flags&gotab.Assembly != 0 || !g.tab.HasFlags()
	switch {
	case c.special.end:
		g.add(f.Entry, Rule(KindEnd))
		return
	case c.special.signal:
		g.signal(f)
		return
	}
	if c.special.moves {
		g.findMoves(&c, f)
	}
	end := f.Entry
	g.tab.StackSizes(in, func(from, to uint64, size int32) bool {
		if to <= from || size < 0 {
			return false
		}
		to = min(to, f.End)
		if size > 0 && c.size == 0 && from < f.End {
			g.findFrame(&c, f, from, size)
		}
		for pc := from; pc < to; pc = c.next(pc, to) {
			g.add(pc, c.rule(pc, span{from, to}, size))
		}
		end = to
		return end < f.End
	})
	if end == f.Entry { // they may end before the padding behind the function
		g.stats.Damaged++
		g.add(f.Entry, Rule(KindNone))
	}
}

// signal adds the row of the code that handlers of signals return to. What
// returns there is looked up as a call is, by the byte before: mostly padding.
func (g *goCompiler) signal(f gotab.Func) {
	const int3 = 0xcc
	entry := f.Entry
	n := len(g.rows)
	if b := g.code(entry-1, 1); g.arch == AMD64 && len(b) == 1 && b[0] == int3 && n > 0 && uint64(g.rows[n-1].PC) < entry-1-g.base {
		entry--
	}
	g.add(entry, Rule(KindSignal))
}

// never is an address that no function reaches.
const never = ^uint64(0)

// A goFrame says how a function saves the frame pointer (and on arm64 the
// return address), found where it first takes stack: size bytes then.
type goFrame struct {
	arch     Arch
	special  goSpecial
	assembly bool
	size     int32
	slot     uint16   // the frame pointer is saved in at CFA - 8*slot,
	at       uint64   // from here on, as long as the stack is not smaller again
	set      uint64   // from here on the register leads to the frame, in functions that move SP
	lr       uint64   // arm64: from here on the return address is saved at CFA - 8*lrSlot
	lrSlot   uint16   // where the frame pointer is not yet
	lost     uint64   // arm64: from here on the link register has been overwritten, if the function takes no stack
	moved    []uint64 // instructions behind those that move SP elsewhere, where set is never
}

type span struct{ from, to uint64 }

// next is where the rule may change next, before to.
func (c *goFrame) next(pc, to uint64) uint64 {
	if last := to - c.last(); pc < last {
		to = last
	}
	for _, a := range [...]uint64{c.at, c.set, c.lr, c.lost} {
		if pc < a && a < to {
			to = a
		}
	}
	for _, a := range c.moved {
		if pc < a && a < to {
			to = a
		}
	}
	return to
}

// last is the size of an instruction at the end of those of one stack size
// that has a rule of its own: on arm64, in functions that move SP, it is behind
// the one that restores the frame pointer; in mcall behind the one that clears it.
func (c *goFrame) last() uint64 {
	switch {
	case c.arch == ARM64 && c.byFrame():
		return 4
	case c.arch == AMD64 && c.special.deeper:
		return 1
	}
	return 0
}

// byFrame: SP is elsewhere, but the frame pointer stays.
func (c *goFrame) byFrame() bool { return c.special.moves && c.set != never }

// onOtherStack: of the instructions with one stack size, those behind the first that
// moves SP, up to the last one, which moves it back; if there is but one, all behind it.
func (c *goFrame) onOtherStack(pc uint64, s span) bool {
	first, last, n := never, s.to, 0
	for _, a := range c.moved {
		if s.from < a && a <= s.to {
			n++
			first = min(first, a)
			if n > 1 {
				last = a
			}
		}
	}
	return first <= pc && pc < last
}

// rule is the rule at pc, in the instructions of s which all have size bytes
// of stack.
func (c *goFrame) rule(pc uint64, s span, size int32) Rule {
	if size%8 != 0 {
		return Rule(KindNone)
	}
	open := c.size > 0 && size >= c.size
	last := pc+c.last() >= s.to
	frame := c.size
	if c.set == never {
		frame = 0
	}
	if c.special.deeper && (size > frame || last && size > 0) || c.onOtherStack(pc, s) || c.size == 0 && pc >= c.lost {
		return c.special.after
	}
	if c.byFrame() && open && pc >= c.set && !last {
		return NewRule(KindGoSwitch, GoSwitchFrame, c.slot)
	}
	words, extra := uint64(size)/8, uint16(0)
	if c.arch == AMD64 {
		words++ // the return address
	} else if c.special.injected {
		words, extra = words+2, 2
	}
	saved := open && pc >= c.at
	if words > 1<<16-1 {
		if c.arch == AMD64 && saved && c.slot == 2 {
			return Rule(KindFrame)
		}
		return Rule(KindNone)
	}
	switch {
	case saved && c.slot+extra > FrameMax:
		return Rule(KindNone)
	case saved:
		return NewRule(KindSP, uint16(words), c.slot+extra)
	case open && pc >= c.lr && c.lrSlot+extra > FrameMax:
		return Rule(KindNone)
	case open && pc >= c.lr:
		return NewRule(KindLR, uint16(words), c.lrSlot+extra)
	}
	return NewRule(KindSP, uint16(words), FrameKept)
}
