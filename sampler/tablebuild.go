//go:build linux

package sampler

import (
	"cmp"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"hotframe/internal/object"
	"hotframe/unwind"
)

// largeFile is the size from which files may not keep all workers busy, bytes.
const largeFile = 32 << 20

// builds makes unwind tables in background goroutines, those of small files
// first. Its methods may be called from one goroutine.
type builds struct {
	make     func(r io.ReaderAt, size int64) (*unwind.Table, error)
	workers  int           // at most, two at least
	finished chan struct{} // gets something when there are builds to take
	stopping atomic.Bool
	wg       sync.WaitGroup

	mu      sync.Mutex
	queue   []job // by size
	done    []built
	running int // workers
	large   int // of them on large files
}

type job struct {
	table *table // whose it is; not looked at
	r     io.ReaderAt
	size  int64
}

// built is what became of a job.
type built struct {
	owner    *table
	table    *unwind.Table // nil if it cannot be made
	segments []object.Segment
	err      error
}

func newBuilds() *builds {
	return &builds{
		make:     unwind.Build,
		workers:  max(2, min(4, runtime.NumCPU())),
		finished: make(chan struct{}, 1),
	}
}

func (b *builds) add(j job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, _ := slices.BinarySearchFunc(b.queue, j, func(a, j job) int {
		return cmp.Or(cmp.Compare(a.size, j.size), -1) // behind those of its size
	})
	b.queue = slices.Insert(b.queue, i, j)
	if b.running < b.workers {
		b.running++
		b.wg.Go(b.work)
	}
}

// work makes tables until there is nothing to do.
func (b *builds) work() {
	for {
		j, ok := b.next()
		if !ok {
			return
		}
		done := b.build(j)
		b.mu.Lock()
		if j.size > largeFile {
			b.large--
		}
		b.done = append(b.done, done)
		b.mu.Unlock()
		select {
		case b.finished <- struct{}{}:
		default:
		}
	}
}

// next takes the smallest file. When it gives none, the worker ends: large files
// that are left wait for the others.
func (b *builds) next() (j job, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 || b.queue[0].size > largeFile && b.large >= b.workers-1 {
		b.running--
		return j, false
	}
	j = b.queue[0]
	b.queue = slices.Delete(b.queue, 0, 1)
	if j.size > largeFile {
		b.large++
	}
	return j, true
}

func (b *builds) build(j job) built {
	r := stoppable{j.r, &b.stopping}
	h, err := object.ReadHeaders(r, j.size)
	if err != nil {
		return built{owner: j.table, err: err}
	}
	t, err := b.make(r, j.size)
	if err != nil {
		return built{owner: j.table, err: err}
	}
	var segments []object.Segment
	for _, s := range h.Segments {
		if s.Type == object.SegmentLoad && s.Flags&object.SegmentExec != 0 {
			segments = append(segments, s)
		}
	}
	return built{owner: j.table, table: t, segments: segments}
}

// take returns what was built since the last call.
func (b *builds) take() []built {
	b.mu.Lock()
	defer b.mu.Unlock()
	done := b.done
	b.done = nil
	return done
}

// stop ends the builds and waits for that.
func (b *builds) stop() {
	b.stopping.Store(true)
	b.wg.Wait()
}

// stoppable reads until it is stopped.
type stoppable struct {
	io.ReaderAt
	stopping *atomic.Bool
}

var errStopped = errors.New("stopped")

func (s stoppable) ReadAt(p []byte, off int64) (int, error) {
	if s.stopping.Load() {
		return 0, errStopped
	}
	return s.ReaderAt.ReadAt(p, off)
}
