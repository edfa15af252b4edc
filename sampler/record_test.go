package sampler

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"hotframe/internal/proc"
	"hotframe/internal/testutil"
)

// raw builds the bytes behind a record's header from integers of their own
// size, and from strings.
func raw(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		default:
			var err error
			if b, err = binary.Append(b, binary.LittleEndian, p); err != nil {
				panic(err)
			}
		}
	}
	return b
}

// sampleID is struct sample_id with TID|TIME|CPU.
func sampleID(time uint64, cpu uint32) []byte {
	return raw(uint32(1), uint32(1), time, cpu, uint32(0))
}

func TestDecodePerfRecord(t *testing.T) {
	u32, u64 := func(n uint32) uint32 { return n }, func(n uint64) uint64 { return n }
	tests := []struct {
		name string
		typ  perfType
		misc uint16
		data []byte
		want perfRecord
	}{
		{
			"mmap2", perfMmap2, miscUser,
			raw(u32(7), u32(8), u64(0x7f0000001000), u64(0x2000), u64(0x1000), u32(0xfe), u32(1), u64(99), u64(5), u32(5), u32(2), "/lib/a b\nc.so\x00\x00"),
			perfRecord{PID: 7, TID: 8, Exec: true, Start: 0x7f0000001000, End: 0x7f0000003000, Offset: 0x1000,
				Device: proc.Mkdev(0xfe, 1), Inode: 99, Name: "/lib/a b\nc.so"},
		},
		{
			"mmap2 with a build id in place of device and inode", perfMmap2, miscMmapBuildID,
			raw(u32(7), u32(7), u64(0x1000), u64(0x1000), u64(0), u64(20), u64(1), u64(2), u32(4), u32(2), "/x\x00"),
			perfRecord{PID: 7, TID: 7, Exec: true, Start: 0x1000, End: 0x2000, Name: "/x"},
		},
		{
			"mmap2 that is not executable", perfMmap2, 0,
			raw(u32(7), u32(7), u64(0x1000), u64(0x1000), u64(0), u64(0), u64(0), u64(0), u32(3), u32(2), "//anon\x00\x00"),
			perfRecord{PID: 7, TID: 7, Start: 0x1000, End: 0x2000, Name: "//anon"},
		},
		{
			"comm", perfComm, 0, raw(u32(7), u32(8), "worker\x00\x00"),
			perfRecord{PID: 7, TID: 8, Comm: NewComm("worker")},
		},
		{
			"comm by exec, longer than a comm", perfComm, miscCommExec, raw(u32(7), u32(7), "0123456789abcdefgh"),
			perfRecord{PID: 7, TID: 7, Exec: true, Comm: NewComm("0123456789abcde")},
		},
		{
			"fork", perfFork, 0, raw(u32(9), u32(7), u32(10), u32(8), u64(123)),
			perfRecord{PID: 9, PPID: 7, TID: 10, PTID: 8},
		},
		{
			"exit", perfExit, 0, raw(u32(9), u32(7), u32(9), u32(7), u64(123)),
			perfRecord{PID: 9, PPID: 7, TID: 9, PTID: 7},
		},
		{
			"exit of a task without pid", perfExit, 0, raw(^u32(0), u32(7), ^u32(0), u32(7), u64(123)),
			perfRecord{PID: -1, PPID: 7, TID: -1, PTID: 7},
		},
		{"lost", perfLost, 0, raw(u64(3), u64(17)), perfRecord{Lost: 17}},
		{"lost samples", perfLostSamples, 0, raw(u64(17)), perfRecord{Lost: 17}},
		{
			"ksymbol", perfKsymbol, 0, raw(^u64(0xffff), u32(64), uint16(1), uint16(0), "bpf_prog_1_x\x00\x00\x00\x00"),
			perfRecord{Start: ^Addr(0xffff), End: ^Addr(0xffff) + 64, Name: "bpf_prog_1_x"},
		},
		{
			"ksymbol removed", perfKsymbol, 0, raw(u64(0x1000), u32(64), uint16(1), uint16(1), "x\x00"),
			perfRecord{Start: 0x1000, End: 0x1040, Name: "x", Gone: true},
		},
		{"throttle", perfThrottle, 0, raw(u64(1), u64(2), u64(3)), perfRecord{}},
		{"a type from the future", 200, 0, raw(u64(1)), perfRecord{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Type, tt.want.Time, tt.want.CPU = tt.typ, 1234, 3
			var d perfDecoder
			var got perfRecord
			err := d.decode(&got, tt.typ, tt.misc, append(tt.data, sampleID(1234, 3)...))
			if err != nil || got != tt.want {
				t.Errorf("decode = %+v, %v; want %+v", got, err, tt.want)
			}
			if tt.typ == perfThrottle || tt.typ > perfKsymbol {
				return
			}
			short := append(tt.data[:7:7], sampleID(1234, 3)...)
			if err := d.decode(&got, tt.typ, tt.misc, short); !errors.Is(err, errBadPerfRecord) {
				t.Errorf("decode of the first 7 bytes = %v, want %v", err, errBadPerfRecord)
			}
		})
	}
}

