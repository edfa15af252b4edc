package sampler

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hotframe/internal/object"
	"hotframe/internal/proc"
)

// A world is a fake /proc and a clock for a timeline.
type world struct {
	t    testing.TB
	root string
	time uint64
	*processes
}

const second = 1e9

// newWorld has a timeline whose scan of /proc found the given processes, at
// time 100 s.
func newWorld(t testing.TB, pids ...int32) *world {
	w := &world{t: t, root: t.TempDir(), time: 100 * second}
	for _, pid := range pids {
		w.exists(pid, fmt.Sprintf("/bin/%d", pid), fmt.Sprintf("401000-402000 r-xp 1000 8:1 %d /bin/%d\n", pid, pid))
	}
	if err := os.MkdirAll(filepath.Join(w.root, "proc"), 0o777); err != nil {
		t.Fatal(err)
	}
	w.processes = newProcesses(proc.FS(w.root), func() uint64 { return w.time }, nil)
	w.settle()
	return w
}

// settle waits for the scan and takes its result.
func (w *world) settle() {
	w.scanner.wg.Wait()
	w.absorb()
}

// exists puts a process of one thread into /proc.
func (w *world) exists(pid int32, exe, maps string) {
	w.t.Helper()
	dir := filepath.Join(w.root, "proc", fmt.Sprint(pid))
	if err := os.MkdirAll(filepath.Join(dir, "task", fmt.Sprint(pid)), 0o777); err != nil {
		w.t.Fatal(err)
	}
	if exe != "" {
		os.Remove(filepath.Join(dir, "exe"))
		if err := os.Symlink(exe, filepath.Join(dir, "exe")); err != nil {
			w.t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"maps": maps, "cgroup": fmt.Sprintf("0::/cg%d\n", pid)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			w.t.Fatal(err)
		}
	}
}

// vanishes removes a process from /proc.
func (w *world) vanishes(pid int32) {
	if err := os.RemoveAll(filepath.Join(w.root, "proc", fmt.Sprint(pid))); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fork(time uint64, parent, child int32) {
	w.apply(&perfRecord{Type: perfFork, Time: time, PID: child, TID: child, PPID: parent, PTID: parent})
}

func (w *world) exec(time uint64, pid int32) {
	w.apply(&perfRecord{Type: perfComm, Time: time, PID: pid, TID: pid, Exec: true, Comm: NewComm("x")})
}

func (w *world) exit(time uint64, pid, tid int32) {
	w.apply(&perfRecord{Type: perfExit, Time: time, PID: pid, TID: tid})
}

// mmap maps the file with the given inode, or anonymous memory for "".
func (w *world) mmap(time uint64, pid int32, start, end Addr, path string) {
	r := &perfRecord{Type: perfMmap2, Time: time, PID: pid, TID: pid, Exec: true, Start: start, End: end, Name: path}
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		r.Device, r.Inode = proc.Mkdev(8, 1), uint64(len(path))<<8|uint64(path[len(path)-1])
	}
	w.apply(r)
}

// describe is a process in one line: its start, executable and mappings.
func describe(p *Process) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d@%d %s:", p.PID, p.Start/second, p.Exe)
	for _, m := range p.Mappings() {
		fmt.Fprintf(&b, " %x-%x+%x=%s", uint64(m.Start), uint64(m.End), m.Offset, m.Path)
	}
	return b.String()
}

