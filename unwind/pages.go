package unwind

import (
	"errors"
	"io"
)

const (
	pageSize  = 4 << 10
	pageSlots = 64 // keep those that several object files' worth of interleaved functions need
)

// pages reads pieces of a section of a file and keeps the pages read last, so
// that a section of any size takes little memory in any order of reading.
type pages struct {
	r     io.ReaderAt
	off   uint64 // of the section in the file
	size  uint64 // of the section
	slots [pageSlots]page
	span  []byte // holds a piece of several pages
	err   error  // the first error that is not the end of the file
}

type page struct {
	no   uint64 // its number + 1, 0 for none
	data []byte
}

// bytes returns n bytes at a position, or fewer where the file ends. They are
// valid until the next call.
func (p *pages) bytes(pos, n uint64) []byte {
	if pos >= p.size {
		return nil
	}
	n = min(n, p.size-pos)
	first := p.page(pos / pageSize)
	start := pos % pageSize
	if start+n <= uint64(len(first)) {
		return first[start : start+n]
	}
	p.span = p.span[:0]
	for n > 0 {
		data := p.page(pos / pageSize)
		start := pos % pageSize
		if start >= uint64(len(data)) {
			break
		}
		data = data[start:]
		data = data[:min(n, uint64(len(data)))]
		p.span = append(p.span, data...)
		pos += uint64(len(data))
		n -= uint64(len(data))
	}
	return p.span
}

// page returns the content of a page.
func (p *pages) page(no uint64) []byte {
	s := &p.slots[no%pageSlots]
	if s.no == no+1 {
		return s.data
	}
	if s.data == nil {
		s.data = make([]byte, pageSize)
	}
	s.no = no + 1
	s.data = s.data[:min(pageSize, p.size-no*pageSize)]
	n, err := p.r.ReadAt(s.data, int64(p.off+no*pageSize))
	if n < len(s.data) && p.err == nil && !errors.Is(err, io.EOF) {
		p.err = err
	}
	s.data = s.data[:n]
	return s.data
}
