//go:build linux

package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"hotframe/bpf"
)

// Of bpf/wire.h.
const (
	rangeSize = 32 // struct range
	maxRanges = 16384
)

// forgetIdle is how long a process is not sampled before others may take its place
// among those that the kernel knows, ns.
const forgetIdle = 60e9

// spaces publishes the executable mappings of processes to the BPF program, with
// the unwind tables of their files. It belongs to one goroutine.
type spaces struct {
	tables *tables
	arenas *arenas
	put    func(pid *uint32, v *bpf.SamplerAddressSpace) error
	remove func(pid *uint32) error

	byPID      map[int32]*space
	blocks     map[uint64]*rangeBlock // by hash, of those in use
	seed       maphash.Seed
	generation uint64 // of the tables that all spaces are made of
	stale      []*space
	now        uint64
	swept      uint64 // when idle processes were last forgotten

	ranges []byte   // scratch
	files  []*table // scratch
	key    uint32   // what put and remove are given, so that they allocate nothing
	value  bpf.SamplerAddressSpace

	cut, refused int
}

// A space is what is published of one process.
type space struct {
	process    *Process
	version    uint32      // of process, that block is made of
	generation uint64      // of the tables
	files      []*table    // those of process; may be another space's too
	block      *rangeBlock // nil while nothing is published
	sampled    uint64      // when it was, last
	stale      bool        // it is in spaces.stale
}

// A rangeBlock is ranges in the arenas. Processes with equal ones share it, as
// forked ones do.
type rangeBlock struct {
	memoryBlock
	hash uint64
	refs int
}

// newSpaces publishes to a map address_spaces.
func newSpaces(ts *tables, m *ebpf.Map) *spaces {
	return &spaces{
		tables: ts, arenas: ts.arenas,
		put:    func(pid *uint32, v *bpf.SamplerAddressSpace) error { return m.Put(pid, v) },
		remove: func(pid *uint32) error { return m.Delete(pid) },
		byPID:  make(map[int32]*space),
		blocks: make(map[uint64]*rangeBlock),
		seed:   maphash.MakeSeed(),
	}
}

// publish sees to it that the kernel knows p as it is now. p is the newest image
// of its process, which is alive and sampled: its tables count as in use.
func (s *spaces) publish(p *Process) {
	if p.PID <= 0 {
		return
	}
	sp := s.byPID[p.PID]
	if sp == nil {
		sp = &space{process: p}
		s.byPID[p.PID] = sp
	}
	if p.Start < sp.process.Start {
		return
	}
	current := sp.process == p && sp.current(s.tables)
	if current && sp.sampled == s.now {
		return
	}
	sp.process, sp.sampled = p, s.now
	if !current {
		s.write(sp)
	}
	for _, t := range sp.files {
		t.used = s.now
	}
}

// changed is publish for a process whose mappings changed, if it is published, by
// the next update.
func (s *spaces) changed(p *Process) {
	sp := s.byPID[p.PID]
	if sp == nil || p.Start < sp.process.Start {
		return
	}
	if sp.process != p {
		sp.process = p
		sp.version = p.mappingsVersion() - 1
	}
	s.later(sp)
}

// forked publishes a child as its parent is published.
func (s *spaces) forked(parent, child *Process) {
	s.forget(child.PID) // should its exit have been lost
	from := s.byPID[parent.PID]
	if from == nil || from.process != parent || from.block == nil || child.PID <= 0 {
		return
	}
	sp := &space{process: child, version: from.version, generation: from.generation, files: from.files, sampled: s.now}
	s.byPID[child.PID] = sp
	from.block.refs++
	s.point(sp, from.block)
}

// forget ends what is published of a process, upon its exit or exec.
func (s *spaces) forget(pid int32) {
	if sp := s.byPID[pid]; sp != nil {
		delete(s.byPID, pid)
		s.withdraw(sp)
	}
}

// update takes what became of tables and mappings since the last call, and publishes
// it. It is to be called several times a second, with the time, CLOCK_MONOTONIC ns.
func (s *spaces) update(now uint64) {
	s.now = now
	s.arenas.advance(now)
	s.tables.poll(now)
	stale := s.stale
	s.stale = nil
	for _, sp := range stale {
		sp.stale = false
		if s.byPID[sp.process.PID] == sp && !sp.current(s.tables) {
			s.write(sp)
		}
	}
	for s.generation != s.tables.generation { // writing may evict tables
		s.generation = s.tables.generation
		for _, sp := range s.byPID {
			if !sp.current(s.tables) {
				s.write(sp)
			}
		}
	}
	s.tables.release()
}

// current reports whether the space is made of the process and the tables as they are.
func (sp *space) current(ts *tables) bool {
	if sp.block == nil || sp.version != sp.process.mappingsVersion() {
		return false
	}
	if sp.generation == ts.generation {
		return true
	}
	for _, t := range sp.files {
		if t.changed > sp.generation {
			return false
		}
	}
	sp.generation = ts.generation
	return true
}

// write publishes a space anew. If there is no room for it the process becomes
// one that the kernel does not know, until the next update.
func (s *spaces) write(sp *space) {
	sp.generation = s.tables.generation
	s.build(sp)
	if sp.block != nil && bytes.Equal(s.content(sp.block), s.ranges) {
		return
	}
	b := s.intern()
	if b == nil {
		s.withdraw(sp)
		s.later(sp)
		return
	}
	s.point(sp, b)
}

