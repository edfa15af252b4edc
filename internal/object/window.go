package object

import (
	"bytes"
	"io"
)

// A Window reads small pieces of a part of a file that lie near each other
// with few system calls. What is not in the file or not readable is empty.
type Window struct {
	r          io.ReaderAt
	base, size uint64 // the part of the file
	start      uint64 // of buf, in the part
	buf        []byte
	space      []byte
}

// WindowSize is how much a Window reads at once, and the longest piece.
const WindowSize = 16 << 10

// NewWindow reads size bytes of r from base on.
func NewWindow(r io.ReaderAt, base, size uint64) *Window {
	return &Window{r: r, base: base, size: size}
}

// Rest is a window of its own over the part from off on.
func (w *Window) Rest(off uint64) *Window {
	off = min(off, w.size)
	return NewWindow(w.r, w.base+off, w.size-off)
}

// At returns n bytes at off in the part, fewer at its end. They are valid
// until the next call.
func (w *Window) At(off uint64, n int) []byte {
	if off >= w.size {
		return nil
	}
	want := min(uint64(n), w.size-off, WindowSize)
	if off < w.start || off-w.start > uint64(len(w.buf)) || uint64(len(w.buf))-(off-w.start) < want {
		w.fill(off)
	}
	have := w.buf[min(off-w.start, uint64(len(w.buf))):]
	return have[:min(want, uint64(len(have)))]
}

func (w *Window) fill(off uint64) {
	if w.space == nil {
		w.space = make([]byte, WindowSize)
	}
	w.start = off
	b := w.space[:min(WindowSize, w.size-off)]
	n, _ := w.r.ReadAt(b, int64(w.base+off))
	w.buf = b[:n]
}

// Text returns the bytes at off before a NUL, cut at the window's size; ok is
// false if off is behind the end.
func (w *Window) Text(off uint64) (text []byte, ok bool) {
	const usual = 128
	b := w.At(off, usual)
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		b = w.At(off, WindowSize)
		end = bytes.IndexByte(b, 0)
	}
	if end < 0 {
		end = len(b)
	}
	return b[:end], len(b) > 0
}
