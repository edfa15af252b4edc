package sampler

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// scanWorkers read /proc side by side.
const scanWorkers = 2

// scanWait is the time between two scans after losses, ns.
const scanWait = 1e9

// A scanner reads all processes from /proc in the background: once when
// recording begins, and again when records were lost.
type scanner struct {
	running  atomic.Bool
	stopping atomic.Bool
	ready    atomic.Bool // there is something to take
	wg       sync.WaitGroup

	mu    sync.Mutex
	found []scanned
	done  []uint64 // for each scan that is complete, when it began
}

// scanned is what /proc said of a process.
type scanned struct {
	asOf uint64 // the image is not older
	img  *Process
}

// start begins a scan unless one is running.
func (s *scanner) start(p *processes) bool {
	if s.stopping.Load() || !s.running.CompareAndSwap(false, true) {
		return false
	}
	s.wg.Go(func() {
		defer s.running.Store(false)
		s.scan(p)
	})
	return true
}

func (s *scanner) scan(p *processes) {
	began := p.now()
	pids, err := p.fs.PIDs()
	if err != nil {
		return // without /proc there are only records
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range scanWorkers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(pids)) && !s.stopping.Load(); i = next.Add(1) - 1 {
				asOf := p.now()
				img, err := p.read(pids[i])
				if err == nil {
					s.add(scanned{asOf, img})
				}
			}
		})
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping.Load() {
		s.done = append(s.done, began)
		s.ready.Store(true)
	}
}

func (s *scanner) add(f scanned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, f)
	s.ready.Store(true)
}

// take returns what was found since the last call.
func (s *scanner) take() (found []scanned, done []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, done = s.found, s.done
	s.found, s.done = nil, nil
	s.ready.Store(false)
	return found, done
}

// stop ends the scan and waits for it.
func (s *scanner) stop() {
	s.stopping.Store(true)
	s.wg.Wait()
}

// absorb joins what the scanner found with what is known from records.
func (p *processes) absorb() {
	found, done := p.scanner.take()
	for _, f := range found {
		p.join(f)
	}
	for _, began := range done {
		p.endVanished(began)
	}
}

// join puts one process of a scan in its place.
func (p *processes) join(f scanned) {
	h := p.byPID[f.img.PID]
	if h == nil {
		p.byPID[f.img.PID] = &history{images: []*Process{f.img}, asOf: f.asOf}
		return
	}
	oldest, newest := h.images[0], h.images[len(h.images)-1]
	switch {
	case h.blind:
		for _, m := range f.img.mappings {
			oldest.insert(m) // what conflicts has changed since
		}
		h.blind = false
	case h.asOf == 0 && oldest.Start > f.asOf: // the scan saw what was before the first record
		h.images = slices.Insert(h.images, 0, f.img)
	case p.lostAt <= h.asOf: // the records tell it all, those that are still in the rings too
	case newest.Start < f.asOf && len(f.img.mappings) > 0: // else it is new since, or a zombie
		p.resync(h, f)
	}
}

// resync adds to the newest image what records that were lost would have told.
func (p *processes) resync(h *history, f scanned) {
	newest := h.images[len(h.images)-1]
	switch {
	case h.ended != 0 && h.ended < f.asOf && h.asOf < h.ended: // the pid is used again
		f.img.Start = h.ended + 1
		h.ended = 0
		p.supersede(h, f.img)
	case exeOf(newest) != "" && exeOf(f.img) != exeOf(newest): // an exec
		f.img.Start = max(newest.Start+1, min(p.lostAt, f.asOf))
		p.supersede(h, f.img)
	default:
		for _, m := range f.img.mappings {
			newest := h.images[len(h.images)-1]
			if newest.insert(m) == conflicts {
				p.supersede(h, newest.replace(m, f.asOf))
			}
		}
	}
	h.asOf = f.asOf
}

// exeOf is the executable's path whether or not it was deleted meanwhile.
func exeOf(p *Process) string { return strings.TrimSuffix(p.Exe, " (deleted)") }

// endVanished ends the processes that a scan begun at the given time should have
// found and that are gone: their exit was lost.
func (p *processes) endVanished(began uint64) {
	for pid, h := range p.byPID {
		newest := h.images[len(h.images)-1]
		if pid <= 0 || h.ended != 0 || h.asOf >= began || newest.Start >= began {
			continue
		}
		if _, err := p.fs.TIDs(pid); errors.Is(err, fs.ErrNotExist) {
			p.end(h, pid, began)
		}
	}
}
