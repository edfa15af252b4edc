package unwind

import (
	"io"
	"slices"
)

const (
	maxCIE = 1 << 10 // bytes; compilers write some 30, and every function may name another CIE
	maxFDE = 1 << 20 // bytes of one function
)

// frames is a section of call frame information: .eh_frame (LSB 5.0, 10.6) or
// .debug_frame (DWARF 5, 6.4.1), which differ in how FDEs point to their CIE.
type frames struct {
	pages
	addr  uint64 // of the first byte
	debug bool   // .debug_frame

	// endless: the size is only a limit, and an entry of length 0 is the end.
	endless bool

	in   interpreter // of CIEs
	cies [64]cie     // by position, those used last
}

// An entry is a CIE or an FDE, by positions in the section.
type entry struct {
	body, end uint64 // behind the CIE pointer, and behind the entry
	cie       uint64 // of an FDE: where its CIE is
	isCIE     bool
}

// A cie has what FDEs share.
type cie struct {
	at        uint64 // its position + 1, 0 for none
	bad       bool
	debug     bool
	augmented bool  // FDEs have augmentation data
	signal    bool  // FDEs are of signal frames
	encoding  uint8 // of the addresses in FDEs
	codeAlign uint64
	dataAlign int64
	initial   state
}

// fde is the description of the code in [start, end).
type fde struct {
	cie        *cie
	start, end uint64
	code       field
}

// field is a piece of a section: bytes, and the address they are mapped at.
type field struct {
	b    []byte
	addr uint64
}

// index lists the FDEs whose code lies in the executable ranges: each is the
// start of its code less base, and below it the position of the FDE, in 32 bits
// each. They are sorted, with one for each start.
func (f *frames) index(x *ranges, st *Stats) []uint64 {
	var list []uint64
	for pos := uint64(0); pos < f.size; {
		e, err := f.entry(pos)
		if err == io.EOF {
			break
		}
		if err != nil {
			st.Damaged++ // where the next one begins is not known
			break
		}
		if !e.isCIE && e.end > e.body {
			d, ok := f.fde(e, addressesOnly)
			switch {
			case !ok:
				st.Damaged++
			case d.end <= d.start || !x.contain(d.start):
				st.Dropped++
			default:
				list = append(list, (d.start-x.base)<<32|pos)
			}
		}
		pos = e.end
	}
	slices.Sort(list)
	n := len(list)
	list = slices.CompactFunc(list, func(a, b uint64) bool { return a>>32 == b>>32 })
	st.Dropped += n - len(list)
	return list
}

// entry reads the head of the entry at pos; io.EOF is the end of the entries.
func (f *frames) entry(pos uint64) (entry, error) {
	c := cursor{b: f.bytes(pos, min(20, f.size-pos))}
	length, wide := uint64(c.u32()), false
	switch {
	case length == 0xffff_ffff:
		length, wide = c.u64(), true
	case length >= 0xffff_fff0:
		return entry{}, ErrDamaged
	}
	at := pos + uint64(c.off) // of the CIE pointer
	if c.bad || length > f.size-at {
		return entry{}, ErrDamaged
	}
	e := entry{end: at + length}
	if length == 0 { // a terminator; linkers leave some between the entries too
		if f.endless {
			return entry{}, io.EOF
		}
		e.body = e.end
		return e, nil
	}

	// LSB 5.0: the pointer in .eh_frame has 4 bytes in long entries too.
	switch {
	case !f.debug:
		id := uint64(c.u32())
		e.isCIE, e.cie = id == 0, at-id
	case wide:
		e.cie = c.u64()
		e.isCIE = e.cie == 0xffff_ffff_ffff_ffff
	default:
		e.cie = uint64(c.u32())
		e.isCIE = e.cie == 0xffff_ffff
	}
	e.body = pos + uint64(c.off)
	if c.bad || e.body > e.end {
		return entry{}, ErrDamaged
	}
	return e, nil
}

// part says how much of an FDE to read.
type part uint8

const (
	addressesOnly part = iota
	all
)

// fde reads an FDE. Its code is valid until the next read from the section.
func (f *frames) fde(e entry, p part) (d fde, ok bool) {
	d.cie = f.cie(e.cie)
	n := e.end - e.body
	if p == addressesOnly {
		n = min(n, 32)
	}
	if d.cie == nil || n > maxFDE {
		return d, false
	}
	addr := f.addr + e.body
	c := cursor{b: f.bytes(e.body, n)}
	if d.start, ok = d.cie.pointer(&c, addr); !ok {
		return d, false
	}
	d.end = d.start + d.cie.value(&c)
	if c.bad || d.end < d.start {
		return d, false
	}
	if p == all {
		if d.cie.augmented {
			c.take(c.uleb())
		}
		d.code = field{c.b[c.off:], addr + uint64(c.off)}
	}
	return d, !c.bad
}

