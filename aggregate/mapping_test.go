package aggregate

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hotframe/internal/object"
	"hotframe/sampler"
)

// hits is one sample in each mapping of the processes, its leaf 0x10 above
// the mapping's start.
func hits(processes ...*sampler.Process) []*sampler.Sample {
	var samples []*sampler.Sample
	for _, p := range processes {
		for _, m := range p.Mappings() {
			samples = append(samples, &sampler.Sample{
				PID: p.PID, TID: p.PID, Process: p, User: stack(sampler.StopFPEnd, m.Start+0x10),
			})
		}
	}
	return samples
}

func TestMappings(t *testing.T) {
	file := func(start, end sampler.Addr, offset, inode uint64) *sampler.Mapping {
		return &sampler.Mapping{Start: start, End: end, Offset: offset, Path: "/lib/l.so", Device: 8, Inode: inode}
	}
	special := func(start sampler.Addr, path string) *sampler.Mapping {
		return &sampler.Mapping{Start: start, End: start + 0x1000, Path: path}
	}
	noMap := func() *object.File { return &object.File{Kind: object.PerfMap, Path: "/tmp/perf-1.map"} }

	tests := []struct {
		name      string
		processes []*sampler.Process
		want      []string // Mappings: START-LIMIT OFFSET FILE
		addresses []uint64 // of the samples
	}{
		{
			name: "a file in two processes: the second is moved to the first",
			processes: []*sampler.Process{
				sampler.NewProcess(1, file(0x7000, 0x9000, 0x1000, 5)),
				sampler.NewProcess(2, file(0x2000, 0x4000, 0x1000, 5)),
			},
			want:      []string{"7000-9000 1000 /lib/l.so"},
			addresses: []uint64{0x7010, 0x7010},
		},
		{
			name: "the second maps more of it",
			processes: []*sampler.Process{
				sampler.NewProcess(1, file(0x7000, 0x8000, 0x1000, 5)),
				sampler.NewProcess(2, file(0x2000, 0x5000, 0x1000, 5)),
			},
			want:      []string{"7000-a000 1000 /lib/l.so"},
			addresses: []uint64{0x7010, 0x7010},
		},
		{
			name: "one path in two containers is two files",
			processes: []*sampler.Process{
				sampler.NewProcess(1, file(0x7000, 0x9000, 0x1000, 5)),
				sampler.NewProcess(2, file(0x2000, 0x4000, 0x1000, 6)),
			},
			want:      []string{"7000-9000 1000 /lib/l.so", "2000-4000 1000 /lib/l.so"},
			addresses: []uint64{0x7010, 0x2010},
		},
		{
			name: "two segments of a file",
			processes: []*sampler.Process{
				sampler.NewProcess(1, file(0x7000, 0x8000, 0x1000, 5), file(0x9000, 0xa000, 0x3000, 5)),
			},
			want:      []string{"7000-8000 1000 /lib/l.so", "9000-a000 3000 /lib/l.so"},
			addresses: []uint64{0x7010, 0x9010},
		},
		{
			name: "one file mapped twice by a process",
			processes: []*sampler.Process{
				sampler.NewProcess(1, file(0x7000, 0x8000, 0x1000, 5), file(0x9000, 0xa000, 0x1000, 5)),
			},
			want:      []string{"7000-8000 1000 /lib/l.so"},
			addresses: []uint64{0x7010}, // of one sample with count 2
		},
		{
			name: "the vDSO is one for all, but that of a 32-bit process another",
			processes: []*sampler.Process{
				sampler.NewProcess(1, special(0x7fff1000000, "[vdso]")),
				sampler.NewProcess(2, special(0x7fff2000000, "[vdso]")),
				sampler.NewProcess(3, special(0xf7fc0000, "[vdso]")),
			},
			want:      []string{"7fff1000000-7fff1001000 0 [vdso]", "f7fc0000-f7fc1000 f7fc0000 [vdso]"},
			addresses: []uint64{0x7fff1000010, 0x7fff1000010, 0xf7fc0010},
		},
		{
			name: "the vsyscall page is user code although it lies among the kernel's addresses",
			processes: []*sampler.Process{
				sampler.NewProcess(1, special(0xffffffffff600000, "[vsyscall]")),
				sampler.NewProcess(2, special(0xffffffffff600000, "[vsyscall]")),
			},
			want:      []string{"ffffffffff600000-ffffffffff601000 0 [vsyscall]"},
			addresses: []uint64{0xffffffffff600010, 0xffffffffff600010},
		},
		{
			name: "named memory belongs to its process",
			processes: []*sampler.Process{
				sampler.NewProcess(1, special(0x5000, "[heap]"), special(0x7000, "[uprobes]"), special(0x9000, "[stack]")),
				sampler.NewProcess(2, special(0x5000, "[heap]")),
			},
			want: []string{
				"5000-6000 5000 [heap]", "7000-8000 7000 [uprobes]", "9000-a000 9000 [stack]",
				"5000-6000 5000 [heap]",
			},
			addresses: []uint64{0x5010, 0x7010, 0x9010, 0x5010},
		},
		{
			name: "anonymous memory is one mapping for each process, at its own addresses",
			processes: []*sampler.Process{
				sampler.NewProcess(1, special(0x5000, "//anon"), special(0x9000, "")),
				sampler.NewProcess(2, special(0x1000, "//anon")),
			},
			want:      []string{"5000-a000 5000 //anon", "1000-2000 1000 //anon"},
			addresses: []uint64{0x5010, 0x9010, 0x1010},
		},
		{
			name: "a perf map that cannot be opened names nothing",
			processes: []*sampler.Process{
				sampler.NewProcess(1, &sampler.Mapping{Start: 0x5000, End: 0x6000, Path: "//anon", Object: noMap}),
			},
			want:      []string{"5000-6000 5000 //anon"},
			addresses: []uint64{0x5010},
		},
		{
			name: "named memory without a perf map keeps its name",
			processes: []*sampler.Process{
				sampler.NewProcess(1, &sampler.Mapping{Start: 0x5000, End: 0x6000, Path: "[heap]", Object: noMap}),
			},
			want:      []string{"5000-6000 5000 [heap]"},
			addresses: []uint64{0x5010},
		},
		{
			name: "a hostile path",
			processes: []*sampler.Process{
				sampler.NewProcess(1, &sampler.Mapping{Start: 0x5000, End: 0x6000, Path: "/tmp/\xff\n</script>", Inode: 1}),
			},
			want:      []string{"5000-6000 0 /tmp/\uFFFD\uFFFD</script>"},
			addresses: []uint64{0x5010},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := flush(t, hits(tt.processes...)...).Profile
			var mappings []string
			for _, m := range p.Mapping {
				mappings = append(mappings, fmt.Sprintf("%x-%x %x %s", m.Start, m.Limit, m.Offset, m.File))
			}
			if !slices.Equal(mappings, tt.want) {
				t.Errorf("mappings are\n%q, want\n%q", mappings, tt.want)
			}
			var addresses []uint64
			for _, s := range p.Sample {
				addresses = append(addresses, s.Location[0].Address)
			}
			if !slices.Equal(addresses, tt.addresses) {
				t.Errorf("addresses are %#x, want %#x", addresses, tt.addresses)
			}
		})
	}
}

