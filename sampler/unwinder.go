//go:build linux

package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// waitForTables is how long the end of a recording waits for tables that are
// still being made.
const waitForTables = 3 * time.Second

// An unwinder sees to it that the kernel has the unwind tables of what is
// sampled, and walks the stacks that the kernel left to user space because it had not.
type unwinder struct {
	ring    *ringbuf.Reader
	record  ringbuf.Record
	queue   []*deferredSample // by arrival
	idle    []*deferredSample // to be used again
	next    int               // of queue, to try in this round
	frames  []Addr
	bytes   []byte // u.frames as the interner takes them
	stacks  interner
	limit   int // frames of a stack
	arenas  *arenas
	tables  *tables
	spaces  *spaces
	expired time.Time // when waiting for tables ends; zero while sampling is on
}

// newUnwinder reads the ring of deferred samples and fills the maps for the BPF program.
func newUnwinder(objects *bpfObjects, c *Config) (*unwinder, error) {
	r, err := ringbuf.NewReader(objects.Deferred)
	if err != nil {
		return nil, fmt.Errorf("map the ring of deferred samples: %w", err)
	}
	r.SetDeadline(time.Unix(1, 0)) // never wait
	u := &unwinder{ring: r, limit: c.maxDepth(), arenas: newArenas(c.unwindMemory(), kernelArenas(objects.Arenas))}
	u.tables = newTables(u.arenas)
	u.spaces = newSpaces(u.tables, objects.AddressSpaces)
	return u, nil
}

// begin starts a round over the queue: it publishes what was learned, queues what is in the ring, and
// returns how many records were not understood. At the end of the recording tables
// that are still being made are waited for, but not for long.
func (u *unwinder) begin(ending bool) (bad uint64, err error) {
	u.next = 0
	u.spaces.update(monotonicNow())
	if ending && u.expired.IsZero() {
		u.expired = time.Now().Add(waitForTables)
	}
	for {
		err := u.ring.ReadInto(&u.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return bad, nil
		}
		if err != nil {
			return bad, fmt.Errorf("read the ring of deferred samples: %w", err)
		}
		d := u.spare()
		if recordType(u.record.RawSample) != recordDeferred || d.decode(u.record.RawSample) != nil {
			u.idle = append(u.idle, d)
			bad++
			continue
		}
		u.queue = append(u.queue, d)
	}
}

func (u *unwinder) spare() *deferredSample {
	if n := len(u.idle); n > 0 {
		d := u.idle[n-1]
		u.idle = u.idle[:n-1]
		return d
	}
	return new(deferredSample)
}

// walk returns the next deferred sample of the round that is no younger than ripe and whose
// stack could be walked, nil when there is none.
func (u *unwinder) walk(ripe uint64, ps *processes) (*deferredSample, *Stack) {
	for u.next < len(u.queue) {
		d := u.queue[u.next]
		if d.time > ripe {
			u.next++
			continue
		}
		p := ps.at(d.pid, d.time)
		var stop StopReason
		var complete bool
		u.frames, stop, complete = d.walk(u.frames[:0], p, u.tables.rule, u.limit)
		if !complete {
			if u.expired.IsZero() || time.Now().Before(u.expired) {
				u.next++
				continue
			}
			stop = StopNoRule
		}
		u.queue = slices.Delete(u.queue, u.next, u.next+1)
		u.idle = append(u.idle, d)
		return d, u.intern(stop)
	}
	return nil, nil
}

// intern returns the Stack with u.frames.
func (u *unwinder) intern(stop StopReason) *Stack {
	u.bytes = u.bytes[:0]
	for _, f := range u.frames {
		u.bytes = binary.LittleEndian.AppendUint64(u.bytes, uint64(f))
	}
	return u.stacks.stack(frames(u.bytes), stop)
}

// finish reports whether no deferred sample is left. If some are it waits for the tables that
// are being made.
func (u *unwinder) finish() bool {
	if len(u.queue) == 0 {
		return true
	}
	u.tables.wait(time.Until(u.expired)) // where that is in vain the next round does without
	return false
}

func (u *unwinder) close() error {
	u.tables.close()
	return errors.Join(u.arenas.close(), u.ring.Close())
}
