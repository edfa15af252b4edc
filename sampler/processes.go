package sampler

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"hotframe/internal/proc"
)

// keepRetired is how long the images of a process stay known after its exit or
// exec, ns of record time: samples of it may be read later than its records.
const keepRetired = 5e9

// maxImages bounds the images kept of one process.
const maxImages = 32

// resyncWait is the time between two reads of the /proc entry of a process
// with too many mappings, ns.
const resyncWait = 1e9

// processes is the timeline of all processes: it learns from perf records, and
// from /proc what was there before them, and says what a pid was at a time. It
// belongs to one goroutine.
type processes struct {
	fs   proc.FS
	now  func() uint64 // CLOCK_MONOTONIC ns
	open opener

	byPID   map[int32]*history
	retired []retirement // by time, those before head are done
	head    int
	latest  uint64 // time of the newest record

	scanner    scanner
	scanned    uint64 // when the last scan was started
	lostAt     uint64 // time of the newest loss of records
	overflowed uint64 // mappings that were not kept

	symbols     []KernelSymbol
	symbolsLost uint64

	watcher watcher // nil when nobody asks
}

// A watcher is told what becomes of processes, when it is applied.
type watcher interface {
	changed(p *Process)            // p is new, or its mappings are
	forked(parent, child *Process) // child begins with the parent's mappings
	forget(pid int32)              // the image that pid had is over
}

// A KernelSymbol is code that the kernel made or removed during the recording,
// such as a BPF program, from its time on.
type KernelSymbol struct {
	Time       uint64 // CLOCK_MONOTONIC ns
	Start, End Addr
	Name       string
	Gone       bool
}

// maxKernelSymbols bounds what is kept of them.
const maxKernelSymbols = 16384

// A history is what one pid was.
type history struct {
	images []*Process // by Start, at least one
	ended  uint64     // when the last thread that is known of exited; 0 = it lives
	asOf   uint64     // records of this time or before are contained in what /proc said; 0 = it was not read
	resync uint64     // when its mappings were last read anew because they overflowed
	fresh  bool       // nobody has the newest image yet, so that it may change
	blind  bool       // the first image is not from /proc nor from a record of its start
}

// A retirement is a time from which something about a process will not be asked for.
type retirement struct {
	time uint64
	pid  int32
}

// newProcesses returns a timeline that begins to read /proc. The records are
// to be on already, so that nothing falls in between.
func newProcesses(root proc.FS, now func() uint64, open opener) *processes {
	p := &processes{fs: root, now: now, open: open, byPID: make(map[int32]*history)}
	p.byPID[0] = &history{images: []*Process{{PID: 0}}}   // the idle tasks
	p.byPID[-1] = &history{images: []*Process{{PID: -1}}} // tasks that exit and have no pid any more
	p.scanned = now()
	p.scanner.start(p)
	return p
}

// close waits for the scan of /proc to end.
func (p *processes) close() { p.scanner.stop() }

// at returns what pid was at the given time. A pid that is not known is read
// from /proc if it still lives.
func (p *processes) at(pid int32, time uint64) *Process {
	if h := p.byPID[pid]; h != nil && !h.fresh {
		if newest := h.images[len(h.images)-1]; newest.Start <= time {
			return newest
		}
	}
	return p.atSlow(pid, time)
}

// current reports whether img is what its process is now, as far as is known.
func (p *processes) current(img *Process) bool {
	h := p.byPID[img.PID]
	return h != nil && h.ended == 0 && h.images[len(h.images)-1] == img
}

func (p *processes) atSlow(pid int32, time uint64) *Process {
	h := p.known(pid, time)
	i := h.at(time)
	if h.fresh && i == len(h.images)-1 {
		// A container runtime moves a process to its cgroup between fork and exec.
		if cgroup, err := p.fs.Cgroup(pid); err == nil {
			h.images[i].Cgroup = cgroup
		}
		h.fresh = false
	}
	return h.images[i]
}

// at is the index of the image at the given time, the first if all are later.
func (h *history) at(time uint64) int {
	for i := len(h.images) - 1; i > 0; i-- {
		if h.images[i].Start <= time {
			return i
		}
	}
	return 0
}

// add puts an image in its place by time.
func (h *history) add(img *Process) {
	i := len(h.images)
	for i > 0 && h.images[i-1].Start > img.Start {
		i--
	}
	if i == len(h.images) {
		h.fresh = true
	}
	h.images = slices.Insert(h.images, i, img)
	if len(h.images) > maxImages {
		h.images = slices.Delete(h.images, 0, 1)
	}
}

// known returns the history of a pid, from the scan or else from /proc.
func (p *processes) known(pid int32, time uint64) *history {
	if h := p.byPID[pid]; h != nil {
		return h
	}
	p.absorb()
	if h := p.byPID[pid]; h != nil {
		return h
	}
	asOf := p.now()
	img, err := p.read(pid)
	h := &history{images: []*Process{img}, asOf: asOf}
	if err != nil {
		h.blind, h.asOf = true, 0
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		p.end(h, pid, time)
	}
	p.byPID[pid] = h
	return h
}

