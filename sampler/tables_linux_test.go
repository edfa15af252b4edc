//go:build amd64 || arm64

package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"hotframe/bpf"
	"hotframe/internal/object"
	"hotframe/unwind"
)

func TestTableLayoutMatchesBPF(t *testing.T) {
	for _, s := range []struct {
		name   string
		go_, c uintptr
	}{
		{"table", tableHeaderSize, unsafe.Sizeof(bpf.SamplerTable{})},
		{"table_page", tablePageSize, unsafe.Sizeof(bpf.SamplerTablePage{})},
		{"range", rangeSize, unsafe.Sizeof(bpf.SamplerRange{})},
		{"range.table", 24, unsafe.Offsetof(bpf.SamplerRange{}.Table)},
		{"table_page.count", 4, unsafe.Offsetof(bpf.SamplerTablePage{}.Count)},
	} {
		if s.go_ != s.c {
			t.Errorf("%s: %d in Go, %d in C", s.name, s.go_, s.c)
		}
	}
}

// findRule does as find_rule() in bpf/walk.h.
func findRule(mem func(ptr uint32) []byte, table uint32, pc uint64) unwind.Rule {
	le := binary.LittleEndian
	t := mem(table)
	page := pc >> 16
	if page >= uint64(le.Uint32(t)) {
		return 0
	}
	entry := t[8+8*page:]
	ptr, count := le.Uint32(entry), int(le.Uint32(entry[4:]))
	if count == 0 || count > 0xffff {
		return 0
	}
	rows := mem(ptr)
	i := 0
	for i < count && le.Uint16(rows[2*i:]) <= uint16(pc) {
		i++
	}
	if i == 0 {
		return 0
	}
	return unwind.Rule(le.Uint32(rows[(2*count+3)&^3+4*(i-1):]))
}

// FuzzPlace: what the BPF program finds in the arenas is what the Table says, and
// what lies around the table is not written to.
func FuzzPlace(f *testing.F) {
	f.Add([]byte{}, uint64(1))
	f.Add([]byte{0, 0, 1, 1, 0, 2, 255, 255, 0}, uint64(2))
	f.Add([]byte{255, 255, 1, 255, 255, 2, 1, 0, 3, 255, 255, 0}, uint64(3))
	f.Add(bytes.Repeat([]byte{0, 1, 9, 5, 0, 0}, 3000), uint64(4))
	f.Add(bytes.Repeat([]byte{1, 0, 9, 1, 0, 2}, 40000), uint64(5)) // a row for each byte
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		if len(in) > 1<<18 {
			return
		}
		table := &unwind.Table{Base: 0x10000}
		pc, span := uint64(0), uint64(1)
		inPage := map[uint64]int{} // rows but for the first byte
		for ; len(in) >= 3; in = in[3:] {
			pc += uint64(in[0]) | uint64(in[1])<<8
			if n := len(table.Rows); pc >= math.MaxUint32 || n > 0 && uint64(table.Rows[n-1].PC) >= pc {
				continue
			}
			table.Rows = append(table.Rows, unwind.Row{PC: uint32(pc), Rule: unwind.Rule(in[2])})
			span = pc + 1
			if pc&0xffff != 0 {
				inPage[pc>>16]++
			}
		}
		if len(table.Rows) > 0 { // as Build ends its tables
			table.Rows = append(table.Rows, unwind.Row{PC: uint32(span)})
		}
		a := newArenas(8*arenaSize, plainArenas)
		defer a.close()
		a.settle()
		for {
			blocks := measure(table.Rows)
			room := a.room
			ptr, ok := a.place(table.Rows, blocks)
			if !ok {
				if a.room != room || a.used != 0 {
					t.Fatalf("%d bytes free after a table without room, before %d", a.room, room)
				}
				a.expect(8 * arenaSize)
				a.settle()
				continue
			}
			size := 0
			for _, b := range blocks {
				size += b.size
			}
			if a.used != size {
				t.Fatalf("%d bytes used, %d measured", a.used, size)
			}
			check := func(pc uint64) {
				want := table.Lookup(table.Base + pc)
				if inPage[pc>>16] >= maxPageRows { // with one for the first byte more than the BPF program searches
					want = 0
				}
				if got := findRule(a.bytes, ptr, pc); got != want {
					t.Fatalf("rule at %#x is %#x, want %#x", pc, got, want)
				}
			}
			r := rand.New(rand.NewPCG(seed, 0))
			for range 200 {
				check(r.Uint64N(span + 1<<17))
			}
			for range min(200, len(table.Rows)) {
				row := table.Rows[r.IntN(len(table.Rows))]
				check(uint64(row.PC))
				check(max(uint64(row.PC), 1) - 1)
			}
			return
		}
	})
}

