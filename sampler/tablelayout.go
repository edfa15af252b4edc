//go:build linux

package sampler

import (
	"encoding/binary"
	"iter"

	"hotframe/unwind"
)

// Of bpf/wire.h, bytes.
const (
	tableHeaderSize = 8 // struct table
	tablePageSize   = 8 // struct table_page
)

// pageBits: the rows of a table are cut at every 64 KiB of code.
const pageBits = 16

// maxPageRows is what find_rule() in bpf/walk.h searches.
const maxPageRows = 1<<pageBits - 1

// blockSize is how much of a table is put together in one allocation, so that it
// takes neither many nor long ones; a page with more rows has one to itself.
const blockSize = 64 << 10

// A memoryBlock is memory of an arena.
type memoryBlock struct {
	ptr  uint32
	size int
}

// tablePage is the rows of 64 KiB of code. count says how many are written of it:
// one for the first byte, which holds the rule from before unless there is a row,
// and the rows; none where there is no rule at all.
type tablePage struct {
	carried unwind.Rule
	rows    []unwind.Row
	count   int
}

// pages are the pages of a Table in order. They are valid for one step.
func pages(rows []unwind.Row) iter.Seq2[int, *tablePage] {
	return func(yield func(int, *tablePage) bool) {
		var p tablePage
		for number, rest := 0, rows; len(rest) > 0; number++ {
			n, ruled := 0, p.carried != unwind.Rule(unwind.KindNone)
			for n < len(rest) && int(rest[n].PC>>pageBits) == number {
				ruled = ruled || rest[n].Rule != unwind.Rule(unwind.KindNone)
				n++
			}
			p.rows, p.count = rest[:n], n
			if n == 0 || rest[0].PC&(1<<pageBits-1) != 0 {
				p.count++
			}
			if !ruled || p.count > maxPageRows {
				p.count = 0
			}
			if !yield(number, &p) {
				return
			}
			if n > 0 {
				p.carried = rest[n-1].Rule
			}
			rest = rest[n:]
		}
	}
}

// pageCount is how many pages a Table has.
func pageCount(rows []unwind.Row) int {
	if len(rows) == 0 {
		return 0
	}
	return int(rows[len(rows)-1].PC>>pageBits) + 1
}

// size is what the rows of the page take, bytes.
func (p *tablePage) size() int { return roundUp(p.rules()+4*p.count, arenaAlign) }

// rules is where the rules begin, behind the pcs.
func (p *tablePage) rules() int { return roundUp(2*p.count, 4) }

func (p *tablePage) write(mem []byte) {
	if p.count == 0 {
		return
	}
	pcs, rules := mem, mem[p.rules():]
	if p.count > len(p.rows) {
		binary.LittleEndian.PutUint16(pcs, 0)
		binary.LittleEndian.PutUint32(rules, uint32(p.carried))
		pcs, rules = pcs[2:], rules[4:]
	}
	for _, r := range p.rows {
		binary.LittleEndian.PutUint16(pcs, uint16(r.PC))
		binary.LittleEndian.PutUint32(rules, uint32(r.Rule))
		pcs, rules = pcs[2:], rules[4:]
	}
}

// measure cuts the table of the given rows in blocks and returns their sizes: the
// first begins with struct table and its pages.
func measure(rows []unwind.Row) []memoryBlock {
	blocks := []memoryBlock{{size: tableHeaderSize + pageCount(rows)*tablePageSize}}
	for _, p := range pages(rows) {
		last := &blocks[len(blocks)-1]
		if size := p.size(); last.size+size > blockSize && size > 0 {
			blocks = append(blocks, memoryBlock{size: size})
		} else {
			last.size += size
		}
	}
	return blocks
}

// place writes a table into the arenas and returns where it is. It is false, and
// nothing is changed, if there is no room. blocks are those that measure gave.
func (a *arenas) place(rows []unwind.Row, blocks []memoryBlock) (ptr uint32, ok bool) {
	for i := range blocks {
		blocks[i].ptr, _, ok = a.alloc(blocks[i].size)
		if !ok {
			for _, b := range blocks[:i] {
				a.undo(b.ptr, b.size)
			}
			return 0, false
		}
	}
	head := a.bytes(blocks[0].ptr)
	n := pageCount(rows)
	binary.LittleEndian.PutUint64(head, uint64(n))
	entries := head[tableHeaderSize:]
	block, rest, off := blocks[0], blocks[1:], tableHeaderSize+n*tablePageSize
	for number, p := range pages(rows) {
		size := p.size()
		if off+size > block.size {
			block, rest, off = rest[0], rest[1:], 0
		}
		ptr := block.ptr + uint32(off)
		p.write(a.bytes(ptr))
		if size == 0 {
			ptr = 0
		}
		entry := entries[number*tablePageSize:]
		binary.LittleEndian.PutUint32(entry, ptr)
		binary.LittleEndian.PutUint32(entry[4:], uint32(p.count))
		off += size
	}
	return blocks[0].ptr, true
}
