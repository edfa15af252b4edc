//go:build linux

package sampler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"hotframe/internal/object"
	"hotframe/unwind"
)

// A tableState says what is known of the unwind table of a file, and so how
// stacks in it are walked.
type tableState uint8

const (
	tableUnknown tableState = iota // nobody asked for it, or it made room for others: as pending
	tablePending                   // it is being made, or waits for room in the arenas: left to user space
	tableLoaded                    // it is in the arenas
	tableFailed                    // it cannot be had: walked by frame pointers
)

// A table is the unwind table of one file, in its place in the arenas. It
// belongs to the goroutine of its tables; all but get only read it.
type table struct {
	path     string
	state    tableState
	table    *unwind.Table    // nil until it is made; there while it waits for room, too
	segments []object.Segment // executable PT_LOADs, with table
	reason   error            // why it failed; nil for code that is of no ELF file
	retry    retry            // of one that failed

	ptr     uint32 // arena pointer to struct table, while loaded
	blocks  []memoryBlock
	size    int    // of blocks
	used    uint64 // when it was last known to be in use
	changed uint64 // generation of the last change of state between known, loaded and failed
}

// retry says when a failure may be over: once the file is mapped elsewhere than by
// the mapping, or from the time on. The zero retry is never.
type retry struct {
	unless *Mapping
	at     uint64
}

// bias is the difference between an address of a mapping of the file and the
// unwind.Row.PC that it stands for. ok is false where no code of the file is mapped.
func (t *table) bias(m *Mapping) (bias uint64, ok bool) {
	var most uint64
	end := m.Offset + uint64(m.End-m.Start)
	for _, s := range t.segments {
		// Mappings are of whole pages, so that the neighbours of a segment are in it too.
		low, high := max(s.Off, m.Offset), min(s.Off+s.Filesz, end)
		if low < high && high-low > most {
			most = high - low
			bias = uint64(m.Start) - m.Offset + s.Off - s.Vaddr + t.table.Base
		}
	}
	return bias, most > 0
}

// keepUsed is how long a table that was in use keeps its room, ns: else more
// tables than there is room for would be made over and over.
const keepUsed = 10e9

// retryRoom is how long a table for which there was no room is not asked for, ns.
const retryRoom = 60e9

// maxTables bounds the files that are known; those that have no table and were not
// in use of late are forgotten.
const maxTables = 16384

var errNoRoom = errors.New("no room for its unwind table")

// tables has the unwind tables of files: it has them made in the background and
// puts them into the arenas, where those that were not used for longest make
// room. It belongs to one goroutine.
type tables struct {
	arenas *arenas
	builds *builds

	byFile     map[tableKey]*table
	generation uint64 // grows with each table's changed
	now        uint64
	building   int
	waiting    []*table // made, but without room
	retired    []memoryBlock
	retiring   int // bytes of retired
	prune      int // when byFile has as many

	failed, evicted int
}

// tableKey names a file, as object.Store does.
type tableKey struct {
	device, inode uint64
	path          string
}

func newTables(a *arenas) *tables {
	return &tables{arenas: a, builds: newBuilds(), byFile: make(map[tableKey]*table), prune: maxTables}
}

// of is the table of the file behind a mapping, which is not asked for. It is nil
// where there is no file.
func (ts *tables) of(m *Mapping) *table {
	if m.Path != "[vdso]" && (m.Inode == 0 || m.isAnonymous()) {
		return nil
	}
	key := tableKey{m.Device, m.Inode, m.Path}
	t := ts.byFile[key]
	if t == nil {
		if len(ts.byFile) >= ts.prune {
			ts.forget()
		}
		t = &table{path: m.Path, used: ts.now}
		ts.byFile[key] = t
	}
	return t
}

// forget drops the tables that are not there and not in use. Who knows them looks
// them up again, as if they had changed.
func (ts *tables) forget() {
	for key, t := range ts.byFile {
		if (t.state == tableUnknown || t.state == tableFailed) && t.used+keepUsed <= ts.now {
			ts.generation++
			t.changed = ts.generation
			delete(ts.byFile, key)
		}
	}
	ts.prune = max(maxTables, 2*len(ts.byFile))
}

// get is of for code that runs: the table is made if it is not there. m is from
// Process.Lookup, which gives it its Object.
func (ts *tables) get(m *Mapping) *table {
	t := ts.of(m)
	if t == nil {
		return nil
	}
	t.used = ts.now
	if m.Object != nil && (t.state == tableUnknown || t.state == tableFailed && t.retry.due(m, ts.now)) {
		ts.request(t, m)
	}
	return t
}

func (r retry) due(m *Mapping, now uint64) bool {
	return r.unless != nil && r.unless != m || r.at != 0 && r.at <= now
}

// rule is the unwind rule of an address in m, which is from Process.Lookup. known
// is false while the table is being made; where there is none the rule is KindNone.
func (ts *tables) rule(m *Mapping, pc Addr) (rule unwind.Rule, known bool) {
	t := ts.get(m)
	if t == nil || t.table == nil {
		return unwind.Rule(unwind.KindNone), t == nil || t.state != tablePending
	}
	bias, ok := t.bias(m)
	if !ok {
		return unwind.Rule(unwind.KindNone), true
	}
	return t.table.Lookup(uint64(pc) - bias + t.table.Base), true
}

// request opens the file, while it is there, and leaves the rest to the workers.
func (ts *tables) request(t *table, m *Mapping) {
	f := m.Object()
	if f.Kind != object.ELF {
		ts.fail(t, nil)
		return
	}
	r, size, err := f.Open()
	if err != nil {
		ts.fail(t, err)
		t.retry.unless = m
		return
	}
	ts.set(t, tablePending)
	ts.building++
	ts.builds.add(job{t, r, size})
}

