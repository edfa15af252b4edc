//go:build amd64 || arm64

package sampler

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"hotframe/bpf"
	"hotframe/internal/object"
	"hotframe/internal/proc"
	"hotframe/internal/testutil"
	"hotframe/unwind"
)

// published is what the kernel was told, with as many places as room says.
type published struct {
	spaces map[uint32]bpf.SamplerAddressSpace
	room   int
	puts   int
}

// testSpaces publishes to no kernel.
func testSpaces(t testing.TB, limit int64) (*spaces, *published) {
	k := &published{spaces: map[uint32]bpf.SamplerAddressSpace{}, room: 100}
	s := newSpaces(testTables(t, limit), nil)
	s.put = func(pid *uint32, v *bpf.SamplerAddressSpace) error {
		k.puts++
		if _, known := k.spaces[*pid]; !known && len(k.spaces) >= k.room {
			return unix.E2BIG
		}
		k.spaces[*pid] = *v
		return nil
	}
	s.remove = func(pid *uint32) error {
		delete(k.spaces, *pid)
		return nil
	}
	return s, k
}

// step lets all that is under way end, then advances the time.
func (s *spaces) step(t testing.TB, by uint64) {
	t.Helper()
	if !s.tables.wait(10 * time.Second) {
		t.Fatal("tables are not done")
	}
	for range 4 {
		s.arenas.settle()
		s.update(s.now)
	}
	s.update(s.now + by)
}

// kernelView looks addresses up as the BPF program does (bpf/walk.h).
type kernelView struct {
	mem   func(ptr uint32) []byte
	space func(pid int32) (bpf.SamplerAddressSpace, bool)
}

func (k *published) view(s *spaces) kernelView {
	return kernelView{s.arenas.bytes, func(pid int32) (bpf.SamplerAddressSpace, bool) {
		v, ok := k.spaces[uint32(pid)]
		return v, ok
	}}
}

// noRange is what find gives for an address in no range.
const noRange bpf.SamplerRangeKind = 100

// find is the kind of the range that holds an address, and its rule if it has a table.
func (k kernelView) find(pid int32, a Addr) (kind bpf.SamplerRangeKind, rule unwind.Rule) {
	v, ok := k.space(pid)
	if !ok || v.Count == 0 {
		return noRange, 0
	}
	le := binary.LittleEndian
	ranges := k.mem(v.Ranges)[:v.Count*rangeSize]
	for ; len(ranges) > 0; ranges = ranges[rangeSize:] {
		if start, end := le.Uint64(ranges), le.Uint64(ranges[8:]); uint64(a) < start || uint64(a) >= end {
			continue
		}
		kind = bpf.SamplerRangeKind(le.Uint32(ranges[28:]))
		if kind == bpf.SamplerRangeKindRANGE_TABLE {
			rule = findRule(k.mem, le.Uint32(ranges[24:]), uint64(a)-le.Uint64(ranges[16:]))
		}
		return kind, rule
	}
	return noRange, 0
}

// kinds are those of the ranges of all mappings of a process.
func (k kernelView) kinds(p *Process) string {
	s := ""
	for _, m := range p.Mappings() {
		kind, _ := k.find(p.PID, m.Start)
		s += map[bpf.SamplerRangeKind]string{
			bpf.SamplerRangeKindRANGE_FRAMES: "f", bpf.SamplerRangeKindRANGE_TABLE: "T",
			bpf.SamplerRangeKindRANGE_PENDING: "p", noRange: "-",
		}[kind]
	}
	return s
}