// tinyELF is an ELF file with one executable segment, of size bytes in all.
func tinyELF(size int) []byte {
	b := make([]byte, max(size, 64+56))
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], object.TypeDyn)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[32:], 64) // e_phoff
	le.PutUint16(b[54:], 56) // e_phentsize
	le.PutUint16(b[56:], 1)  // e_phnum
	le.PutUint32(b[64:], object.SegmentLoad)
	le.PutUint32(b[68:], 5)
	le.PutUint64(b[80:], testVaddr)
	le.PutUint64(b[96:], 0x4000)  // p_filesz
	le.PutUint64(b[104:], 0x4000) // p_memsz
	return b
}

const testVaddr = 0x40_0000

// testMapping maps a tinyELF named by number at 1 MiB * number.
func testMapping(number, size int) *Mapping {
	path := fmt.Sprintf("/lib/%d.so", number)
	f := object.NewFile(object.ELF, path, bytes.NewReader(tinyELF(size)), int64(size))
	start := Addr(number) << 20
	return &Mapping{Start: start, End: start + 0x4000, Path: path, Inode: uint64(number),
		Object: func() *object.File { return f }}
}

// testRows are n rows, the last one without a rule.
func testRows(n int) []unwind.Row {
	rows := make([]unwind.Row, n)
	for i := range rows {
		rows[i] = unwind.Row{PC: uint32(16 * i), Rule: unwind.NewRule(unwind.KindSP, uint16(i%100+1), 0)}
	}
	rows[n-1].Rule = 0
	return rows
}

// testTables make Tables with as many rows as a file has bytes.
func testTables(t testing.TB, limit int64) *tables {
	ts := newTables(newArenas(limit, plainArenas))
	ts.builds.make = func(_ io.ReaderAt, size int64) (*unwind.Table, error) {
		return &unwind.Table{Base: testVaddr, Rows: testRows(int(size))}, nil
	}
	t.Cleanup(func() {
		ts.close()
		if err := ts.arenas.close(); err != nil {
			t.Error(err)
		}
	})
	return ts
}

// step lets all that is under way end, and advances the time.
func (ts *tables) step(t testing.TB, by uint64) {
	t.Helper()
	if !ts.wait(10 * time.Second) {
		t.Fatal("tables are not done")
	}
	for range 4 {
		ts.arenas.settle()
		ts.arenas.advance(ts.now)
		ts.poll(ts.now)
	}
	ts.arenas.advance(ts.now + by)
	ts.poll(ts.now + by)
}

func TestTableIsMadeWhenAskedFor(t *testing.T) {
	ts := testTables(t, 4<<20)
	m := testMapping(1, 500)
	tab := ts.of(m)
	if tab.state != tableUnknown || ts.pending() != 0 {
		t.Error("a table that nobody asked for is made")
	}
	if _, known := ts.rule(m, m.Start); known {
		t.Error("the rule of a table that is being made is known")
	}
	before := ts.generation
	ts.step(t, 1)
	if ts.get(m) != tab || tab.state != tableLoaded || ts.generation == before {
		t.Fatalf("state %d, generation %d, before %d", tab.state, ts.generation, before)
	}
	pc := m.Start + 16*7 + 3
	bias, ok := tab.bias(m)
	if want := unwind.NewRule(unwind.KindSP, 8, 0); !ok || findRule(ts.arenas.bytes, tab.ptr, uint64(pc)-bias) != want {
		t.Errorf("the kernel does not find %#x", want)
	} else if got, known := ts.rule(m, pc); got != want || !known {
		t.Errorf("rule = %#x, %v, want %#x", got, known, want)
	}
	if st := ts.stats(); st.Loaded != 1 || st.Bytes != int64(tab.size) || st.Memory != arenaSize {
		t.Errorf("%+v", st)
	}
}

