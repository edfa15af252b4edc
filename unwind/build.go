package unwind

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"hotframe/internal/gotab"
	"hotframe/internal/object"
)

// Reasons why a file has no Table.
var (
	ErrNoInfo   = errors.New("no unwind information")
	ErrMachine  = errors.New("not a 64-bit ELF file for amd64 or arm64")
	ErrTooLarge = errors.New("unwind information too large")
	ErrDamaged  = errors.New("damaged unwind information")
)

const (
	machineAMD64 = 62  // EM_X86_64
	machineARM64 = 183 // EM_AARCH64

	segmentEHFrame    = 0x6474e550 // PT_GNU_EH_FRAME
	sectionCompressed = 1 << 11    // SHF_COMPRESSED
	compressedZlib    = 1          // ELFCOMPRESS_ZLIB

	// maxGap is the most bytes of padding between functions that keep the rule
	// of the function before: they are not executed.
	maxGap = 15

	// fewFunctions is what programs without unwind information of their own get
	// from the C library's startup files.
	fewFunctions = 8

	// maxRatio is far above how .debug_frame compresses, some 4:1.
	maxRatio = 32
)

// Build compiles the unwind information of an ELF file of size bytes. A
// damaged function loses only its own rules, which Table.Stats counts.
func Build(r io.ReaderAt, size int64) (*Table, error) {
	h, err := object.ReadHeaders(r, size)
	if err != nil {
		return nil, err
	}
	b := builder{r: r, size: uint64(size), h: h}
	switch {
	case h.Is64 && h.Machine == machineAMD64:
		b.machine = machines[AMD64]
	case h.Is64 && h.Machine == machineARM64:
		b.machine = machines[ARM64]
	default:
		return nil, ErrMachine
	}
	if b.text, err = executable(h); err != nil {
		return nil, err
	}
	rows, err := b.rows()
	if err != nil {
		return nil, err
	}
	rows = b.addSigreturn(rows)
	if len(rows) == 0 {
		return nil, ErrNoInfo
	}
	return &Table{Arch: b.arch, Base: b.text.base, Rows: rows, Text: textSize(h), Stats: b.stats}, nil
}

// ranges are the executable segments, ascending and without overlap.
type ranges struct {
	base uint64
	list []addrRange
}

type addrRange struct{ start, end uint64 }