func TestPublish(t *testing.T) {
	s, k := testSpaces(t, 8<<20)
	view := k.view(s)
	s.step(t, 1)
	p := NewProcess(10, testMapping(1, 500), testMapping(2, 500),
		&Mapping{Start: 9 << 20, End: 10 << 20, Path: anonymous},
		&Mapping{Start: 11 << 20, End: 12 << 20, Path: "[vsyscall]"})
	want := func(p *Process, kinds string) {
		t.Helper()
		if got := view.kinds(p); got != kinds {
			t.Errorf("process %d: ranges %s, want %s", p.PID, got, kinds)
		}
	}
	s.publish(p)
	want(p, "ppf-")
	s.tables.get(p.Mappings()[0])
	s.publish(p)
	want(p, "ppf-")
	s.step(t, 1)
	want(p, "Tpf-")
	if kind, rule := view.find(10, 1<<20+16*3); kind != bpf.SamplerRangeKindRANGE_TABLE || rule != unwind.NewRule(unwind.KindSP, 4, 0) {
		t.Errorf("rule %#x", rule)
	}

	child := p.fork(11, 5)
	puts := k.puts
	s.forked(p, child)
	s.publish(child)
	want(child, "Tpf-")
	if k.puts != puts+1 || k.spaces[10] != k.spaces[11] || len(s.blocks) != 1 {
		t.Errorf("%d updates for a fork, %d blocks, want 1 and 1", k.puts-puts, len(s.blocks))
	}
	child.insert(testMapping(20, 300))
	s.changed(child)
	s.step(t, 1)
	want(child, "Tpf-p")
	want(p, "Tpf-")
	s.publish(NewProcess(12, testMapping(1, 500)))
	if view.kinds(NewProcess(12, testMapping(1, 500))) != "T" {
		t.Error("a table that another process has is not used at once")
	}

	gone := testMapping(2, 500)
	gone.Object = func() *object.File { return &object.File{Path: gone.Path} }
	s.tables.get(gone)
	s.step(t, 1)
	want(p, "Tff-")
	want(child, "Tff-p")

	image := &Process{PID: 10, Start: 100}
	s.forget(10)
	want(p, "----")
	s.publish(image)
	if v, ok := k.spaces[10]; !ok || v.Count != 0 {
		t.Errorf("an image without mappings: %+v, %v", v, ok)
	}
	s.publish(p)
	want(p, "----")
	for pid := range int32(20) {
		s.forget(pid)
	}
	s.step(t, 2*grace)
	if len(k.spaces) != 0 || len(s.blocks) != 0 || s.arenas.used != s.tables.of(testMapping(1, 500)).size {
		t.Errorf("%d spaces and %d blocks left, %d bytes used", len(k.spaces), len(s.blocks), s.arenas.used)
	}
}

// TestPublishWhileTablesMakeRoom evicts a table: nobody points to it when its memory
// is freed.
func TestPublishWhileTablesMakeRoom(t *testing.T) {
	s, k := testSpaces(t, 1<<20)
	view := k.view(s)
	s.step(t, 1)
	const rows = 60_000 // 360 KB: two fit
	var p [3]*Process
	for i := range p {
		p[i] = NewProcess(int32(i+1), testMapping(i+1, rows))
	}
	kinds := func() string { return view.kinds(p[0]) + view.kinds(p[1]) + view.kinds(p[2]) }
	for i := range 2 {
		s.publish(p[i])
		s.tables.get(p[i].Mappings()[0])
		s.step(t, 1)
	}
	if got := kinds(); got != "TT-" {
		t.Fatalf("ranges %s, want TT-", got)
	}
	s.step(t, keepUsed)
	s.publish(p[1])
	s.publish(p[2])
	s.tables.get(p[2].Mappings()[0])
	s.step(t, 1)
	if got := kinds(); got != "pTp" {
		t.Fatalf("ranges %s, want pTp", got)
	}
	s.step(t, 1)
	s.step(t, grace)
	if got := kinds(); got != "pTT" {
		t.Fatalf("ranges %s, want pTT", got)
	}
	for i := range p {
		for pc := Addr(0); pc < 0x4000; pc += 24 {
			a := p[i].Mappings()[0].Start + pc
			want, _ := s.tables.rule(p[i].Mappings()[0], a)
			if kind, got := view.find(p[i].PID, a); kind == bpf.SamplerRangeKindRANGE_TABLE && got != want {
				t.Fatalf("process %d: rule at %#x is %#x, want %#x", i, a, got, want)
			}
		}
	}
}

func TestPublishWithoutRoom(t *testing.T) {
	s, k := testSpaces(t, 1<<20)
	s.step(t, 1)
	ptr, _, ok := s.arenas.alloc(s.arenas.room)
	if !ok {
		t.Fatal("the only arena is not in one piece")
	}
	s.publish(NewProcess(1, testMapping(1, 200)))
	s.step(t, 1)
	if len(k.spaces) != 0 {
		t.Error("published without memory")
	}
	s.arenas.free(ptr, s.arenas.used)
	s.step(t, 1)
	s.step(t, grace)
	if len(k.spaces) != 1 {
		t.Error("not published when there is memory")
	}
	k.room = 1
	s.publish(NewProcess(2, testMapping(1, 200)))
	if len(k.spaces) != 1 || s.stats().Refused != 1 {
		t.Errorf("%d spaces, %+v", len(k.spaces), s.stats())
	}
	s.step(t, forgetIdle)
	s.publish(NewProcess(3, testMapping(1, 200)))
	if _, ok := k.spaces[3]; !ok || len(s.byPID) != 1 {
		t.Errorf("spaces %v, want the third process's in place of the idle one's", k.spaces)
	}
}