func TestTableOfMappingsWithoutFile(t *testing.T) {
	ts := testTables(t, 4<<20)
	for _, m := range []*Mapping{
		{Path: anonymous}, {Path: "[heap]"}, {Path: "[uprobes]"}, {Path: "/dev/zero (deleted)", Inode: 7},
	} {
		if ts.get(m) != nil {
			t.Errorf("%s has a table", m.Path)
		}
		if rule, known := ts.rule(m, 0); rule != 0 || !known {
			t.Errorf("%s: rule %#x, known %v", m.Path, rule, known)
		}
	}
	if _, known := ts.rule(&Mapping{Path: "/lib/x.so", Inode: 1}, 0); !known {
		t.Error("the rule in a file that cannot be opened is waited for")
	}
	perfMap := testMapping(3, 100)
	perfMap.Path, perfMap.Inode = "/memfd:jit", 3
	perfMap.Object = func() *object.File { return &object.File{Kind: object.PerfMap, Path: "/tmp/perf-1.map"} }
	if tab := ts.get(perfMap); tab.state != tableFailed || len(ts.failures()) != 0 {
		t.Errorf("run-time compiled code: state %d, failures %v", tab.state, ts.failures())
	}
}

func TestTableFailures(t *testing.T) {
	ts := testTables(t, 4<<20)
	ts.builds.make = func(io.ReaderAt, int64) (*unwind.Table, error) { return nil, unwind.ErrNoInfo }
	gone := testMapping(1, 200)
	gone.Object = func() *object.File { return &object.File{Path: gone.Path} }
	ts.get(gone)
	ts.get(testMapping(2, 200))
	ts.step(t, 1)
	want := []tableFailure{
		{"/lib/1.so", "/lib/1.so: file is gone"},
		{"/lib/2.so", "no unwind information"},
	}
	if got := ts.failures(); !slices.Equal(got, want) || ts.stats().Failed != 2 {
		t.Errorf("failures %q, %d", got, ts.stats().Failed)
	}
	ts.get(gone)
	ts.get(testMapping(2, 200))
	if ts.pending() != 0 {
		t.Error("what cannot succeed is tried again")
	}
	ts.get(testMapping(1, 200)) // another process has the file open
	if ts.pending() != 1 || ts.of(gone).state != tablePending {
		t.Error("a file that another process has is not tried again")
	}
	ts.step(t, 1)
}

// TestTablesMakeRoom fills the arenas: what was not used for longest goes, what is in
// use stays, and a table without room is there for user space until there is.
func TestTablesMakeRoom(t *testing.T) {
	ts := testTables(t, 1<<20)
	const rows = 50_000 // 300 KB: three fit
	var m [5]*Mapping
	var tab [5]*table
	for i := range m {
		m[i] = testMapping(i+1, rows)
	}
	for i := range 3 {
		tab[i] = ts.get(m[i])
		ts.step(t, 1e9)
		if tab[i].state != tableLoaded {
			t.Fatalf("table %d: state %d, %d bytes of %d free", i, tab[i].state, ts.arenas.room, arenaSize)
		}
	}
	tab[3] = ts.get(m[3])
	ts.step(t, 1e9)
	if _, known := ts.rule(m[3], m[3].Start); tab[3].state != tablePending || !known || ts.evicted != 0 {
		t.Fatalf("state %d, known %v, %d evicted; want all others kept while they are in use", tab[3].state, known, ts.evicted)
	}
	ts.get(m[0])
	ts.step(t, keepUsed-2.5e9)
	if tab[0].state != tableLoaded || tab[1].state != tableUnknown || tab[2].state != tableLoaded {
		t.Fatalf("states %d, %d, %d; want the second, idle for longest, to make room", tab[0].state, tab[1].state, tab[2].state)
	}
	ts.step(t, 5e9)
	if tab[3].state != tablePending || ts.evicted != 1 {
		t.Fatal("memory is used again before it was released, or more than needed is")
	}
	ts.release()
	ts.step(t, 1)
	if tab[3].state != tablePending {
		t.Fatal("memory is used again at once")
	}
	ts.step(t, grace)
	if tab[3].state != tableLoaded || tab[2].state != tableLoaded {
		t.Fatalf("states %d, %d; want the table loaded where the other was", tab[3].state, tab[2].state)
	}
	ts.get(m[1])
	ts.step(t, 1)
	if tab[1].state == tableUnknown || tab[1].table == nil {
		t.Error("an evicted table is not made again")
	}
	tab[4] = ts.get(testMapping(6, 100_000))
	ts.step(t, 1)
	if tab[4].state != tableFailed || !errors.Is(tab[4].reason, errNoRoom) {
		t.Errorf("a table too large for the arenas: state %d, %v", tab[4].state, tab[4].reason)
	}
}