// TestTimeline tells what a pid is at times of 100 s (before all records) and
// later, after records in the order given.
func TestTimeline(t *testing.T) {
	const old = "7@0 /bin/7: 401000-402000+1000=/bin/7"
	type question struct {
		pid  int32
		time uint64
		want string
	}
	tests := []struct {
		name string
		do   func(w *world)
		ask  []question
	}{
		{"a process of before the recording", func(w *world) {}, []question{{7, 101, old}}},
		{"it is known when it exits before its first sample is read", func(w *world) {
			w.vanishes(7)
			w.exit(102*second, 7, 7)
		}, []question{{7, 101, old}, {7, 103, old}}},
		{"fork copies the mappings, also of a parent that is gone", func(w *world) {
			w.vanishes(7)
			w.fork(102*second, 7, 8)
			w.mmap(103*second, 8, 0x7000, 0x8000, "/lib/a")
		}, []question{
			{8, 104, "8@102 /bin/7: 7000-8000+0=/lib/a 401000-402000+1000=/bin/7"},
			{7, 104, old},
		}},
		{"what the parent maps later is not the child's", func(w *world) {
			w.fork(102*second, 7, 8)
			w.mmap(103*second, 7, 0x7000, 0x8000, "/lib/a")
		}, []question{
			{8, 104, "8@102 /bin/7: 401000-402000+1000=/bin/7"},
			{7, 104, "7@0 /bin/7: 7000-8000+0=/lib/a 401000-402000+1000=/bin/7"},
		}},
		{"a new thread is no new process", func(w *world) {
			w.apply(&perfRecord{Type: perfFork, Time: 102 * second, PID: 7, TID: 70, PPID: 7, PTID: 7})
		}, []question{{7, 103, old}}},
		{"a new name is no exec", func(w *world) {
			w.apply(&perfRecord{Type: perfComm, Time: 102 * second, PID: 7, TID: 7, Comm: NewComm("x")})
		}, []question{{7, 103, old}}},
		{"exec starts with no mappings; the first file is the executable", func(w *world) {
			w.exec(102*second, 7)
			w.mmap(102*second+1, 7, 0x1000, 0x2000, "/bin/new")
			w.mmap(102*second+2, 7, 0x5000, 0x6000, "/lib/ld")
		}, []question{
			{7, 101, old},
			{7, 103, "7@102 /bin/new: 1000-2000+0=/bin/new 5000-6000+0=/lib/ld"},
		}},
		{"exec, asked before the first mapping came", func(w *world) {
			w.exec(102*second, 7)
			w.at(7, 102*second)
			w.mmap(102*second+1, 7, 0x1000, 0x2000, "/bin/new")
		}, []question{{7, 103, "7@102 /bin/new: 1000-2000+0=/bin/new"}}},
		{"fork and exec of a process unknown to /proc", func(w *world) {
			w.fork(102*second, 7, 8)
			w.exec(103*second, 8)
			w.mmap(103*second+1, 8, 0x1000, 0x2000, "/bin/new")
			w.exit(104*second, 8, 8)
		}, []question{
			{8, 102, "8@102 /bin/7: 401000-402000+1000=/bin/7"},
			{8, 105, "8@103 /bin/new: 1000-2000+0=/bin/new"},
		}},
		{"records of two CPUs out of order: exec before its fork", func(w *world) {
			w.exec(103*second, 8)
			w.mmap(103*second+1, 8, 0x1000, 0x2000, "/bin/new")
			w.fork(102*second, 7, 8)
		}, []question{
			{8, 102, "8@102 /bin/7: 401000-402000+1000=/bin/7"},
			{8, 104, "8@103 /bin/new: 1000-2000+0=/bin/new"},
		}},
		{"records of two CPUs out of order: a mapping of before the exec", func(w *world) {
			w.exec(103*second, 7)
			w.mmap(102*second, 7, 0x1000, 0x2000, "/lib/a")
		}, []question{
			{7, 102, "7@0 /bin/7: 1000-2000+0=/lib/a 401000-402000+1000=/bin/7"},
			{7, 104, "7@103 :"},
		}},
		{"another file over a part of a mapping is another image", func(w *world) {
			w.mmap(102*second, 7, 0x401400, 0x401800, "/lib/a")
		}, []question{
			{7, 101, old},
			{7, 103, "7@102 /bin/7: 401000-401400+1000=/bin/7 401400-401800+0=/lib/a 401800-402000+1800=/bin/7"},
		}},
		{"another file over several mappings", func(w *world) {
			w.mmap(101*second, 7, 0x402000, 0x403000, "/lib/a")
			w.mmap(102*second, 7, 0x401800, 0x402800, "/lib/b")
		}, []question{
			{7, 103, "7@102 /bin/7: 401000-401800+1000=/bin/7 401800-402800+0=/lib/b 402800-403000+800=/lib/a"},
		}},
		{"run-time compiled code grows as one mapping", func(w *world) {
			w.mmap(102*second, 7, 0x10000, 0x11000, "//anon")
			w.mmap(102*second, 7, 0x11000, 0x12000, "//anon")
			w.mmap(102*second, 7, 0xf000, 0x10800, "//anon")
			w.mmap(102*second, 7, 0x10000, 0x10400, "//anon")
			w.mmap(102*second, 7, 0x20000, 0x21000, "//anon")
		}, []question{{7, 103, "7@0 /bin/7: f000-12000+0=//anon 20000-21000+0=//anon 401000-402000+1000=/bin/7"}}},
		{"an exited process is forgotten five seconds later, not earlier", func(w *world) {
			w.fork(102*second, 7, 8)
			w.vanishes(7)
			w.exit(103*second, 7, 7)
			w.exit(107*second, 8, 8)
			if w.at(7, 103*second).Exe != "/bin/7" {
				w.t.Error("forgotten too early")
			}
			w.exit(108*second, 9, 9)
		}, []question{{7, 108, "7@0 :"}, {8, 108, "8@102 /bin/7: 401000-402000+1000=/bin/7"}}},
		{"a pid that is used again", func(w *world) {
			w.exit(102*second, 7, 7)
			w.fork(103*second, 9, 7)
			w.exec(103*second, 7)
			w.mmap(103*second, 7, 0x1000, 0x2000, "/bin/new")
			w.exit(120*second, 99, 99)
		}, []question{{7, 121, "7@103 /bin/new: 1000-2000+0=/bin/new"}}},
		{"a late exit record of the pid's former owner", func(w *world) {
			w.vanishes(7)
			w.fork(103*second, 9, 7)
			w.exit(102*second, 7, 7)
			w.exit(120*second, 99, 99)
		}, []question{{7, 121, "7@103 /bin/9: 401000-402000+1000=/bin/9"}}},
		{"threads that outlive the leader", func(w *world) {
			if err := os.MkdirAll(filepath.Join(w.root, "proc/7/task/70"), 0o777); err != nil {
				w.t.Fatal(err)
			}
			w.exit(102*second, 7, 7)
			w.exit(120*second, 99, 99)
			w.vanishes(7)
		}, []question{{7, 121, old}}},
		{"exec by a thread that is not the leader", func(w *world) {
			w.exit(102*second, 7, 7) // the kernel ends the leader, the thread takes its place
			w.exec(102*second+1, 7)
			w.mmap(102*second+2, 7, 0x1000, 0x2000, "/bin/new")
			w.vanishes(7)
			w.exit(120*second, 99, 99)
		}, []question{{7, 121, "7@102 /bin/new: 1000-2000+0=/bin/new"}}},
		{"a pid that only /proc knows", func(w *world) {
			w.exists(8, "/bin/late", "1000-2000 r-xp 0 8:1 5 /bin/late\n3000-4000 r-xp 0 0:0 0 \n")
		}, []question{{8, 103, "8@0 /bin/late: 1000-2000+0=/bin/late 3000-4000+0=//anon"}}},
		{"a pid that nobody knows", func(w *world) {}, []question{{8, 103, "8@0 :"}}},
		{"records that /proc already contains", func(w *world) {
			w.time = 105 * second
			w.exists(8, "/bin/late", "1000-2000 r-xp 0 8:1 5 /bin/late\n")
			w.at(8, 103*second)
			w.exec(104*second, 8)
			w.mmap(104*second, 8, 0x1800, 0x2800, "/lib/before")
		}, []question{{8, 106, "8@0 /bin/late: 1000-2000+0=/bin/late"}}},
		{"the idle tasks and exiting ones have no mappings", func(w *world) {}, []question{{0, 103, "0@0 :"}, {-1, 103, "-1@0 :"}}},
		{"records of other pid namespaces", func(w *world) {
			w.apply(&perfRecord{Type: perfMmap2, Time: 102 * second, Exec: true, Start: 1, End: 2, Name: "/x"})
		}, []question{{0, 103, "0@0 :"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 7, 9)
			defer w.close()
			tt.do(w)
			for _, q := range tt.ask {
				got := describe(w.at(q.pid, q.time*second))
				if got != q.want {
					t.Errorf("at %d s: %s\nwant      %s", q.time, got, q.want)
				}
			}
		})
	}
}