func TestSharedCodeIsOneLocation(t *testing.T) {
	moved := sampler.NewProcess(2,
		&sampler.Mapping{Start: 0x5000, End: 0x15000, Offset: 0x28000, Path: "/lib/libc.so.6", Device: 1, Inode: 11})
	p := flush(t,
		&sampler.Sample{PID: 1, TID: 1, Process: process(1), User: stack(sampler.StopFPEnd, libc+0x10)},
		&sampler.Sample{PID: 2, TID: 2, Process: moved, User: stack(sampler.StopFPEnd, 0x5010)},
	).Profile
	if len(p.Sample) != 2 || len(p.Location) != 1 || p.Sample[0].Location[0] != p.Sample[1].Location[0] {
		t.Errorf("%d samples, %d locations, want 2 samples in one location", len(p.Sample), len(p.Location))
	}
}

// TestPerfMap: run-time compiled code lies in one mapping under the name of its
// perf map, also after a mapping replaced another: the process has a new
// Process then and still the same map.
func TestPerfMap(t *testing.T) {
	perfMap := object.NewFile(object.PerfMap, "/tmp/perf-1.map", strings.NewReader(""), 0)
	perfMap.PID = 7
	jit := func(start sampler.Addr) *sampler.Mapping {
		return &sampler.Mapping{Start: start, End: start + 0x1000, Path: "//anon", Object: func() *object.File { return perfMap }}
	}
	r := flush(t, hits(
		sampler.NewProcess(7, jit(0x5000), jit(0x9000)),
		sampler.NewProcess(7, jit(0x3000), jit(0x5000)),
	)...)
	if len(r.Profile.Mapping) != 1 {
		t.Fatalf("%d mappings, want one", len(r.Profile.Mapping))
	}
	m := r.Profile.Mapping[0]
	if m.File != "/tmp/perf-7.map" || m.Start != 0x3000 || m.Limit != 0xa000 || m.Offset != m.Start || r.Objects[m] != perfMap {
		t.Errorf("mapping %x-%x %x %s with object %v, want 3000-a000 3000 /tmp/perf-7.map with the perf map",
			m.Start, m.Limit, m.Offset, m.File, r.Objects[m])
	}
	if n := r.Profile.Sample[0].Value[0]; n != 2 {
		t.Errorf("%d samples at 0x5010, want those of both Processes", n)
	}
}

// TestObjects: a file is asked for again while no process that maps it lived
// long enough for it to be opened, and never once it is open.
func TestObjects(t *testing.T) {
	image := elfWithBuildID()
	open := object.NewFile(object.ELF, "/lib/l.so", bytes.NewReader(image), int64(len(image)))
	gone := &object.File{Path: "/lib/l.so"}

	asked := 0
	mapped := func(f *object.File) *sampler.Process {
		return sampler.NewProcess(1,
			&sampler.Mapping{Start: 0x1000, End: 0x2000, Path: "/lib/l.so", Inode: 1, Object: func() *object.File { asked++; return f }},
			&sampler.Mapping{Start: 0x3000, End: 0x4000, Path: "/lib/replayed.so", Inode: 2},
		)
	}
	samples := hits(mapped(gone), mapped(gone), mapped(open), mapped(gone), mapped(open))
	r := flush(t, append(samples, samples...)...)
	if asked != 3 {
		t.Errorf("asked for the file %d times, want once of each of the first 3 processes", asked)
	}
	if len(r.Profile.Mapping) != 2 || len(r.Objects) != 1 || r.Objects[r.Profile.Mapping[0]] != open {
		t.Fatalf("%d mappings with objects %v, want the open file for the first of 2", len(r.Profile.Mapping), r.Objects)
	}
	if got := r.Profile.Mapping[0].BuildID; got != "c0ffee" {
		t.Errorf("build id is %q, want c0ffee", got)
	}
}

// elfWithBuildID is an ELF file of one PT_NOTE segment.
func elfWithBuildID() []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	})
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: 20, Memsz: 20, Align: 4})
	put([]uint32{4, 3, 3}) // name and descriptor sizes, NT_GNU_BUILD_ID
	put([]byte("GNU\x00\xc0\xff\xee\x00"))
	return b.Bytes()
}
