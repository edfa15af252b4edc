//go:build amd64 || arm64

package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"hotframe/bpf"
	"hotframe/internal/testutil"
)

// plainArenas are arenas that no BPF program sees.
func plainArenas(int) (*arena, error) { return &arena{mem: make([]byte, arenaSize)}, nil }

// settle waits for the arenas that are being made.
func (a *arenas) settle() {
	a.wg.Wait()
	a.absorb()
}

// checkFree fails unless what is free is sorted, whole and as much as counted.
func checkFree(t *testing.T, a *arenas) {
	t.Helper()
	room := 0
	for number, r := range a.list {
		if r == nil {
			continue
		}
		end := -1
		for _, s := range r.free {
			if s.off <= end || s.len <= 0 || s.off+s.len > arenaSize || s.off%arenaAlign != 0 {
				t.Fatalf("arena %d: free %v", number, r.free)
			}
			if s.len > r.largest {
				t.Fatalf("arena %d: %d bytes free in one piece, at most %d said", number, s.len, r.largest)
			}
			end = s.off + s.len
			room += s.len
		}
	}
	if room != a.room {
		t.Fatalf("%d bytes free, %d counted", room, a.room)
	}
}

// FuzzArenas allocates and frees in any order: allocations never overlap, keep what
// was written to them until a grace period after they are freed, and leave no
// pieces behind.
func FuzzArenas(f *testing.F) {
	f.Add([]byte{1, 0, 9, 1, 3, 0, 2, 0, 255, 255, 3, 200, 1, 255, 15, 2, 1})
	f.Add(bytes.Repeat([]byte{1, 255, 15, 1, 0, 1}, 200))
	f.Add(bytes.Repeat([]byte{0, 255, 1, 1, 0, 1, 2, 3, 3, 255}, 100))
	f.Fuzz(func(t *testing.T, ops []byte) {
		const limit = 4
		a := newArenas(limit*arenaSize, plainArenas)
		defer a.close()
		a.settle()
		type block struct {
			ptr   uint32
			size  int
			fill  byte
			freed uint64 // when, 0 = it is had
		}
		var blocks []block
		now, fill := uint64(1), byte(0)
		for len(ops) >= 3 && len(blocks) < 300 {
			op, n := ops[0]&3, int(binary.LittleEndian.Uint16(ops[1:]))
			ops = ops[3:]
			switch op {
			case 0, 1: // allocate, large and small
				size := n*16 + 1
				if op == 1 {
					size = n&0xfff + 1
				}
				ptr, mem, ok := a.alloc(size)
				a.settle()
				if !ok {
					continue
				}
				if ptr == 0 || ptr%arenaAlign != 0 || len(mem) < size || int(ptr&(arenaSize-1))+len(mem) > arenaSize {
					t.Fatalf("alloc(%d) = %#x, %d bytes", size, ptr, len(mem))
				}
				fill++
				for _, b := range blocks {
					if int(ptr) < int(b.ptr)+b.size && int(b.ptr) < int(ptr)+len(mem) {
						t.Fatalf("alloc(%d) = %#x, which is %+v", size, ptr, b)
					}
				}
				mem[0], mem[len(mem)-1] = fill, fill
				blocks = append(blocks, block{ptr, len(mem), fill, 0})
			case 2:
				if len(blocks) == 0 {
					continue
				}
				if b := &blocks[n%len(blocks)]; b.freed == 0 {
					a.free(b.ptr, b.size)
					b.freed = now
				}
			case 3:
				now += uint64(n) * grace / 0x8000
				a.advance(now)
				blocks = slices.DeleteFunc(blocks, func(b block) bool { return b.freed != 0 && b.freed+grace <= now })
			}
			checkFree(t, a)
		}
		for i := range blocks {
			b := &blocks[i]
			if mem := a.bytes(b.ptr)[:b.size]; mem[0] != b.fill || mem[b.size-1] != b.fill {
				t.Fatalf("%+v was written to", *b)
			}
			if b.freed == 0 {
				a.free(b.ptr, b.size)
			}
		}
		a.advance(now)
		a.advance(now + grace)
		checkFree(t, a)
		if a.used != 0 || a.freeing != 0 {
			t.Errorf("%d bytes used, %d being freed, want none", a.used, a.freeing)
		}
		for number, r := range a.list {
			if len(r.free) != 1 {
				t.Errorf("arena %d is left in %d pieces", number, len(r.free))
			}
		}
	})
}

