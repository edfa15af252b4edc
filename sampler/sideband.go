//go:build linux

package sampler

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"github.com/elastic/go-perf"
	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
)

// sidebandPages is the size of a CPU's ring of process records. 256 KiB hold
// those of some 400 short processes, which is a busy tenth of a second.
const sidebandPages = 64

// A sideband reads the kernel's records about processes: fork, exec, mmap,
// exit. It belongs to one goroutine.
type sideband struct {
	rings    *rings
	hostWide bool
	decoder  perfDecoder

	pending []perfRecord // by time, those before head were handed out
	head    int
	asOf    uint64 // all records of this time or before were collected
	lost    uint64 // records that the kernel dropped, or that were not understood
}

// openSideband begins to record what becomes of the target's tasks, or of all
// processes of the host when it is no set of tasks.
func openSideband(t Target, pages int) (*sideband, error) {
	attr := sidebandAttr()
	attr.Options.Inherit = !t.hostWide()
	attr.SetWakeupWatermark(uint32(pages * unix.Getpagesize() / 4))
	s := &sideband{rings: newRings(attr, pages), hostWide: t.hostWide()}
	if s.hostWide {
		s.rings.attr.Options.KSymbol = true
	}
	online, err := proc.FS("/").OnlineCPUs()
	if err != nil {
		return nil, err
	}
	if s.hostWide {
		err = s.rings.followCPUs(online, s.take, s.openCPU)
	} else {
		err = openTasks(t, func(tid int32) error {
			for _, cpu := range online {
				if err := s.rings.open(int(tid), cpu); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// openCPU opens the event of a CPU, without kernel symbols if they are refused.
func (s *sideband) openCPU(cpu int) error {
	err := s.rings.open(perf.AllThreads, cpu)
	if errors.Is(err, unix.EINVAL) && s.rings.attr.Options.KSymbol {
		s.rings.attr.Options.KSymbol = false
		return s.openCPU(cpu)
	}
	return err
}

// followCPUs opens events on CPUs that came online. It costs a read of a file
// in /sys.
func (s *sideband) followCPUs() {
	if !s.hostWide {
		return
	}
	online, err := proc.FS("/").OnlineCPUs()
	if err != nil {
		return
	}
	// What failed is tried again the next time.
	_ = s.rings.followCPUs(online, s.take, s.openCPU)
}

// collect takes the records out of the rings.
func (s *sideband) collect() error {
	s.asOf = monotonicNow()
	before := len(s.pending)
	err := s.rings.read(s.take)
	if len(s.pending) > before {
		s.sort()
	}
	return err
}

// sort orders the pending records by time. It is stable, so that records of one CPU
// keep their order.
func (s *sideband) sort() {
	slices.SortStableFunc(s.pending[s.head:], func(a, b perfRecord) int { return cmp.Compare(a.Time, b.Time) })
}

// until hands out the collected records of the given time or before, in order.
func (s *sideband) until(time uint64, f func(*perfRecord)) {
	for s.head < len(s.pending) && s.pending[s.head].Time <= time {
		f(&s.pending[s.head])
		s.head++
	}
	switch {
	case s.head == len(s.pending):
		s.pending, s.head = s.pending[:0], 0
	case s.head > len(s.pending)/2:
		s.pending = slices.Delete(s.pending, 0, s.head)
		s.head = 0
	}
}

// take decodes one record.
func (s *sideband) take(raw *perf.RawRecord) {
	s.pending = append(s.pending, perfRecord{})
	r := &s.pending[len(s.pending)-1]
	if err := s.decoder.decode(r, perfType(raw.Header.Type), raw.Header.Misc, raw.Data); err != nil {
		*r = perfRecord{Type: perfLost, Time: s.asOf, Lost: 1}
	}
	if r.Type == perfLost {
		s.lost += r.Lost
	}
}

func (s *sideband) close() error { return s.rings.close() }

// allTime is after all records.
const allTime = math.MaxUint64

// monotonicNow is the clock of all records and samples, ns.
func monotonicNow() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // not for this clock
	}
	return uint64(ts.Nano())
}