// build makes s.ranges of the process's mappings, and notes the files.
func (s *spaces) build(sp *space) {
	s.ranges, s.files = s.ranges[:0], s.files[:0]
	p := sp.process
	p.mu.RLock()
	sp.version = p.version
	for _, m := range p.mappings {
		if m.Path == "[vsyscall]" {
			continue
		}
		if len(s.ranges) == maxRanges*rangeSize {
			s.cut++
			break
		}
		s.add(m)
	}
	p.mu.RUnlock()
	if !slices.Equal(sp.files, s.files) {
		sp.files = slices.Clone(s.files)
	}
}

// add appends the range of a mapping.
func (s *spaces) add(m *Mapping) {
	kind, ptr, bias := bpf.SamplerRangeKindRANGE_FRAMES, uint32(0), uint64(0)
	if t := s.tables.of(m); t != nil {
		s.files = append(s.files, t)
		switch t.state {
		case tableUnknown, tablePending:
			kind = bpf.SamplerRangeKindRANGE_PENDING
		case tableLoaded:
			if b, ok := t.bias(m); ok {
				kind, ptr, bias = bpf.SamplerRangeKindRANGE_TABLE, t.ptr, b
			}
		}
	}
	le := binary.LittleEndian
	s.ranges = le.AppendUint64(s.ranges, uint64(m.Start))
	s.ranges = le.AppendUint64(s.ranges, uint64(m.End))
	s.ranges = le.AppendUint64(s.ranges, bias)
	s.ranges = le.AppendUint32(s.ranges, ptr)
	s.ranges = le.AppendUint32(s.ranges, uint32(kind))
}

// intern returns a block with s.ranges for one more space, nil if there is no room.
func (s *spaces) intern() *rangeBlock {
	hash := maphash.Bytes(s.seed, s.ranges)
	known := s.blocks[hash]
	if known != nil && bytes.Equal(s.content(known), s.ranges) {
		known.refs++
		return known
	}
	b := &rangeBlock{memoryBlock: memoryBlock{size: len(s.ranges)}, hash: hash, refs: 1}
	if b.size > 0 {
		ptr, mem, ok := s.arenas.alloc(b.size)
		if !ok {
			if !s.arenas.growing() {
				s.tables.makeRoom(b.size)
			}
			return nil
		}
		b.ptr = ptr
		copy(mem, s.ranges)
	}
	if known == nil {
		s.blocks[hash] = b
	}
	return b
}

// content is what is in the block.
func (s *spaces) content(b *rangeBlock) []byte {
	if b.size == 0 {
		return nil
	}
	return s.arenas.bytes(b.ptr)[:b.size]
}

// point makes b, of which the space has a reference, the one that the kernel uses.
func (s *spaces) point(sp *space, b *rangeBlock) {
	old := sp.block
	sp.block = b
	s.key = uint32(sp.process.PID)
	s.value.Ranges, s.value.Count = b.ptr, uint32(b.size/rangeSize)
	err := s.put(&s.key, &s.value)
	if errors.Is(err, unix.E2BIG) && s.sweep(sp) {
		s.key = uint32(sp.process.PID)
		err = s.put(&s.key, &s.value)
	}
	if err != nil {
		s.refused++
		delete(s.byPID, sp.process.PID)
		s.withdraw(sp)
	}
	s.drop(old)
}

// sweep makes place for a process in the kernel's map: it forgets others that were not
// sampled for long.
func (s *spaces) sweep(but *space) bool {
	if s.swept == s.now {
		return false
	}
	s.swept = s.now
	before := len(s.byPID)
	for pid, sp := range s.byPID {
		if sp != but && sp.sampled+forgetIdle <= s.now {
			s.forget(pid)
		}
	}
	return len(s.byPID) < before
}

// withdraw makes the process one that the kernel does not know.
func (s *spaces) withdraw(sp *space) {
	if sp.block == nil {
		return
	}
	s.key = uint32(sp.process.PID)
	_ = s.remove(&s.key) // the only error is that it is not there
	s.drop(sp.block)
	sp.block = nil
}

func (s *spaces) drop(b *rangeBlock) {
	if b == nil {
		return
	}
	if b.refs--; b.refs > 0 {
		return
	}
	if s.blocks[b.hash] == b {
		delete(s.blocks, b.hash)
	}
	if b.size > 0 {
		s.arenas.free(b.ptr, b.size)
	}
}

// later has the next update look at a space.
func (s *spaces) later(sp *space) {
	if !sp.stale {
		sp.stale = true
		s.stale = append(s.stale, sp)
	}
}

// mappingsVersion tells states of the mappings apart.
func (p *Process) mappingsVersion() uint32 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.version
}

// spaceStats is the account of the spaces.
type spaceStats struct {
	Processes int // published
	Blocks    int // different ones
	Cut       int // times that a process had more than maxRanges mappings
	Refused   int // times that the kernel took no more processes
}

func (s *spaces) stats() spaceStats {
	st := spaceStats{Blocks: len(s.blocks), Cut: s.cut, Refused: s.refused}
	for _, sp := range s.byPID {
		if sp.block != nil {
			st.Processes++
		}
	}
	return st
}
