//go:build linux

package sampler

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Of bpf/wire.h. An arena pointer is the arena's number << arenaBits | byte offset.
const (
	arenaBits = 20
	arenaSize = 1 << arenaBits
	maxArenas = 256
)

// arenaAlign is what all allocations are aligned to.
const arenaAlign = 8

// grace is how long memory that was freed is left as it is, ns: a BPF program
// that still reads it runs for microseconds.
const grace = 1e9

// arenas is memory that BPF programs read, in pieces of arenaSize. It belongs to
// one goroutine, but makes arenas in the background, one ahead of need: the kernel
// takes 6 to 28 ms to make one known to BPF programs (an RCU grace period).
type arenas struct {
	list  []*arena // by number; nil while it is being made, or where that failed
	limit int      // of arenas
	room  int      // bytes that can be had now
	used  int      // bytes that are had
	err   error    // why there are no more arenas than there are

	make   arenaMaker
	made   chan madeArena
	making int
	wg     sync.WaitGroup

	now     uint64
	freed   []freed // by time
	freeing int     // bytes of freed
}

// An arenaMaker makes the arena of a number and makes it known to BPF programs.
// It is called from several goroutines.
type arenaMaker func(number int) (*arena, error)

type madeArena struct {
	number int
	*arena
	err error
}

// An arena is memory with what is free of it.
type arena struct {
	mem     []byte
	close   func() error
	free    []span // by off, neither adjacent nor empty
	largest int    // no free span is longer
}

type span struct{ off, len int }

// freed is memory that becomes free a grace period after a time, which advance
// notes when it is next called.
type freed struct {
	ptr    uint32
	size   int
	dated  bool
	before uint64
}

// newArenas makes the first arena. limit is in bytes; there is one arena at least.
func newArenas(limit int64, maker arenaMaker) *arenas {
	a := &arenas{
		limit: int(min(max(limit/arenaSize, 1), maxArenas)),
		make:  maker,
		made:  make(chan madeArena, maxArenas),
	}
	a.grow(1)
	return a
}

// kernelArenas makes the maps that are the values of outer.
func kernelArenas(outer *ebpf.Map) arenaMaker {
	return func(number int) (*arena, error) {
		inner, err := ebpf.NewMap(&ebpf.MapSpec{
			Name: "arena", Type: ebpf.Array,
			KeySize: 4, ValueSize: arenaSize, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
		})
		if err != nil {
			return nil, fmt.Errorf("create arena %d: %w", number, err)
		}
		defer inner.Close() // outer and the mapping hold it
		mem, err := unix.Mmap(inner.FD(), 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map arena %d: %w", number, err)
		}
		if err := outer.Put(uint32(number), inner); err != nil {
			return nil, errors.Join(fmt.Errorf("add arena %d: %w", number, err), unix.Munmap(mem))
		}
		return &arena{mem: mem, close: func() error { return unix.Munmap(mem) }}, nil
	}
}

// grow begins to make n arenas, as far as the limit allows.
func (a *arenas) grow(n int) {
	for ; n > 0 && len(a.list) < a.limit && a.err == nil; n-- {
		number := len(a.list)
		a.list = append(a.list, nil)
		a.making++
		a.wg.Go(func() {
			made, err := a.make(number)
			a.made <- madeArena{number, made, err}
		})
	}
}

// expect begins to make the arenas that n bytes will need.
func (a *arenas) expect(n int) {
	a.grow((n-a.room+arenaSize-1)/arenaSize - a.making)
}

// advance tells the time, CLOCK_MONOTONIC ns. It takes in arenas that were made
// and memory whose grace period is over.
func (a *arenas) advance(now uint64) {
	a.now = now
	a.absorb()
	i := 0
	for ; i < len(a.freed) && a.freed[i].dated && a.freed[i].before+grace <= now; i++ {
		a.freeing -= a.freed[i].size
		a.reuse(a.freed[i].ptr, a.freed[i].size)
	}
	a.freed = slices.Delete(a.freed, 0, i)
	for i := len(a.freed); i > 0 && !a.freed[i-1].dated; i-- {
		a.freed[i-1].dated, a.freed[i-1].before = true, now
	}
}

// absorb takes the arenas that were made meanwhile.
func (a *arenas) absorb() {
	for a.making > 0 {
		select {
		case m := <-a.made:
			a.take(m)
		default:
			return
		}
	}
}