// executable finds the executable segments of a file, which must lie within
// the 32 bits of a Row.
func executable(h *object.Headers) (*ranges, error) {
	var all []addrRange
	for _, s := range h.Segments {
		if end := s.Vaddr + s.Memsz; s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 && end > s.Vaddr {
			all = append(all, addrRange{s.Vaddr, end})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no executable segment: %w", ErrNoInfo)
	}
	slices.SortFunc(all, func(a, b addrRange) int { return cmp.Compare(a.start, b.start) })
	x := &ranges{base: all[0].start &^ 0xffff, list: all[:1]}
	for _, a := range all[1:] {
		last := &x.list[len(x.list)-1]
		if a.start <= last.end {
			last.end = max(last.end, a.end)
		} else {
			x.list = append(x.list, a)
		}
	}
	if span := x.list[len(x.list)-1].end - x.base; span > math.MaxUint32 {
		return nil, fmt.Errorf("code over %d bytes: %w", span, ErrTooLarge)
	}
	return x, nil
}

// of returns the range that an address is in.
func (x *ranges) of(addr uint64) (addrRange, bool) {
	i, found := slices.BinarySearchFunc(x.list, addr, func(r addrRange, addr uint64) int { return cmp.Compare(r.start, addr) })
	if !found {
		i--
	}
	if i < 0 || addr >= x.list[i].end {
		return addrRange{}, false
	}
	return x.list[i], true
}

func (x *ranges) contain(addr uint64) bool {
	_, ok := x.of(addr)
	return ok
}

func textSize(h *object.Headers) uint64 {
	var n uint64
	for _, s := range h.Sections {
		if s.Flags&(object.SectionAlloc|object.SectionExec) == object.SectionAlloc|object.SectionExec && s.Type != object.SectionNobits {
			n += s.Size
		}
	}
	if n > 0 {
		return n
	}
	for _, s := range h.Segments {
		if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 {
			n += s.Filesz
		}
	}
	return n
}

// A builder makes the rows of one file.
type builder struct {
	machine
	r     io.ReaderAt
	size  uint64
	h     *object.Headers
	text  *ranges
	looks int // at code
	stats Stats
}

// rows decides between the sources: .eh_frame, which nearly all programs and
// libraries carry; in Go programs, where it describes C code at most, pclntab for the
// rest; in others .debug_frame for the rest where it describes next to nothing.
func (b *builder) rows() ([]Row, error) {
	var rows []Row
	eh, err := b.ehFrame()
	if err != nil {
		return nil, err
	}
	if eh != nil {
		if rows, err = b.compile(eh); err != nil {
			return nil, err
		}
	}
	code, stats, err := goRows(goFile{r: b.r, size: int64(b.size), headers: b.h, arch: b.arch, base: b.text.base})
	switch {
	case err == nil:
		b.stats.Functions += stats.Functions
		b.stats.Damaged += stats.Damaged
		b.stats.Dropped += stats.Dropped
		b.stats.NoKind += stats.NoKind
		return fill(rows, code), nil
	case !errors.Is(err, gotab.ErrNone):
		b.stats.Damaged++
	}
	if b.stats.Functions >= fewFunctions {
		return rows, nil
	}
	debug, err := b.debugFrame()
	if err != nil && len(rows) == 0 {
		return nil, err
	}
	if err != nil || debug == nil {
		return rows, nil
	}
	more, err := b.compile(debug)
	if err != nil {
		return nil, err
	}
	return fill(rows, more), nil
}

// section returns the frames at a place of the file.
func (b *builder) section(off, size, addr uint64) (*frames, error) {
	if off > b.size || size > b.size-off {
		return nil, fmt.Errorf("section of %d bytes at %#x in a file of %d: %w", size, off, b.size, ErrDamaged)
	}
	if size > math.MaxUint32 {
		return nil, fmt.Errorf("unwind section of %d bytes: %w", size, ErrTooLarge)
	}
	return &frames{pages: pages{r: b.r, off: off, size: size}, addr: addr, in: interpreter{machine: b.machine}}, nil
}

// ehFrame finds .eh_frame by its section header, else where PT_GNU_EH_FRAME
// points. It is nil where there is none.
func (b *builder) ehFrame() (*frames, error) {
	if s := b.h.Section(".eh_frame"); s != nil {
		if s.Type == object.SectionNobits { // in a file of debug information alone
			return nil, nil
		}
		return b.section(s.Off, s.Size, s.Addr)
	}
	for _, s := range b.h.Segments {
		if s.Type != segmentEHFrame {
			continue
		}
		// LSB 5.0, 10.6.2: version, three encodings, the address of .eh_frame.
		var head [12]byte
		n, _ := b.r.ReadAt(head[:min(s.Filesz, 12)], int64(min(s.Off, math.MaxInt64)))
		c := cursor{b: head[:n], off: 4}
		addr, ok := (&cie{encoding: head[1]}).pointer(&c, s.Vaddr)
		if !ok || head[0] != 1 {
			return nil, nil
		}
		return b.at(addr)
	}
	return nil, nil
}

// at returns the frames that begin at an address and end by themselves.
func (b *builder) at(addr uint64) (*frames, error) {
	for _, s := range b.h.Segments {
		if s.Type != object.SegmentLoad || addr < s.Vaddr || addr-s.Vaddr >= s.Filesz {
			continue
		}
		skip := addr - s.Vaddr
		f, err := b.section(s.Off+skip, s.Filesz-skip, addr)
		if f != nil {
			f.endless = true
		}
		return f, err
	}
	return nil, nil
}

// debugFrame finds .debug_frame. It is nil where there is none.
func (b *builder) debugFrame() (*frames, error) {
	s := b.h.Section(".debug_frame")
	if s == nil || s.Type == object.SectionNobits {
		return nil, nil
	}
	f, err := b.section(s.Off, s.Size, 0)
	if err != nil {
		return nil, err
	}
	f.debug = true
	if s.Flags&sectionCompressed == 0 {
		return f, nil
	}

	content, err := inflate(f)
	if err != nil {
		return nil, fmt.Errorf(".debug_frame: %w", err)
	}
	f.pages = pages{r: bytes.NewReader(content), size: uint64(len(content))}
	return f, nil
}

// inflate returns the content of a section with SHF_COMPRESSED.
func inflate(f *frames) ([]byte, error) {
	// Elf64_Chdr (ELF gABI 4.3): type, reserved, size, alignment.
	const header = 24
	head := f.bytes(0, header)
	if len(head) < header {
		return nil, ErrDamaged
	}
	method, size := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint64(head[8:])
	if method != compressedZlib {
		return nil, fmt.Errorf("compressed by method %d: %w", method, ErrNoInfo)
	}
	if size > maxRatio*f.size {
		return nil, fmt.Errorf("%d bytes from %d: %w", size, f.size, ErrTooLarge)
	}
	z, err := zlib.NewReader(io.NewSectionReader(f.r, int64(f.off+header), int64(f.size-header)))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrDamaged)
	}
	content, err := io.ReadAll(io.LimitReader(z, int64(size)))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrDamaged)
	}
	return content, nil
}

