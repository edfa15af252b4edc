package unwind

import (
	"bytes"
	"slices"

	"hotframe/internal/object"
)

// sigreturnCode is what signal handlers return to: mov $__NR_rt_sigreturn, %rax;
// syscall, and mov x8, #__NR_rt_sigreturn; svc #0.
var sigreturnCode = [...][]byte{
	AMD64: {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05},
	ARM64: {0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4},
}

// sigreturn reports whether the code at an address returns from a signal
// handler. The C libraries' FDE begins a byte before, so that it holds for the
// return address less 1.
func (b *builder) sigreturn(addr uint64) bool {
	var code [10]byte
	return bytes.Contains(b.code(addr, code[:]), sigreturnCode[b.arch])
}

// maxLooks bounds how often code is looked at: the C libraries need 1, and
// libraries have some hundred gaps between functions.
const maxLooks = 1 << 11

// code reads up to len(buf) bytes of code.
func (b *builder) code(addr uint64, buf []byte) []byte {
	if b.looks == maxLooks {
		return nil
	}
	b.looks++
	for _, s := range b.h.Segments {
		if s.Type == object.SegmentLoad && addr >= s.Vaddr && addr-s.Vaddr < s.Filesz && s.Off < b.size {
			n, _ := b.r.ReadAt(buf[:min(uint64(len(buf)), s.Filesz-(addr-s.Vaddr))], int64(s.Off+addr-s.Vaddr))
			return buf[:n]
		}
	}
	return nil
}

// maxSearch is the most bytes of code without unwind information that are
// searched for where signal handlers return to: enough for musl in a program.
const maxSearch = 1 << 20

// addSigreturn finds the code that handlers return to where it has no unwind
// information, as in arm64's vDSO and in musl.
func (b *builder) addSigreturn(rows []Row) []Row {
	want := sigreturnCode[b.arch]
	left := uint64(maxSearch)
	var buf []byte
	for i := -1; i < len(rows); i++ { // the gaps before the first row and at rows without a rule
		start, end := b.text.list[0].start, b.text.list[len(b.text.list)-1].end
		if i >= 0 {
			start = b.text.base + uint64(rows[i].PC)
		}
		if i+1 < len(rows) {
			end = b.text.base + uint64(rows[i+1].PC)
		}
		n := min(end-start, b.size)
		if i >= 0 && rows[i].Rule != Rule(KindNone) || end < start+uint64(len(want)) || n > left {
			continue
		}
		left -= n
		buf = slices.Grow(buf[:0], int(n))[:n]
		at := bytes.Index(b.code(start, buf), want)
		if at < 0 {
			continue
		}
		first := start + uint64(at)
		past := first + uint64(len(want))
		if at > 0 {
			first-- // for the return address less 1
		}
		return fill(rows, []Row{
			{PC: uint32(first - b.text.base), Rule: Rule(KindSignal)},
			{PC: uint32(past - b.text.base), Rule: Rule(KindNone)},
		})
	}
	return rows
}