// TestSpacesAnyOrder does things in any order: what the kernel is told is always one
// of the states that its process had, rules are right, and nothing is left in the end.
func TestSpacesAnyOrder(t *testing.T) {
	evicted := 0
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			s, k := testSpaces(t, 1<<20)
			view := k.view(s)
			processes := map[int32]*Process{}
			for i := range 400 {
				pid := int32(1 + r.IntN(8))
				p := processes[pid]
				if p == nil {
					p = NewProcess(pid, testMapping(1+r.IntN(4), 60_000), testMapping(5+r.IntN(4), 1000))
					p.Start = uint64(i)
					processes[pid] = p
				}
				switch r.IntN(8) {
				case 0, 1:
					s.publish(p)
				case 2, 3:
					if m := p.Mappings(); len(m) > 0 {
						s.tables.get(m[r.IntN(len(m))])
					}
				case 4:
					child := p.fork(int32(1+r.IntN(8)), uint64(i))
					if child.PID != pid {
						processes[child.PID] = child
						s.forked(p, child)
					}
				case 5:
					p.insert(testMapping(10+r.IntN(3), 2000))
					s.changed(p)
				case 6:
					s.forget(pid)
					delete(processes, pid)
				case 7:
					s.step(t, r.Uint64N(2*keepUsed))
				}
				for pid, p := range processes {
					for _, m := range p.Mappings() {
						a := m.Start + Addr(r.IntN(0x4000))
						kind, got := view.find(pid, a)
						if kind != bpf.SamplerRangeKindRANGE_TABLE {
							continue
						}
						want := unwind.NewRule(unwind.KindSP, uint16(uint64(a-m.Start)/16%100+1), 0)
						if rows := int(a-m.Start)/16 + 1; rows >= 1000 && m.Start >= 5<<20 && m.Start < 9<<20 {
							want = 0 // the file's table ends there
						}
						if got != want {
							t.Fatalf("process %d: rule at %#x is %#x, want %#x", pid, a, got, want)
						}
					}
				}
			}
			for pid := range processes {
				s.forget(pid)
			}
			s.step(t, 1)
			evicted += s.tables.evicted
			tables := 0
			for _, tab := range s.tables.byFile {
				if tab.state == tableLoaded {
					tables += tab.size
				}
			}
			if len(s.byPID)+len(k.spaces)+len(s.blocks) != 0 || s.arenas.used != tables {
				t.Errorf("%d spaces, %d published, %d blocks left, %d bytes used, %d by tables",
					len(s.byPID), len(k.spaces), len(s.blocks), s.arenas.used, tables)
			}
		})
	}
	if evicted == 0 {
		t.Error("no table ever had to make room")
	}
}

// loadedMaps are the maps of the BPF program.
func loadedMaps(t testing.TB) (arenas, spaces *ebpf.Map) {
	t.Helper()
	spec, err := bpf.LoadSampler()
	if err != nil {
		t.Fatal(err)
	}
	var maps struct {
		Arenas *ebpf.Map `ebpf:"arenas"`
		Spaces *ebpf.Map `ebpf:"address_spaces"`
	}
	if err := spec.LoadAndAssign(&maps, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		maps.Arenas.Close()
		maps.Spaces.Close()
	})
	return maps.Arenas, maps.Spaces
}

// liveProcess is a running process as /proc has it.
func liveProcess(t testing.TB, pid int) *Process {
	store := object.NewStore(object.Config{})
	t.Cleanup(func() { store.Close() })
	ps := newProcesses(proc.FS("/"), monotonicNow, (&Config{Objects: store}).opener())
	ps.close()
	p, err := ps.read(int32(pid))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startSleeping starts a process that uses the C library, and waits until it is loaded.
func startSleeping(t testing.TB) (pid int) {
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sleep.Process.Kill()
		sleep.Wait()
	})
	for range 1000 {
		maps, _, _ := proc.FS("/").Maps(int32(sleep.Process.Pid))
		if slices.ContainsFunc(maps, func(m proc.Mapping) bool { return strings.Contains(m.Path, "libc") }) {
			return sleep.Process.Pid
		}
		time.Sleep(time.Millisecond)
	}
	t.Skip("sleep does not use a C library")
	return 0
}