func TestArenasGrowOneAhead(t *testing.T) {
	a := newArenas(3*arenaSize, plainArenas)
	defer a.close()
	a.settle()
	if ptr, _, ok := a.alloc(arenaSize / 4); !ok || ptr != arenaAlign {
		t.Fatalf("first allocation at %#x, %v", ptr, ok)
	}
	if len(a.list) != 1 {
		t.Errorf("%d arenas while the first has room, want 1", len(a.list))
	}
	a.alloc(arenaSize / 2)
	if len(a.list) != 2 {
		t.Errorf("%d arenas when the first is more than half full, want 2", len(a.list))
	}
	a.settle()
	a.expect(5 * arenaSize)
	a.settle()
	if len(a.list) != 3 || a.growing() {
		t.Errorf("%d arenas, limit 3", len(a.list))
	}
	for range 2 {
		if _, _, ok := a.alloc(arenaSize); !ok {
			t.Error("no room in an arena that is not used")
		}
	}
	if _, _, ok := a.alloc(arenaSize); ok {
		t.Error("more memory than the limit")
	}
	if _, _, ok := a.alloc(arenaSize + 1); ok {
		t.Error("an allocation longer than an arena")
	}
}

// TestArenasFreeLate: the time of a free is that of the next advance, however
// long ago the last one was.
func TestArenasFreeLate(t *testing.T) {
	a := newArenas(arenaSize, plainArenas)
	defer a.close()
	a.settle()
	a.advance(1)
	ptr, _, _ := a.alloc(1000)
	a.free(ptr, 1000)
	a.advance(5 * grace)
	if a.freeing != 1000 {
		t.Error("memory is reused at once after a late advance")
	}
	a.advance(6 * grace)
	if a.freeing != 0 {
		t.Error("memory is not reused after the grace period")
	}
}

func TestArenasThatCannotBeMade(t *testing.T) {
	full := errors.New("no memory")
	a := newArenas(10*arenaSize, func(number int) (*arena, error) {
		if number > 1 {
			return nil, full
		}
		return plainArenas(number)
	})
	defer a.close()
	a.settle()
	a.expect(10 * arenaSize)
	a.settle()
	if _, _, ok := a.alloc(arenaSize); !ok || !errors.Is(a.err, full) {
		t.Errorf("ok %v, error %v; want memory of those that could be made, and the error", ok, a.err)
	}
	if a.grow(1); a.growing() {
		t.Error("tries again")
	}
}

func TestKernelArenas(t *testing.T) {
	testutil.NeedPrivileges(t)
	spec, err := bpf.LoadSampler()
	if err != nil {
		t.Fatal(err)
	}
	outer, err := ebpf.NewMap(spec.Maps[bpf.SamplerMapArenas])
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	a := newArenas(2*arenaSize, kernelArenas(outer))
	a.expect(2 * arenaSize)
	a.settle()
	if a.err != nil || len(a.list) != 2 {
		t.Fatalf("%d arenas: %v", len(a.list), a.err)
	}
	ptr, mem, ok := a.alloc(arenaSize)
	if !ok || ptr != 1<<arenaBits {
		t.Fatalf("alloc = %#x, %v", ptr, ok)
	}
	copy(mem, "what the kernel reads")
	var inner *ebpf.Map
	if err := outer.Lookup(uint32(1), &inner); err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	got, err := inner.LookupBytes(uint32(0))
	if err != nil || !bytes.Equal(got, mem) {
		t.Errorf("the kernel reads %.30q, %v", got, err)
	}
	if err := a.close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkArenas(b *testing.B) {
	a := newArenas(16*arenaSize, plainArenas)
	defer a.close()
	a.expect(16 * arenaSize)
	a.settle()
	var held [1024]uint32
	size := func(i int) int { return 64 + i%len(held)*8 }
	b.ReportAllocs()
	for i := range b.N {
		slot := &held[i%len(held)]
		if *slot != 0 {
			a.undo(*slot, size(i))
		}
		*slot, _, _ = a.alloc(size(i))
	}
}