func TestDecodePerfRecordErrors(t *testing.T) {
	mmap := func(addr, size uint64, name string) []byte {
		return raw(uint32(7), uint32(7), addr, size, uint64(0), uint64(0), uint64(0), uint64(0), uint32(4), uint32(2), name, sampleID(1, 0))
	}
	tests := []struct {
		name string
		typ  perfType
		data []byte
	}{
		{"nothing", perfLost, nil},
		{"less than a sample id", perfLost, make([]byte, sampleIDSize-1)},
		{"range that wraps around", perfMmap2, mmap(^uint64(0xfff), 0x2000, "x")},
		{"empty range", perfMmap2, mmap(0x1000, 0, "x")},
		{"path longer than PATH_MAX", perfMmap2, mmap(0x1000, 0x1000, strings.Repeat("x", maxPerfName+1))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d perfDecoder
			var r perfRecord
			if err := d.decode(&r, tt.typ, 0, tt.data); !errors.Is(err, errBadPerfRecord) {
				t.Errorf("decode = %+v, %v; want %v", r, err, errBadPerfRecord)
			}
		})
	}
}

func TestDecoderSharesNamesAndIsBounded(t *testing.T) {
	var d perfDecoder
	for i := range 3 * maxInternedPerfNames {
		if _, ok := d.name(fmt.Appendf(nil, "/lib/%d", i)); !ok {
			t.Fatal("name is refused")
		}
	}
	if len(d.names) > maxInternedPerfNames {
		t.Errorf("%d names are kept, want at most %d", len(d.names), maxInternedPerfNames)
	}
	name := []byte("/lib/x\x00")
	d.name(name)
	if n := testing.AllocsPerRun(100, func() { d.name(name) }); n != 0 {
		t.Errorf("a known name takes %v allocations", n)
	}
}

// sampleBytes is a sample record with the given callchain.
func sampleBytes(ip uint64, chain ...uint64) []byte {
	return raw(ip, uint32(7), uint32(8), uint64(1234), uint32(3), uint32(0), uint64(10101010), uint64(len(chain)), chain)
}

func addrs(f frames) []Addr {
	var all []Addr
	for i := range f.len() {
		all = append(all, f.at(i))
	}
	return all
}

func TestDecodePerfSample(t *testing.T) {
	const kernel, user, guest = contextKernel, contextUser, ^uint64(2048 - 1)
	tests := []struct {
		name         string
		misc         uint16
		data         []byte
		kernel, user []Addr
		frames       int
	}{
		{"kernel and user", miscKernel, sampleBytes(9, kernel, 9, 8, user, 3, 2, 1), []Addr{9, 8}, []Addr{3, 2, 1}, 5},
		{"user", miscUser, sampleBytes(3, user, 3, 2), nil, []Addr{3, 2}, 2},
		{"kernel thread", miscKernel, sampleBytes(9, kernel, 9), []Addr{9}, nil, 1},
		{"no callchain: the address of the hit", miscUser, sampleBytes(3), nil, []Addr{3}, 0},
		{"only a marker", miscKernel, sampleBytes(9, kernel), []Addr{9}, nil, 0},
		{"neither kernel nor user", 0, sampleBytes(9), nil, nil, 0},
		{"a guest's frames are counted", miscKernel, sampleBytes(9, guest, 5, 4, user, 3), nil, []Addr{3}, 3},
		{"frames without a marker", miscUser, sampleBytes(9, 5, 4), nil, nil, 2},
		{"more data than the callchain", miscUser, append(sampleBytes(3, user, 3), 0, 0, 0, 0, 0, 0, 0, 0), nil, []Addr{3}, 1},
	}
	var s perfSample // shared, as by its users
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := s.decode(tt.misc, tt.data)
			if err != nil || !reflect.DeepEqual(addrs(s.Kernel), tt.kernel) || !reflect.DeepEqual(addrs(s.User), tt.user) || s.Frames != tt.frames {
				t.Errorf("decode = kernel %v, user %v of %d, %v; want %v, %v of %d",
					addrs(s.Kernel), addrs(s.User), s.Frames, err, tt.kernel, tt.user, tt.frames)
			}
			if s.PID != 7 || s.TID != 8 || s.Time != 1234 || s.CPU != 3 || s.Period != 10101010 {
				t.Errorf("decode = %+v", s)
			}
		})
	}
	for _, data := range [][]byte{nil, sampleBytes(9)[:47], raw(make([]byte, 40), ^uint64(0)), raw(make([]byte, 40), uint64(2), uint64(1))} {
		if err := s.decode(miscUser, data); !errors.Is(err, errBadPerfRecord) {
			t.Errorf("decode of %d bytes = %v, want %v", len(data), err, errBadPerfRecord)
		}
	}
}

// capturedRecords are records that Linux 6.18 wrote while a shell ran a
// program: lines of type, misc and data.
func capturedRecords(t testing.TB) (typ []perfType, misc []uint16, data [][]byte) {
	f, err := os.Open("testdata/perf-records.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var ty, mi int
		var h string
		if _, err := fmt.Sscan(sc.Text(), &ty, &mi, &h); err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		typ, misc, data = append(typ, perfType(ty)), append(misc, uint16(mi)), append(data, b)
	}
	return typ, misc, data
}

