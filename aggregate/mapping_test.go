package aggregate

import (
	"fmt"
	"slices"
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

// TestObjects: a file is opened once, however many map it, and again while no
// process that maps it lived long enough for it to be opened.
func TestObjects(t *testing.T) {
	opened := 0
	gone := func() *object.File { opened++; return &object.File{Path: "/lib/l.so"} }
	var processes []*sampler.Process
	for pid := range int32(3) {
		processes = append(processes, sampler.NewProcess(pid,
			&sampler.Mapping{Start: 0x1000, End: 0x2000, Path: "/lib/l.so", Inode: 1, Object: gone},
			&sampler.Mapping{Start: 0x3000, End: 0x4000, Path: "/lib/replayed.so", Inode: 2},
		))
	}
	r := flush(t, append(hits(processes...), hits(processes...)...)...)
	if opened != 3 {
		t.Errorf("asked %d times for a file that is gone, want once for each of 3 processes", opened)
	}
	if len(r.Profile.Mapping) != 2 || len(r.Objects) != 1 || r.Objects[r.Profile.Mapping[0]] == nil {
		t.Errorf("%d mappings have objects %v, want one for the first of 2", len(r.Profile.Mapping), r.Objects)
	}
}