// compile turns frames into rows.
func (b *builder) compile(f *frames) ([]Row, error) {
	list := f.index(b.text, &b.stats)
	w := rowWriter{base: b.text.base, rows: make([]Row, 0, f.size/8)}
	var d fde
	noKind := 0
	in := interpreter{machine: b.machine, emit: func(pc uint64, s *state) {
		r := b.rule(&d, s)
		if r == Rule(KindNone) {
			noKind++
		}
		if r.Kind() == KindSP && r.Frame() == FrameAtFP {
			r = w.leaveRealigned(pc, r)
		}
		w.add(pc, r)
	}}
	last := uint64(0) // end of the functions so far
	for i, key := range list {
		e, err := f.entry(key & math.MaxUint32)
		ok := err == nil
		if ok {
			d, ok = f.fde(e, all)
		}
		if !ok {
			b.stats.Damaged++
			continue
		}
		if d.start > last+maxGap && last > 0 {
			w.add(last, Rule(KindNone))
		}
		x, _ := b.text.of(d.start)
		d.end = min(d.end, x.end)
		if i+1 < len(list) {
			d.end = min(d.end, b.text.base+list[i+1]>>32)
		}
		last = d.end

		noKind = 0
		before := len(w.rows)
		if !in.run(d.cie, d.code, d.start, d.end) {
			w.rows = w.rows[:before]
			w.add(d.start, Rule(KindNone))
			b.stats.Damaged++
			continue
		}
		b.stats.Functions++
		b.stats.NoKind += noKind
	}
	if last > 0 {
		w.add(last, Rule(KindNone))
	}
	if f.err != nil {
		return nil, f.err
	}
	return w.done(), nil
}

// rule packs a state within an FDE. A signal frame's CFA is what the kernel
// saved as the stack pointer, which is an expression on amd64.
func (b *builder) rule(d *fde, s *state) Rule {
	odd := s.cfa.how == howAt || s.cfa.how == howOther
	switch {
	case d.cie.signal && (odd || b.arch == ARM64):
		return Rule(KindSignal)
	case odd && s.ra.how != howOffset && b.arch == AMD64 && b.sigreturn(d.start):
		return Rule(KindSignal)
	}
	return b.machine.rule(s)
}

// rowWriter appends rows in ascending order and merges equal neighbours.
type rowWriter struct {
	base uint64
	rows []Row
}

func (w *rowWriter) add(pc uint64, r Rule) {
	if n := len(w.rows); n > 0 && w.rows[n-1].Rule == r || n == 0 && r == Rule(KindNone) {
		return
	}
	w.rows = append(w.rows, Row{PC: uint32(pc - w.base), Rule: r})
}

// leaveRealigned corrects what gcc says of the end of a realigned frame: pop
// %rbp; lea -8(%r10), %rsp; ret. RBP is restored before the last two, of which
// the first has 4 bytes, but gcc's row for it begins before the pop, and its
// row for the ret, r at pc, too has RBP where it points to.
func (w *rowWriter) leaveRealigned(pc uint64, r Rule) Rule {
	const lea = 4
	if n := len(w.rows); n > 0 {
		last := w.rows[n-1]
		if last.Rule.Kind() == KindReg && last.Rule.Frame() == FrameAtFP && pc-w.base > uint64(last.PC)+lea {
			w.add(pc-lea, NewRule(KindReg, last.Rule.Offset(), FrameKept))
		}
	}
	return NewRule(KindSP, r.Offset(), FrameKept)
}

// done returns the rows without the room that was not needed.
func (w *rowWriter) done() []Row {
	if cap(w.rows) > len(w.rows)+len(w.rows)/4 {
		return slices.Clone(w.rows)
	}
	return w.rows
}

// fill returns rows with the stretches that have no rule taken from others.
func fill(rows, others []Row) []Row {
	if len(rows) == 0 || len(others) == 0 {
		return append(rows, others...)
	}
	w := rowWriter{rows: make([]Row, 0, len(rows)+len(others))}
	var rule, other Rule
	for len(rows) > 0 || len(others) > 0 {
		pc := uint32(math.MaxUint32)
		if len(rows) > 0 {
			pc = rows[0].PC
		}
		if len(others) > 0 {
			pc = min(pc, others[0].PC)
		}
		if len(rows) > 0 && rows[0].PC == pc {
			rule, rows = rows[0].Rule, rows[1:]
		}
		if len(others) > 0 && others[0].PC == pc {
			other, others = others[0].Rule, others[1:]
		}
		if rule != Rule(KindNone) {
			w.add(uint64(pc), rule)
		} else {
			w.add(uint64(pc), other)
		}
	}
	return w.rows
}