func TestDecodeCaptured(t *testing.T) {
	typ, misc, data := capturedRecords(t)
	var out bytes.Buffer
	var d perfDecoder
	for i := range typ {
		if typ[i] == perfSampleType {
			var s perfSample
			if err := s.decode(misc[i], data[i]); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "sample cpu=%d pid=%d tid=%d time=%d period=%d kernel=%x user=%x\n",
				s.CPU, s.PID, s.TID, s.Time, s.Period, addrs(s.Kernel), addrs(s.User))
			continue
		}
		var r perfRecord
		if err := d.decode(&r, typ[i], misc[i], data[i]); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%+v\n", r)
	}
	testutil.Golden(t, out.Bytes(), "perf-records.golden")
}

// FuzzPerfRecord holds that what is decoded comes from the input: names are
// parts of it, ranges are not negative, and a record with an error has none.
func FuzzPerfRecord(f *testing.F) {
	typ, misc, data := capturedRecords(f)
	for i := range typ {
		f.Add(uint32(typ[i]), misc[i], data[i])
	}
	f.Fuzz(func(t *testing.T, typ uint32, misc uint16, data []byte) {
		var d perfDecoder
		var r perfRecord
		if err := d.decode(&r, perfType(typ), misc, data); err != nil {
			return
		}
		if len(data) < sampleIDSize || r.Start > r.End || len(r.Name) > maxPerfName || !bytes.Contains(data, []byte(r.Name)) {
			t.Fatalf("decode of %d bytes = %+v", len(data), r)
		}
		if comm := r.Comm.String(); len(comm) > 15 || !bytes.Contains(data, []byte(comm)) {
			t.Fatalf("comm %q", comm)
		}
	})
}

// FuzzPerfSample holds that frames are parts of the input and no markers.
func FuzzPerfSample(f *testing.F) {
	typ, misc, data := capturedRecords(f)
	for i := range typ {
		if typ[i] == perfSampleType {
			f.Add(misc[i], data[i])
		}
	}
	f.Add(uint16(miscUser), sampleBytes(3))
	f.Fuzz(func(t *testing.T, misc uint16, data []byte) {
		var s perfSample
		if err := s.decode(misc, data); err != nil {
			return
		}
		got := s.Kernel.len() + s.User.len()
		if 48+8*got > len(data) && got != 1 || s.Frames > 0 && got > s.Frames {
			t.Fatalf("%d frames of %d in %d bytes", got, s.Frames, len(data))
		}
		if s.Frames == 0 {
			return // the hit itself, which is not checked
		}
		for _, a := range append(addrs(s.Kernel), addrs(s.User)...) {
			if uint64(a) >= contextMax {
				t.Fatalf("marker %#x among the frames", a)
			}
		}
	})
}

func BenchmarkDecodePerfSample(b *testing.B) {
	chain := []uint64{contextKernel, 1, 2, 3, 4, 5, 6, 7, contextUser}
	for i := range 20 {
		chain = append(chain, uint64(i))
	}
	data := sampleBytes(1, chain...)
	var s perfSample
	var kernel, user interner
	b.ReportAllocs()
	for b.Loop() {
		if err := s.decode(miscKernel, data); err != nil {
			b.Fatal(err)
		}
		kernel.stack(s.Kernel, StopKernel)
		user.stack(s.User, StopFPEnd)
	}
}

func TestPlausible(t *testing.T) {
	tests := []struct {
		name   string
		frames []uint64
		want   int
	}{
		{"none", nil, 0},
		{"the hit itself is not a return address", []uint64{0}, 1},
		{"all", []uint64{0x401000, 0x7f0000001000}, 2},
		{"a small number on the stack", []uint64{0x401000, 0x402000, 9, 0x403000}, 2},
		{"text on the stack", []uint64{0x401000, 0x2d0065672d00656e}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := frames(raw(tt.frames)).plausible(); got != tt.want {
				t.Errorf("plausible = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestInterner(t *testing.T) {
	var n interner
	one := func(stop StopReason, a ...uint64) *Stack { return n.stack(frames(raw(a)), stop) }
	first := one(StopFPEnd, 1, 2)
	if !reflect.DeepEqual(*first, Stack{Frames: []Addr{1, 2}, Stop: StopFPEnd}) {
		t.Errorf("stack = %+v", *first)
	}
	if one(StopFPEnd, 1, 2) != first {
		t.Error("an equal stack is another pointer")
	}
	for name, other := range map[string]*Stack{"another frame": one(StopFPEnd, 1, 3), "more frames": one(StopFPEnd, 1, 2, 3), "another reason": one(StopDepth, 1, 2)} {
		if other == first {
			t.Errorf("%s is the same stack", name)
		}
	}
	for i := range uint64(maxInterned) + 10 {
		one(StopFPEnd, i, i)
	}
	if len(n.stacks) > maxInterned {
		t.Errorf("%d stacks are kept", len(n.stacks))
	}
}
