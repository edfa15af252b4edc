package symbolize

import (
	"testing"

	"github.com/google/pprof/profile"

	"hotframe/internal/object"
)

func TestFileAddr(t *testing.T) {
	load := func(off, vaddr, filesz uint64) object.Segment {
		return object.Segment{Type: object.SegmentLoad, Flags: object.SegmentExec, Off: off, Vaddr: vaddr, Filesz: filesz, Memsz: filesz}
	}
	libc := []object.Segment{load(0, 0, 0x26000), load(0x26000, 0x26000, 0x155000), load(0x17b000, 0x17b000, 0x54000)}
	tests := []struct {
		name     string
		addr     uint64
		mapping  profile.Mapping
		segments []object.Segment
		want     elfAddr
		ok       bool
	}{
		{
			name: "library, text segment", addr: 0x7f00_0002_7010,
			mapping: profile.Mapping{Start: 0x7f00_0002_6000, Limit: 0x7f00_0017_b000, Offset: 0x26000}, segments: libc,
			want: 0x27010, ok: true,
		},
		{
			name: "PIE mapped as one piece", addr: 0x5555_5555_5040,
			mapping:  profile.Mapping{Start: 0x5555_5555_4000, Limit: 0x5555_5555_6000},
			segments: []object.Segment{load(0, 0, 0x2000)},
			want:     0x1040, ok: true,
		},
		{
			name: "program at a fixed address (ET_EXEC)", addr: 0x40_1080,
			mapping:  profile.Mapping{Start: 0x40_1000, Limit: 0x40_2000, Offset: 0x1000},
			segments: []object.Segment{load(0, 0x40_0000, 0x500), load(0x1000, 0x40_1000, 0x900)},
			want:     0x40_1080, ok: true,
		},
		{
			name: "second segment, whose addresses differ from offsets (lld)", addr: 0x5555_0000_2ff0,
			mapping:  profile.Mapping{Start: 0x5555_0000_2000, Limit: 0x5555_0000_4000, Offset: 0x1000},
			segments: []object.Segment{load(0, 0, 0x1e00), load(0x1e00, 0x2e00, 0x3000)},
			want:     0x2ff0, ok: true,
		},
		{
			name: "the first page of a segment also holds the end of the one before", addr: 0x5555_0000_2d00,
			mapping:  profile.Mapping{Start: 0x5555_0000_2000, Limit: 0x5555_0000_4000, Offset: 0x1000},
			segments: []object.Segment{load(0, 0, 0x1e00), load(0x1e00, 0x2e00, 0x3000)},
			want:     0x1d00, ok: true,
		},
		{
			name: "prelinked library", addr: 0x3a_0042_6010,
			mapping:  profile.Mapping{Start: 0x3a_0042_6000, Limit: 0x3a_0050_0000, Offset: 0x26000},
			segments: []object.Segment{load(0, 0x3a_0040_0000, 0x200000)},
			want:     0x3a_0042_6010, ok: true,
		},
		{
			name: "mapping of a part of a segment (mprotect splits it)", addr: 0x7f00_0010_0000,
			mapping: profile.Mapping{Start: 0x7f00_0010_0000, Limit: 0x7f00_0010_1000, Offset: 0x50000}, segments: libc,
			want: 0x50000, ok: true,
		},
		{
			name: "the vDSO, which has no file offset", addr: 0x7ffd_1234_5a00,
			mapping:  profile.Mapping{Start: 0x7ffd_1234_5000, Limit: 0x7ffd_1234_7000},
			segments: []object.Segment{load(0, 0, 0x1200), {Type: object.SegmentDynamic, Off: 0x300}},
			want:     0xa00, ok: true,
		},
		{
			name: "behind the file's end", addr: 0x7f00_0003_0000,
			mapping: profile.Mapping{Start: 0x7f00_0000_0000, Limit: 0x7f00_0100_0000, Offset: 0x1f_0000}, segments: libc,
		},
		{
			name: "below the mapping", addr: 0x1000,
			mapping: profile.Mapping{Start: 0x2000, Limit: 0x3000}, segments: libc,
		},
		{
			name: "segment of 2^64 bytes claimed", addr: 0x2fff,
			mapping:  profile.Mapping{Start: 0x2000, Limit: 0x3000},
			segments: []object.Segment{load(0xff0, ^uint64(0), ^uint64(0))},
			want:     0xe, ok: true, // wraps
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := fileAddr(tt.addr, &tt.mapping, tt.segments)
			if got != tt.want || ok != tt.ok {
				t.Errorf("fileAddr(%#x) = %#x, %v; want %#x, %v", tt.addr, got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestKernelAndRunTimeCodeKeepTheirAddresses(t *testing.T) {
	l := &profile.Location{
		Address: 0xffff_ffff_8100_0040,
		Mapping: &profile.Mapping{Start: 1 << 63, Limit: ^uint64(0), File: "[kernel.kallsyms]"},
	}
	if got, ok := sameAddr(l); got != 0xffff_ffff_8100_0040 || !ok {
		t.Errorf("sameAddr = %#x, %v", got, ok)
	}
}