// TestKernelHasTheTables publishes this process, a Go program, and one with the C library, and
// reads the rules of any address back from the kernel.
func TestKernelHasTheTables(t *testing.T) {
	testutil.NeedPrivileges(t)
	arenaMap, spaceMap := loadedMaps(t)
	a := newArenas(DefaultUnwindMemory, kernelArenas(arenaMap))
	defer a.close()
	ts := newTables(a)
	defer ts.close()
	s := newSpaces(ts, spaceMap)
	shell := startSleeping(t)
	processes := []*Process{liveProcess(t, os.Getpid()), liveProcess(t, shell)}
	for _, p := range processes {
		for _, m := range p.Mappings() {
			ts.get(p.Lookup(m.Start))
		}
		s.publish(p)
	}
	s.step(t, 1)
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Logf("%+v, %+v, failures %q", ts.stats(), s.stats(), ts.failures())

	memory := map[uint32][]byte{}
	view := kernelView{
		mem: func(ptr uint32) []byte {
			number := ptr >> arenaBits
			if memory[number] == nil {
				var inner *ebpf.Map
				if err := arenaMap.Lookup(number, &inner); err != nil {
					t.Fatal(err)
				}
				defer inner.Close()
				content, err := inner.LookupBytes(uint32(0))
				if err != nil {
					t.Fatal(err)
				}
				memory[number] = content
			}
			return memory[number][ptr&(arenaSize-1):]
		},
		space: func(pid int32) (v bpf.SamplerAddressSpace, ok bool) {
			err := spaceMap.Lookup(uint32(pid), &v)
			return v, err == nil
		},
	}
	r := rand.New(rand.NewPCG(1, 2))
	ruled := map[string]int{}
	for _, p := range processes {
		mappings := slices.DeleteFunc(p.Mappings(), func(m *Mapping) bool { return m.Path == "[vsyscall]" })
		for _, m := range mappings {
			m = p.Lookup(m.Start)
			tab := ts.of(m)
			for range 10_000 {
				pc := m.Start + Addr(r.Uint64N(uint64(m.End-m.Start)))
				want, _ := ts.rule(m, pc)
				wantKind := bpf.SamplerRangeKindRANGE_FRAMES
				if tab != nil && tab.state == tableLoaded {
					wantKind = bpf.SamplerRangeKindRANGE_TABLE
				}
				kind, got := view.find(p.PID, pc)
				if kind != wantKind || got != want {
					t.Fatalf("%s: %#x has kind %d and rule %#x, want %d and %#x", m.Path, pc, kind, got, wantKind, want)
				}
				if got != 0 {
					ruled[m.Path]++
				}
			}
		}
	}
	if ruled["[vdso]"] == 0 || len(ruled) < 3 {
		t.Errorf("addresses with a rule: %v; want some in the vDSO and two files at least", ruled)
	}
}

// BenchmarkPublish publishes a process of 40 mappings whose tables changed.
func BenchmarkPublish(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs rights to use BPF")
	}
	arenaMap, spaceMap := loadedMaps(b)
	a := newArenas(8<<20, kernelArenas(arenaMap))
	defer a.close()
	ts := newTables(a)
	defer ts.close()
	s := newSpaces(ts, spaceMap)
	var mappings []*Mapping
	for i := range 40 {
		mappings = append(mappings, testMapping(i+1, 1000))
	}
	p := NewProcess(int32(os.Getpid()), mappings...)
	a.settle()
	s.update(1)
	s.publish(p)
	tab := ts.of(mappings[7])
	b.Run("changed", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			state := tableUnknown
			if i%2 == 0 {
				state = tableFailed
			}
			ts.set(tab, state)
			s.publish(p)
			if i%1024 == 0 {
				s.update(s.now + 2*grace)
			}
		}
	})
	b.Run("same", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			s.publish(p)
		}
	})
	if s.stats().Processes != 1 {
		b.Errorf("%+v", s.stats())
	}
}