// cie returns the CIE at pos, nil where there is none that can be used.
func (f *frames) cie(pos uint64) *cie {
	if pos >= f.size {
		return nil
	}
	c := &f.cies[pos/4%uint64(len(f.cies))]
	if c.at != pos+1 {
		*c = cie{at: pos + 1, debug: f.debug}
		e, err := f.entry(pos)
		c.bad = err != nil || !e.isCIE || e.end-e.body > maxCIE || !f.parse(c, f.bytes(e.body, e.end-e.body))
	}
	if c.bad {
		return nil
	}
	return c
}

// parse reads a CIE from its version on.
func (f *frames) parse(c *cie, b []byte) bool {
	cur := cursor{b: b}
	version := cur.u8()
	augmentation := cur.cstring()
	switch version {
	case 1, 3:
	case 4:
		if address, segment := cur.u8(), cur.u8(); address != 8 || segment != 0 {
			return false
		}
	default:
		return false
	}
	if augmentation == "eh" { // gcc before 3: a pointer to the exception table
		cur.u64()
		augmentation = ""
	}
	c.codeAlign, c.dataAlign = cur.uleb(), cur.sleb()
	ra := uint64(0)
	if version == 1 {
		ra = uint64(cur.u8())
	} else {
		ra = cur.uleb()
	}
	if cur.bad || c.codeAlign == 0 || c.codeAlign > 1<<16 {
		return false
	}
	if ra != f.in.ra { // in arm64's vfork it is x15
		if ra >= 16 {
			return false
		}
		c.initial.ra = place{how: howRegister, reg: ra}
	}
	if augmentation != "" {
		if augmentation[0] != 'z' {
			return false
		}
		c.augmented = true
		data := cursor{b: cur.take(cur.uleb())}
		if !c.augment(&data, augmentation[1:]) {
			return false
		}
	}
	if cur.bad {
		return false
	}
	var ok bool
	c.initial, ok = f.in.initial(c, cur.b[cur.off:])
	return ok
}

// augment reads what the letters of an augmentation string announce (LSB 5.0,
// 10.6.1.1.1; B and G are AArch64's for pointer authentication and tagging).
func (c *cie) augment(data *cursor, letters string) bool {
	for _, letter := range []byte(letters) {
		switch letter {
		case 'R':
			c.encoding = data.u8()
		case 'P': // the personality's address is not needed, only its size
			p := cie{encoding: data.u8()}
			p.value(data)
		case 'L':
			data.u8()
		case 'S':
			c.signal = true
		case 'B', 'G':
		default:
			return false
		}
	}
	return !data.bad
}

// Encodings of pointers, DW_EH_PE_ (LSB 5.0, 10.5.1).
const (
	peAbsptr = 0x00
	peUleb   = 0x01
	peUdata2 = 0x02
	peUdata4 = 0x03
	peUdata8 = 0x04
	peSleb   = 0x09
	peSdata2 = 0x0a
	peSdata4 = 0x0b
	peSdata8 = 0x0c
	peFormat = 0x0f
	pePcrel  = 0x10
)

// value reads a number in the format of the CIE's addresses.
func (c *cie) value(cur *cursor) uint64 {
	switch c.encoding & peFormat {
	case peAbsptr, peUdata8, peSdata8:
		return cur.u64()
	case peUdata4:
		return uint64(cur.u32())
	case peSdata4:
		return uint64(int32(cur.u32()))
	case peUdata2:
		return uint64(cur.u16())
	case peSdata2:
		return uint64(int16(cur.u16()))
	case peUleb:
		return cur.uleb()
	case peSleb:
		return uint64(cur.sleb())
	}
	cur.bad = true
	return 0
}

// pointer reads an address. addr is that of the cursor's first byte. Addresses
// that are relative to the text or the GOT, or indirect, occur in personality
// routines only.
func (c *cie) pointer(cur *cursor, addr uint64) (uint64, bool) {
	at := addr + uint64(cur.off)
	v := c.value(cur)
	switch c.encoding &^ peFormat {
	case peAbsptr:
	case pePcrel:
		v += at
	default:
		return 0, false
	}
	return v, !cur.bad
}