// TestLoss: after records were lost, /proc tells what they would have.
func TestLoss(t *testing.T) {
	tests := []struct {
		name string
		lost func(w *world)
		pid  int32
		want string
	}{
		{"a process", func(w *world) {
			w.exists(8, "/bin/8", "1000-2000 r-xp 0 8:1 5 /bin/8\n")
		}, 8, "8@0 /bin/8: 1000-2000+0=/bin/8"},
		{"a mapping", func(w *world) {
			w.exists(7, "/bin/7", "401000-402000 r-xp 1000 8:1 7 /bin/7\n5000-6000 r-xp 0 8:1 9 /lib/a\n")
		}, 7, "7@0 /bin/7: 5000-6000+0=/lib/a 401000-402000+1000=/bin/7"},
		{"an exec", func(w *world) {
			w.exists(7, "/bin/new", "1000-2000 r-xp 0 8:1 9 /bin/new\n")
		}, 7, "7@102 /bin/new: 1000-2000+0=/bin/new"},
		{"nothing of a process that has become a zombie", func(w *world) {
			w.exists(7, "", "")
		}, 7, "7@0 /bin/7: 401000-402000+1000=/bin/7"},
		{"nothing of a file that was deleted meanwhile", func(w *world) {
			w.exists(7, "/bin/7 (deleted)", "401000-402000 r-xp 1000 8:1 7 /bin/7 (deleted)\n")
		}, 7, "7@0 /bin/7: 401000-402000+1000=/bin/7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 7)
			defer w.close()
			w.at(7, 101*second)
			tt.lost(w)
			w.time = 103 * second
			w.apply(&perfRecord{Type: perfLost, Time: 102 * second, Lost: 5})
			w.settle()
			w.vanishes(tt.pid) // what is known now is from the scan
			if got := describe(w.at(tt.pid, 104*second)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestLostExitsAreFound(t *testing.T) {
	w := newWorld(t, 7, 9)
	defer w.close()
	w.vanishes(7)
	w.time = 103 * second
	w.apply(&perfRecord{Type: perfLost, Time: 102 * second, Lost: 5})
	w.settle()
	w.exit(120*second, 99, 99)
	if w.byPID[7] != nil || w.byPID[9] == nil {
		t.Errorf("after the scan: 7 is %v, 9 is %v; want 7 forgotten", w.byPID[7], w.byPID[9])
	}
}

// TestScanAfterRecords: the scan of the start is slower than the first records.
func TestScanAfterRecords(t *testing.T) {
	image := func(w *world) scanned {
		img, err := w.read(7)
		if err != nil {
			t.Fatal(err)
		}
		return scanned{asOf: 101 * second, img: img}
	}
	t.Run("an exec after the scan", func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.exec(102*second, 7)
		w.exists(7, "/bin/7", "401000-402000 r-xp 1000 8:1 7 /bin/7\n")
		w.join(image(w))
		if got, want := describe(w.at(7, 101*second)), "7@0 /bin/7: 401000-402000+1000=/bin/7"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := describe(w.at(7, 103*second)), "7@102 :"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("a fork before the scan", func(t *testing.T) {
		w := newWorld(t, 9)
		defer w.close()
		w.fork(100*second+1, 9, 7)
		w.exists(7, "/bin/7", "401000-402000 r-xp 1000 8:1 7 /bin/7\n")
		w.join(image(w))
		if got := w.at(7, 100*second); got.Start != 100*second+1 {
			t.Errorf("got %s, want what the fork made", describe(got))
		}
	})
	t.Run("an exec between a look at the process and the scan, whose record is not read yet", func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.exists(7, "/bin/7", "401000-402000 r-xp 1000 8:1 7 /bin/7\n")
		w.at(7, 100*second)
		w.exists(7, "/bin/new", "1000-2000 r-xp 0 8:1 9 /bin/new\n")
		w.join(image(w))
		w.exec(100*second+1, 7)
		w.mmap(100*second+2, 7, 0x1000, 0x2000, "/bin/new")
		if got, want := describe(w.at(7, 100*second)), "7@0 /bin/7: 401000-402000+1000=/bin/7"; got != want {
			t.Errorf("before the exec: %s, want %s", got, want)
		}
		if got, want := describe(w.at(7, 103*second)), "7@100 /bin/new: 1000-2000+0=/bin/new"; got != want {
			t.Errorf("after the exec: %s, want %s", got, want)
		}
	})
	t.Run("a mapping of a process that could not be read then", func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.mmap(102*second, 7, 0x1000, 0x2000, "/lib/a")
		w.exists(7, "/bin/7", "401000-402000 r-xp 1000 8:1 7 /bin/7\n1800-2000 r-xp 0 8:1 3 /lib/old\n")
		w.join(image(w))
		if got, want := describe(w.at(7, 103*second)), "7@0 : 1000-2000+0=/lib/a 401000-402000+1000=/bin/7"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestPointersMeanEqualMappings(t *testing.T) {
	w := newWorld(t, 7)
	defer w.close()
	first := w.at(7, 101*second)
	w.mmap(102*second, 7, 0x1000, 0x2000, "/lib/a")
	if w.at(7, 103*second) != first {
		t.Error("a mapping beside the others makes another Process")
	}
	before := first.Mappings()
	w.mmap(104*second, 7, 0x1000, 0x2000, "/lib/b")
	w.mmap(105*second, 7, 0x1000, 0x2000, "/lib/a") // nobody asked in between
	second := w.at(7, 106*second)
	if second == first {
		t.Error("a mapping in place of another leaves the Process as it was")
	}
	if !slices.Equal(first.Mappings(), before) {
		t.Error("the first Process changed")
	}
}

func TestCgroupOfAContainer(t *testing.T) {
	w := newWorld(t, 7)
	defer w.close()
	if got := w.at(7, 101*second).Cgroup; got != "/cg7" {
		t.Errorf("cgroup of a scanned process = %q", got)
	}
	w.fork(102*second, 7, 8)
	w.exists(8, "", "") // in a cgroup of its own before it is sampled
	if got := w.at(8, 103*second).Cgroup; got != "/cg8" {
		t.Errorf("cgroup of a child that was moved = %q", got)
	}
	w.fork(104*second, 7, 9)
	if got := w.at(9, 105*second).Cgroup; got != "/cg7" {
		t.Errorf("cgroup of a child that is gone = %q, want its parent's", got)
	}
}

// TestHostileMappings: a million executable mappings of one process, upwards and
// downwards, stay within bounds; so does one that replaces its mappings forever.
func TestHostileMappings(t *testing.T) {
	w := newWorld(t, 7)
	defer w.close()
	w.vanishes(7)
	for i := range Addr(500_000) {
		w.mmap(102*second+uint64(i), 7, 0x1000000+i<<13, 0x1001000+i<<13, "/lib/a")
		w.mmap(102*second+uint64(i), 7, 0x7f0000000000-i<<13, 0x7f0000001000-i<<13, "/lib/b")
	}
	p := w.at(7, 103*second)
	if n := len(p.mappings); n > maxMappings || n < maxMappings/2 {
		t.Errorf("%d mappings are kept", n)
	}
	if want := uint64(1_000_000 - maxMappings); w.overflowed < want {
		t.Errorf("%d mappings are counted as not kept, want %d or more", w.overflowed, want)
	}
	for i := range uint64(1000) {
		w.mmap(104*second+i, 7, 0x1000000, 0x1001000, "/lib/"+string('c'+rune(i%2)))
		w.at(7, 104*second+i)
	}
	if n := len(w.byPID[7].images); n > maxImages {
		t.Errorf("%d images are kept", n)
	}
}

// TestOverflowDropsUnmapped: when mappings do not fit any more, those that are
// gone make room.
func TestOverflowDropsUnmapped(t *testing.T) {
	w := newWorld(t, 7)
	defer w.close()
	for i := range Addr(maxMappings - 1) {
		w.mmap(101*second, 7, 0x1000000+i<<13, 0x1001000+i<<13, "/lib/a")
	}
	w.exists(7, "/bin/7", "401000-402000 r-xp 1000 8:1 7 /bin/7\n")
	w.time = 103 * second
	w.mmap(103*second, 7, 0x2000, 0x3000, "/lib/b")
	w.mmap(104*second, 7, 0x4000, 0x5000, "/lib/c")
	if got, want := describe(w.at(7, 105*second)), "7@103 /bin/7: 4000-5000+0=/lib/c 401000-402000+1000=/bin/7"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestKernelSymbols(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.apply(&perfRecord{Type: perfKsymbol, Time: 5, Start: 1, End: 2, Name: "bpf_prog_x"})
	if got, want := w.symbols, []KernelSymbol{{5, 1, 2, "bpf_prog_x", false}}; !slices.Equal(got, want) {
		t.Errorf("symbols = %v, want %v", got, want)
	}
	for range maxKernelSymbols + 5 {
		w.apply(&perfRecord{Type: perfKsymbol})
	}
	if len(w.symbols) != maxKernelSymbols || w.symbolsLost != 6 {
		t.Errorf("%d symbols and %d lost, want %d and 6", len(w.symbols), w.symbolsLost, maxKernelSymbols)
	}
}

// TestObject: a mapping is opened through the process that was sampled, but
// run-time compiled code is named by the process that made it.
func TestObject(t *testing.T) {
	w := newWorld(t, 7)
	defer w.close()
	var opened []string
	w.open = func(pid int32, m *Mapping) *object.File {
		opened = append(opened, fmt.Sprintf("%s by %d of %d", m.Path, pid, m.pid))
		return &object.File{Path: m.Path}
	}
	w.fork(101*second, 9, 6) // without opener: 9 is not known
	w.exec(101*second, 6)
	w.mmap(101*second, 6, 0x1000, 0x2000, "/lib/a")
	w.mmap(101*second, 6, 0x3000, 0x4000, "//anon")
	w.fork(102*second, 6, 8)

	child := w.at(8, 103*second)
	m := child.Lookup(0x1000)
	if first := m.Object(); m.Object() != first || child.Lookup(0x1fff) != m {
		t.Error("a mapping has more than one object")
	}
	child.Lookup(0x3000).Object()
	if w.at(6, 103*second).Lookup(0x1000) == m {
		t.Error("the parent has the child's mapping")
	}
	if child.Lookup(0x2000) != nil || child.Lookup(0xfff) != nil {
		t.Error("an address beside a mapping is found")
	}
	if want := []string{"/lib/a by 8 of 6", "//anon by 8 of 6"}; !slices.Equal(opened, want) {
		t.Errorf("opened %q, want %q", opened, want)
	}
}

// TestLookupBesideMmap is for the race detector: the symbolizer looks up while
// mappings are added.
func TestLookupBesideMmap(t *testing.T) {
	w := newWorld(t, 7)
	defer w.close()
	w.open = func(int32, *Mapping) *object.File { return &object.File{} }
	w.exec(101*second, 7)
	w.mmap(101*second, 7, 0x1000, 0x2000, "/bin/a")
	p := w.at(7, 102*second)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range Addr(2000) {
			if m := p.Lookup(0x1000 + i%0x1000); m == nil || m.Object() == nil {
				t.Error("the mapping is not found")
				return
			}
		}
	})
	for i := range Addr(2000) {
		w.mmap(103*second, 7, 0x10000-i, 0x20000+i, "//anon")
	}
	wg.Wait()
}

func TestThreads(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "proc/7/task/70")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "comm"), []byte("from proc\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	th := newThreads(proc.FS(root))
	p := &Process{PID: 7, Exe: "/usr/bin/a-rather-long-name (deleted)"}
	check := func(tid int32, want string) {
		t.Helper()
		if got := th.comm(p, tid).String(); got != want {
			t.Errorf("name of %d = %q, want %q", tid, got, want)
		}
	}
	check(0, "swapper")
	check(70, "from proc")
	check(71, "a-rather-long-n")
	th.apply(&perfRecord{Type: perfFork, PID: 7, TID: 72, PPID: 7, PTID: 70}, p)
	check(72, "from proc")
	th.apply(&perfRecord{Type: perfComm, PID: 7, TID: 72, Comm: NewComm("renamed")}, nil)
	check(72, "renamed")
	th.apply(&perfRecord{Type: perfExit, PID: 7, TID: 72}, nil)
	check(72, "renamed")
	for i := range int32(keepExited) {
		th.apply(&perfRecord{Type: perfExit, PID: 7, TID: 1000 + i}, nil)
	}
	check(72, "a-rather-long-n")
	for i := range int32(maxThreads) {
		th.apply(&perfRecord{Type: perfComm, PID: 7, TID: 1 + i, Comm: NewComm("x")}, nil)
	}
	if len(th.comms) > maxThreads {
		t.Errorf("%d names are kept", len(th.comms))
	}
	check(0, "swapper")
}

func BenchmarkAt(b *testing.B) {
	pids := make([]int32, 1000)
	for i := range pids {
		pids[i] = int32(i + 1)
	}
	w := newWorld(b, pids...)
	defer w.close()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		w.at(pids[i%len(pids)], 200*second)
		i++
	}
}

// BenchmarkShortProcess is one process from fork to exit, with an exec and four mappings.
func BenchmarkShortProcess(b *testing.B) {
	w := newWorld(b, 7)
	defer w.close()
	time, pid := uint64(100*second), int32(1000)
	b.ReportAllocs()
	for b.Loop() {
		pid = 1000 + pid%30000
		time += 1e6
		w.fork(time, 7, pid)
		w.exec(time+1, pid)
		w.mmap(time+2, pid, 0x55d0c6a02000, 0x55d0c6a07000, "/usr/bin/x")
		w.mmap(time+3, pid, 0x7f0000001000, 0x7f0000021000, "/lib/ld.so")
		w.mmap(time+4, pid, 0x7ffd3b1f6000, 0x7ffd3b1f8000, "[vdso]")
		w.mmap(time+5, pid, 0x7f0b10a28000, 0x7f0b10bb0000, "/lib/libc.so.6")
		w.exit(time+6, pid, pid)
	}
	if n := len(w.byPID); n > 6000 {
		b.Errorf("%d processes are kept", n)
	}
}