// set changes the state, and tells if stacks are walked in another way.
func (ts *tables) set(t *table, state tableState) {
	if t.state != state && !(t.state <= tablePending && state <= tablePending) {
		ts.generation++
		t.changed = ts.generation
	}
	t.state = state
	if state != tableFailed {
		t.reason, t.retry = nil, retry{}
	}
}

func (ts *tables) fail(t *table, reason error) {
	if reason != nil && t.state != tableFailed {
		ts.failed++
	}
	ts.set(t, tableFailed)
	t.reason = reason
	t.table, t.segments = nil, nil
}

// poll takes what was made meanwhile and puts it into the arenas. It tells the time.
func (ts *tables) poll(now uint64) {
	ts.now = now
	for _, b := range ts.builds.take() {
		ts.building--
		if b.err != nil {
			ts.fail(b.owner, b.err)
			continue
		}
		t := b.owner
		t.table, t.segments, t.used = b.table, b.segments, now
		t.blocks, t.size = measure(t.table.Rows), 0
		for _, m := range t.blocks {
			t.size += m.size
		}
		ts.waiting = append(ts.waiting, t)
	}
	if len(ts.waiting) > 0 {
		ts.place()
	}
}

// place puts tables that wait into the arenas as far as there is room. For the
// rest it gets room, which comes later. Tables wait as long as all others are in use;
// what could not be held then fails for a while.
func (ts *tables) place() {
	need, capacity := 0, ts.arenas.capacity()
	ts.waiting = slices.DeleteFunc(ts.waiting, func(t *table) bool {
		if t.size > capacity/2 {
			ts.fail(t, fmt.Errorf("%w: %d of %d bytes", errNoRoom, t.size, capacity))
			return true
		}
		if t.size <= ts.arenas.room {
			if ptr, ok := ts.arenas.place(t.table.Rows, t.blocks); ok {
				t.ptr = ptr
				ts.set(t, tableLoaded)
				return true
			}
		}
		if need+t.size > capacity {
			ts.fail(t, errNoRoom)
			t.retry.at = ts.now + retryRoom
			return true
		}
		need += t.size
		return false
	})
	if need == 0 {
		return
	}
	if ts.arenas.expect(need); !ts.arenas.growing() {
		ts.makeRoom(need)
	}
}

// makeRoom evicts tables that were not used for longest until n bytes are free or
// about to be; none if that does not come to n. spaces must stop using them before release.
func (ts *tables) makeRoom(n int) {
	coming := ts.arenas.freeing + ts.retiring
	n -= ts.arenas.room + coming
	if n <= 0 && coming == 0 {
		n = 1 // there is enough, in pieces that are too short
	}
	if n <= 0 {
		return
	}
	var idle []*table
	most := 0
	for _, t := range ts.byFile {
		if t.state == tableLoaded && t.used+keepUsed <= ts.now {
			idle = append(idle, t)
			most += t.size
		}
	}
	if most < n {
		return // it would not do
	}
	slices.SortFunc(idle, func(a, b *table) int { return cmp.Compare(a.used, b.used) })
	for _, t := range idle {
		if n <= 0 {
			return
		}
		n -= t.size
		ts.evict(t)
	}
}

func (ts *tables) evict(t *table) {
	ts.evicted++
	ts.retired = append(ts.retired, t.blocks...)
	ts.retiring += t.size
	t.table, t.segments, t.blocks, t.ptr, t.size = nil, nil, nil, 0, 0
	ts.set(t, tableUnknown)
}

// release frees the memory of evicted tables, which nobody points to any more.
func (ts *tables) release() {
	for _, b := range ts.retired {
		ts.arenas.free(b.ptr, b.size)
	}
	ts.retired, ts.retiring = ts.retired[:0], 0
}

// pending is how many tables are being made.
func (ts *tables) pending() int { return ts.building }

// wait waits until nothing is being made, at most for a time, and reports whether
// it came to that.
func (ts *tables) wait(timeout time.Duration) bool {
	expired := time.NewTimer(timeout)
	defer expired.Stop()
	for ts.poll(ts.now); ts.building > 0; ts.poll(ts.now) {
		select {
		case <-ts.builds.finished:
		case <-expired.C:
			return false
		}
	}
	return true
}

// A tableFailure is a file without an unwind table, and why.
type tableFailure struct{ Path, Reason string }

// failures lists the files that are known to have no table, by path.
func (ts *tables) failures() []tableFailure {
	var list []tableFailure
	for _, t := range ts.byFile {
		if t.state == tableFailed && t.reason != nil {
			list = append(list, tableFailure{t.path, t.reason.Error()})
		}
	}
	slices.SortFunc(list, func(a, b tableFailure) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Reason, b.Reason))
	})
	return list
}

// tableStats is the account of the tables.
type tableStats struct {
	Loaded  int   // tables in the arenas
	Pending int   // being made, or waiting for room
	Failed  int   // failures, of all time
	Evicted int   // times that a table made room for others
	Bytes   int64 // in use in the arenas: tables and address spaces
	Memory  int64 // of the arenas
	Err     error // why the arenas are fewer than permitted
}

func (ts *tables) stats() tableStats {
	st := tableStats{
		Failed: ts.failed, Evicted: ts.evicted,
		Bytes: int64(ts.arenas.used), Memory: int64(ts.arenas.count()) * arenaSize, Err: ts.arenas.err,
	}
	for _, t := range ts.byFile {
		switch t.state {
		case tableLoaded:
			st.Loaded++
		case tablePending:
			st.Pending++
		}
	}
	return st
}

// close ends the builds.
func (ts *tables) close() { ts.builds.stop() }