// read makes an image from what /proc says now, one without mappings if it says
// nothing. It is safe for use by several goroutines.
func (p *processes) read(pid int32) (*Process, error) {
	img := &Process{PID: pid, open: p.open}
	maps, _, err := p.fs.Maps(pid)
	if err != nil {
		return img, err
	}
	img.Exe, _ = p.fs.Exe(pid)       // kernel threads have none
	img.Cgroup, _ = p.fs.Cgroup(pid) // the process may have ended meanwhile
	img.mappings = make([]*Mapping, 0, min(len(maps), maxMappings))
	for _, m := range maps {
		path := m.Path
		if path == "" {
			path = anonymous
		}
		img.insert(&Mapping{Start: Addr(m.Start), End: Addr(m.End), Offset: m.Offset,
			Path: path, Device: m.Device, Inode: m.Inode, pid: pid})
	}
	return img, nil
}

// apply takes one record. Records come in the order of their times, but for
// those that were written at the same moment on different CPUs.
func (p *processes) apply(r *perfRecord) {
	if p.scanner.ready.Load() {
		p.absorb()
	}
	switch {
	case r.Type == perfLost:
		p.lostAt = r.Time
	case r.Type == perfKsymbol:
		p.kernelSymbol(r)
	case r.PID <= 0: // of another pid namespace
	case r.Type == perfFork && r.PID != r.PPID:
		p.fork(r)
	case r.Type == perfComm && r.Exec:
		p.exec(r)
	case r.Type == perfMmap2 && r.Exec:
		p.mmap(r)
	case r.Type == perfExit:
		p.exit(r)
	}
	p.latest = max(p.latest, r.Time)
	p.reap()
	if p.lostAt > p.scanned && p.latest > p.scanned+scanWait && p.scanner.start(p) {
		p.scanned = p.latest
	}
}

// fork begins a process with its parent's mappings.
func (p *processes) fork(r *perfRecord) {
	h := p.byPID[r.PID]
	if h != nil && r.Time <= h.asOf {
		return
	}
	parent := p.known(r.PPID, r.Time)
	image := parent.images[parent.at(r.Time)]
	child := image.fork(r.PID, r.Time)
	if p.watcher != nil {
		p.watcher.forked(image, child)
	}
	if h == nil {
		p.byPID[r.PID] = &history{images: []*Process{child}, fresh: true}
		return
	}
	if h.ended <= r.Time { // the pid is used again
		h.ended = 0
	}
	p.supersede(h, child)
}

// exec begins a new image, whose mappings follow.
func (p *processes) exec(r *perfRecord) {
	if p.watcher != nil {
		p.watcher.forget(r.PID)
	}
	img := &Process{PID: r.PID, Start: r.Time, open: p.open}
	h := p.byPID[r.PID]
	if h == nil {
		p.byPID[r.PID] = &history{images: []*Process{img}, fresh: true}
		return
	}
	if r.Time <= h.asOf {
		return
	}
	img.Cgroup = h.images[h.at(r.Time)].Cgroup
	if h.ended <= r.Time { // the old leader's exit: another thread called exec
		h.ended = 0
	}
	p.supersede(h, img)
}

// supersede adds an image that ends the one before it.
func (p *processes) supersede(h *history, img *Process) {
	h.add(img)
	p.retire(img.PID, img.Start)
}

// mmap adds a mapping to the image of its time. Where it lies over a mapping
// of something else the process gets a new image, unless nobody has the old one yet.
func (p *processes) mmap(r *perfRecord) {
	h := p.known(r.PID, r.Time)
	if r.Time <= h.asOf {
		return
	}
	m := &Mapping{Start: r.Start, End: r.End, Offset: r.Offset, Path: r.Name, Device: r.Device, Inode: r.Inode, pid: r.PID}
	i := h.at(r.Time)
	img := h.images[i]
	private := h.fresh && i == len(h.images)-1
	if img.Exe == "" && img.Start > 0 && m.Inode != 0 && len(img.mappings) == 0 { // the first that exec maps
		if !private {
			img = img.fork(img.PID, img.Start)
		}
		img.Exe = m.Path
		h.images[i] = img
	}
	switch img.insert(m) {
	case conflicts:
		if private {
			h.images[i] = img.replace(m, img.Start)
		} else {
			p.supersede(h, img.replace(m, r.Time))
		}
	case overflows:
		p.overflow(h, r)
	}
	if p.watcher != nil {
		p.watcher.changed(h.images[len(h.images)-1])
	}
}

