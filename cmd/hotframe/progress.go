//go:build linux

package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"hotframe/sampler"
)

// progress is the line that is redrawn on a terminal. The account of losses may
// be taken by the goroutine that reads the source only; draw asks it to.
type progress struct {
	samples atomic.Uint64
	lost    atomic.Uint64
	asked   atomic.Bool
}

// sample counts one.
func (p *progress) sample(src sampler.Source) {
	p.samples.Add(1)
	if p.asked.Load() {
		p.asked.Store(false)
		st := src.Stats()
		p.lost.Store(st.Lost())
	}
}

func (p *progress) draw(w io.Writer, elapsed, duration time.Duration) {
	p.asked.Store(true) // for the next time
	of := ""
	if duration > 0 {
		of = fmt.Sprintf(" of %v", duration)
	}
	fmt.Fprintf(w, "\r%v%s, %d samples, %d lost\x1b[K", elapsed.Round(time.Second), of, p.samples.Load(), p.lost.Load())
}

func (p *progress) clear(w io.Writer) { io.WriteString(w, "\r\x1b[K") }