func (a *arenas) take(m madeArena) {
	a.making--
	if m.err != nil {
		a.err = errors.Join(a.err, m.err)
		return
	}
	first := 0
	if m.number == 0 {
		first = arenaAlign // 0 points nowhere
	}
	m.free = []span{{first, arenaSize - first}}
	m.largest = arenaSize - first
	a.room += m.largest
	a.list[m.number] = m.arena
}

// count is how many arenas there are.
func (a *arenas) count() int {
	n := 0
	for _, r := range a.list {
		if r != nil {
			n++
		}
	}
	return n
}

// capacity is the bytes that there are or may be.
func (a *arenas) capacity() int {
	if a.err != nil {
		return (a.count() + a.making) * arenaSize
	}
	return a.limit * arenaSize
}

// growing reports whether there will be more room without anything being freed.
func (a *arenas) growing() bool { return a.making > 0 }

// alloc returns size bytes, arenaSize at most, with their arena pointer. They
// hold anything. ok is false if there is no room now: there may be later if the
// arenas are growing or memory is being freed.
func (a *arenas) alloc(size int) (ptr uint32, mem []byte, ok bool) {
	size = roundUp(size, arenaAlign)
	if size <= 0 || size > arenaSize {
		return 0, nil, false
	}
	a.absorb()
	for number, r := range a.list {
		if r == nil || r.largest < size {
			continue
		}
		off, ok := r.alloc(size)
		if !ok {
			continue
		}
		a.used += size
		a.room -= size
		if a.room < arenaSize/2 && a.making == 0 {
			a.grow(1)
		}
		return uint32(number<<arenaBits | off), r.mem[off : off+size : off+size], true
	}
	if a.making == 0 {
		a.grow(1)
	}
	return 0, nil, false
}

// alloc takes the first span that is long enough.
func (r *arena) alloc(size int) (off int, ok bool) {
	largest := 0
	for i, s := range r.free {
		if s.len >= size {
			if s.len == size {
				r.free = slices.Delete(r.free, i, i+1)
			} else {
				r.free[i] = span{s.off + size, s.len - size}
			}
			return s.off, true
		}
		largest = max(largest, s.len)
	}
	r.largest = largest
	return 0, false
}

// free gives memory back that BPF programs may still be reading.
func (a *arenas) free(ptr uint32, size int) {
	size = roundUp(size, arenaAlign)
	a.used -= size
	a.freeing += size
	a.freed = append(a.freed, freed{ptr: ptr, size: size})
}

// undo gives memory back that no BPF program knows of.
func (a *arenas) undo(ptr uint32, size int) {
	size = roundUp(size, arenaAlign)
	a.used -= size
	a.reuse(ptr, size)
}

// reuse adds a span to its arena's free ones.
func (a *arenas) reuse(ptr uint32, size int) {
	a.room += size
	r := a.list[ptr>>arenaBits]
	s := span{int(ptr & (arenaSize - 1)), size}
	i, _ := slices.BinarySearchFunc(r.free, s.off, func(s span, off int) int { return s.off - off })
	if i < len(r.free) && s.off+s.len == r.free[i].off {
		s.len += r.free[i].len
		r.free = slices.Delete(r.free, i, i+1)
	}
	if i > 0 && r.free[i-1].off+r.free[i-1].len == s.off {
		r.free[i-1].len += s.len
		s = r.free[i-1]
	} else {
		r.free = slices.Insert(r.free, i, s)
	}
	r.largest = max(r.largest, s.len)
}

// bytes is the memory at an arena pointer, to the end of the arena.
func (a *arenas) bytes(ptr uint32) []byte {
	return a.list[ptr>>arenaBits].mem[ptr&(arenaSize-1):]
}

// close waits for arenas that are being made and unmaps all.
func (a *arenas) close() error {
	a.wg.Wait()
	a.absorb()
	var errs []error
	for _, r := range a.list {
		if r != nil && r.close != nil {
			errs = append(errs, r.close())
		}
	}
	a.list = nil
	return errors.Join(errs...)
}

// roundUp is the least multiple of a power of two that is no less than n.
func roundUp(n, to int) int { return (n + to - 1) &^ (to - 1) }