// overflow reads the mappings of a process anew, as many of those known may be
// gone, and counts the one that has no place.
func (p *processes) overflow(h *history, r *perfRecord) {
	p.overflowed++
	if h.ended != 0 || r.Time < h.resync+resyncWait {
		return
	}
	h.resync = r.Time
	asOf := p.now()
	img, err := p.read(r.PID)
	if err != nil {
		return // it is gone
	}
	h.asOf = asOf
	img.Start = r.Time
	p.supersede(h, img)
}

func (p *processes) kernelSymbol(r *perfRecord) {
	if len(p.symbols) >= maxKernelSymbols {
		p.symbolsLost++
		return
	}
	p.symbols = append(p.symbols, KernelSymbol{r.Time, r.Start, r.End, r.Name, r.Gone})
}

// exit ends a process with its leader, or with a thread that outlived it.
func (p *processes) exit(r *perfRecord) {
	h := p.byPID[r.PID]
	if h == nil || r.PID != r.TID && h.ended == 0 {
		return
	}
	if newest := h.images[len(h.images)-1]; r.Time < newest.Start {
		return // the pid is in use again
	}
	p.end(h, r.PID, r.Time)
}

// end notes that a process ended.
func (p *processes) end(h *history, pid int32, time uint64) {
	if p.watcher != nil {
		p.watcher.forget(pid)
	}
	h.ended = max(h.ended, time, 1)
	p.retire(pid, time)
}

func (p *processes) retire(pid int32, time uint64) {
	p.retired = append(p.retired, retirement{time, pid})
}

// reap forgets what retired long enough ago.
func (p *processes) reap() {
	for p.head < len(p.retired) && p.retired[p.head].time+keepRetired <= p.latest {
		p.forget(p.retired[p.head].pid)
		p.head++
	}
	if p.head == len(p.retired) {
		p.retired, p.head = p.retired[:0], 0
	} else if p.head > 1024 && p.head > len(p.retired)/2 {
		p.retired = append(p.retired[:0], p.retired[p.head:]...)
		p.head = 0
	}
}

// forget drops the images of a process that were over keepRetired ago, all of them
// if it ended.
func (p *processes) forget(pid int32) {
	h := p.byPID[pid]
	if h == nil {
		return
	}
	horizon := p.latest - min(p.latest, keepRetired)
	over := 0
	for over+1 < len(h.images) && h.images[over+1].Start <= horizon {
		over++
	}
	if over > 0 {
		h.images = slices.Delete(h.images, 0, over)
		h.blind = false
	}
	if h.ended == 0 || h.ended > horizon {
		return
	}
	if tids, err := p.fs.TIDs(pid); err == nil && len(tids) > 1 {
		h.ended = 0 // only the leader exited
		return
	}
	delete(p.byPID, pid)
}

// Bounds on the names kept. Exits that were lost leave names behind, and a thread
// may be sampled for a moment after its exit was recorded.
const (
	maxThreads = 1 << 16
	keepExited = 4096
)

// threads knows the names of threads: from records, and from /proc when there
// was none. It belongs to one goroutine.
type threads struct {
	fs    proc.FS
	comms map[int32]Comm // by tid

	exited []int32 // tids of the last exits, a ring
	oldest int     // of exited
}

func newThreads(root proc.FS) *threads {
	return &threads{fs: root, comms: map[int32]Comm{0: NewComm("swapper")}}
}

// comm is the name of a thread of p now. For one that is gone and was never
// named it is the leader's, or else the one that exec gives: the executable's.
func (t *threads) comm(p *Process, tid int32) Comm {
	if c, ok := t.comms[tid]; ok {
		return c
	}
	var c Comm
	if name, err := t.fs.Comm(p.PID, tid); err == nil {
		c = NewComm(name)
	} else if leader, ok := t.comms[p.PID]; ok {
		c = leader
	} else if p.Exe != "" {
		c = NewComm(path.Base(strings.TrimSuffix(p.Exe, " (deleted)")))
	}
	t.set(tid, c)
	return c
}

func (t *threads) set(tid int32, c Comm) {
	if len(t.comms) >= maxThreads {
		swapper := t.comms[0]
		clear(t.comms)
		t.comms[0] = swapper
	}
	t.comms[tid] = c
}

// apply takes one record, in the order of their times. A fork is called by
// parent, a thread of r.PPID.
func (t *threads) apply(r *perfRecord, parent *Process) {
	if r.TID <= 0 {
		return
	}
	switch r.Type {
	case perfComm:
		t.set(r.TID, r.Comm)
	case perfFork:
		t.set(r.TID, t.comm(parent, r.PTID))
	case perfExit:
		t.exit(r.TID)
	}
}

// exit forgets the thread that exited keepExited exits ago. Should its tid be in
// use again, the name is read anew.
func (t *threads) exit(tid int32) {
	if len(t.exited) < keepExited {
		t.exited = append(t.exited, tid)
		return
	}
	delete(t.comms, t.exited[t.oldest])
	t.exited[t.oldest] = tid
	t.oldest = (t.oldest + 1) % keepExited
}