func TestTablesForgetIdleFiles(t *testing.T) {
	ts := testTables(t, 1<<20)
	ts.prune = 10
	kept := ts.get(testMapping(1, 200))
	ts.step(t, 1)
	var first *table
	for i := range 9 {
		first = ts.of(testMapping(10+i, 200))
	}
	ts.step(t, keepUsed)
	ts.of(testMapping(30, 100))
	if len(ts.byFile) != 2 || first.changed != ts.generation && first.changed == 0 || ts.of(testMapping(1, 200)) != kept {
		t.Errorf("%d files known, want 2", len(ts.byFile))
	}
}

// TestBuildsOrder: small files first, and never all workers on large ones.
func TestBuildsOrder(t *testing.T) {
	b := newBuilds()
	b.workers = 2
	var order []int64
	begin, release := make(chan int64), make(chan struct{})
	b.make = func(_ io.ReaderAt, size int64) (*unwind.Table, error) {
		begin <- size
		<-release
		return &unwind.Table{}, nil
	}
	elf := bytes.NewReader(tinyELF(0))
	add := func(size int64) { b.add(job{&table{}, elf, size}) }
	add(largeFile + 1)
	order = append(order, <-begin)
	add(largeFile + 2)
	add(1001)
	order = append(order, <-begin)
	add(1003)
	add(1002)
	b.mu.Lock()
	var queue []int64
	for _, j := range b.queue {
		queue = append(queue, j.size)
	}
	b.mu.Unlock()
	if want := []int64{1002, 1003, largeFile + 2}; !slices.Equal(queue, want) {
		t.Errorf("queue %v, want %v", queue, want)
	}
	close(release)
	for range 3 {
		order = append(order, <-begin)
		b.mu.Lock()
		if b.large > 1 {
			t.Error("all workers are on large files")
		}
		b.mu.Unlock()
	}
	b.stop()
	if order[0] != largeFile+1 || order[1] != 1001 {
		t.Errorf("order %v: the small file waits for large ones", order)
	}
	if n := len(b.take()); n != 5 {
		t.Errorf("%d of 5 tables", n)
	}
}

func TestBuildsStop(t *testing.T) {
	b := newBuilds()
	reading := make(chan struct{})
	b.make = func(r io.ReaderAt, size int64) (*unwind.Table, error) {
		close(reading)
		for {
			if _, err := r.ReadAt(make([]byte, 1), 0); err != nil {
				return nil, err
			}
		}
	}
	b.add(job{&table{}, bytes.NewReader(tinyELF(0)), 1000})
	<-reading
	b.stop()
	if done := b.take(); len(done) != 1 || !errors.Is(done[0].err, errStopped) {
		t.Errorf("%+v, want the build stopped", done)
	}
}

func BenchmarkLoadTable(b *testing.B) {
	rows := testRows(1 << 20)
	a := newArenas(16<<20, plainArenas)
	defer a.close()
	a.expect(16 << 20)
	a.settle()
	b.ReportAllocs()
	for range b.N {
		blocks := measure(rows)
		if _, ok := a.place(rows, blocks); !ok {
			b.Fatal("no room")
		}
		for _, m := range blocks {
			a.undo(m.ptr, m.size)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(rows))/b.Elapsed().Seconds(), "rows/s")
}
