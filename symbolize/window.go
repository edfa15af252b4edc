package symbolize

import (
	"bytes"
	"io"
)

// A window reads small pieces of a part of a file that lie near each other
// with few system calls. What is not in the file or not readable is empty.
type window struct {
	r          io.ReaderAt
	base, size uint64 // the part of the file
	start      uint64 // of buf, in the part
	buf        []byte
	space      []byte
}

const windowSize = 16 << 10 // also the longest piece

func newWindow(r io.ReaderAt, base, size uint64) *window {
	return &window{r: r, base: base, size: size}
}

// at returns n bytes at off in the part, fewer at its end. They are valid
// until the next call.
func (w *window) at(off uint64, n int) []byte {
	if off >= w.size {
		return nil
	}
	want := min(uint64(n), w.size-off, windowSize)
	if off < w.start || off-w.start > uint64(len(w.buf)) || uint64(len(w.buf))-(off-w.start) < want {
		w.fill(off)
	}
	have := w.buf[min(off-w.start, uint64(len(w.buf))):]
	return have[:min(want, uint64(len(have)))]
}

func (w *window) fill(off uint64) {
	if w.space == nil {
		w.space = make([]byte, windowSize)
	}
	w.start = off
	b := w.space[:min(windowSize, w.size-off)]
	n, _ := w.r.ReadAt(b, int64(w.base+off))
	w.buf = b[:n]
}

// text returns the bytes at off before a NUL, cut at the window's size; ok is
// false if off is behind the end.
func (w *window) text(off uint64) (text []byte, ok bool) {
	const usual = 128
	b := w.at(off, usual)
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		b = w.at(off, windowSize)
		end = bytes.IndexByte(b, 0)
	}
	if end < 0 {
		end = len(b)
	}
	return b[:end], len(b) > 0
}
