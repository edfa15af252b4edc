package proc

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestMaps(t *testing.T) {
	got, skipped, err := fixture.Maps(4242)
	want := []Mapping{
		{Start: 0x55d0c6a02000, End: 0x55d0c6a07000, Offset: 0x2000, Device: 0xfe00, Inode: 131090, Path: "/usr/bin/demo"},
		{Start: 0x7f0000000000, End: 0x7f0000100000},
		{Start: 0x7f0b10a28000, End: 0x7f0b10bb0000, Offset: 0x28000, Device: Mkdev(0x103, 0x40013),
			Inode: 1<<64 - 1, Path: "/opt/my app/lib\nx.so (deleted)"},
		{Start: 0x7f0b20000000, End: 0x7f0b20001000, Device: 1, Inode: 1030, Path: "/memfd:jit code (deleted)"},
		{Start: 0x7f0b30000000, End: 0x7f0b30001000, Path: "[anon:code]"},
		{Start: 0x7ffd3b1f6000, End: 0x7ffd3b1f8000, Path: "[vdso]"},
		{Start: 0xffffffffff600000, End: 0xffffffffff601000, Path: "[vsyscall]"},
	}
	if err != nil || skipped != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("Maps(4242) = %+v, %d skipped, %v; want %+v", got, skipped, err, want)
	}
	if got, skipped, err := fixture.Maps(1); got != nil || skipped != 0 || err != nil {
		t.Errorf("Maps of a kernel thread = %v, %d, %v; want none", got, skipped, err)
	}
}

func TestMkdev(t *testing.T) {
	tests := []struct {
		major, minor uint32
		want         uint64 // of makedev(3)
	}{
		{0xfe, 0, 0xfe00},
		{0x103, 0x40013, 0x40010313},
		{0xfff, 0xfffff, 0xffffffff},
		{0x12345678, 0x9abcdef0, 0x123459abcde678f0},
	}
	for _, tt := range tests {
		if got := Mkdev(tt.major, tt.minor); got != tt.want {
			t.Errorf("Mkdev(%#x, %#x) = %#x, want %#x", tt.major, tt.minor, got, tt.want)
		}
	}
}

func TestParseMapsHostile(t *testing.T) {
	const good = "1000-2000 r-xp 00000000 00:00 0 \n"
	tests := []struct {
		name, in      string
		maps, skipped int
	}{
		{"no newline at the end", strings.TrimSuffix(good, "\n"), 1, 0},
		{"line longer than the buffer", "1000-2000 r-xp 00000000 00:00 0 /" + strings.Repeat("x", 3*maxMapsLine) + "\n" + good, 1, 1},
		{"long line is the last, without newline", good + strings.Repeat("x", 2*maxMapsLine), 1, 1},
		{"end before start", "2000-1000 r-xp 00000000 00:00 0 \n", 0, 1},
		{"empty range", "1000-1000 r-xp 00000000 00:00 0 \n", 0, 1},
		{"no dash", "1000 r-xp 00000000 00:00 0 \n", 0, 1},
		{"address of 65 bits", "1000-10000000000000000 r-xp 00000000 00:00 0 \n", 0, 1},
		{"sign in an address", "+1000-2000 r-xp 00000000 00:00 0 \n", 0, 1},
		{"device without colon", "1000-2000 r-xp 00000000 0000 0 \n", 0, 1},
		{"inode is no number", "1000-2000 r-xp 00000000 00:00 x \n", 0, 1},
		{"empty line", "\n" + good, 1, 1},
		{"not executable is not looked at further", "x-y r--p z 0 0\n", 0, 0},
		{"NUL and invalid UTF-8 in a path are kept", "1000-2000 r-xp 0 0:0 7 /\x00\xff\n", 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			maps, skipped, err := parseMaps(iotest.OneByteReader(strings.NewReader(tt.in)))
			if err != nil || len(maps) != tt.maps || skipped != tt.skipped {
				t.Errorf("parseMaps = %+v, %d skipped, %v; want %d and %d", maps, skipped, err, tt.maps, tt.skipped)
			}
		})
	}
}

func TestParseMapsIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range MaxMappings + 7 {
		fmt.Fprintf(&b, "%x-%x r-xp 0 0:0 0 \n", i<<12, (i+1)<<12)
	}
	maps, skipped, err := parseMaps(strings.NewReader(b.String()))
	if err != nil || len(maps) != MaxMappings || skipped != 7 {
		t.Errorf("parseMaps = %d mappings, %d skipped, %v; want %d and 7", len(maps), skipped, err, MaxMappings)
	}
}

func TestParseMapsReadError(t *testing.T) {
	in := iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("1000-2000 r-xp 0 0:0 0 \n")))
	if _, _, err := parseMaps(in); err != iotest.ErrTimeout {
		t.Errorf("parseMaps = %v, want the reader's error", err)
	}
}

// FuzzMaps holds that every line is a mapping, skipped or not executable, that
// ranges are not empty, and that a mapping written as a line is read back.
func FuzzMaps(f *testing.F) {
	f.Add("7f0b10a28000-7f0b10bb0000 r-xp 00028000 103:40013 42   /opt/my app/lib\\012x.so (deleted)\n")
	f.Add("1000-2000 r--p 0 0:0 0\n2000-3000 --xp 0 0:0 0 [vdso]")
	f.Add("\n\n- x\n")
	f.Fuzz(func(t *testing.T, in string) {
		maps, skipped, err := parseMaps(strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(in, "\n") + 1
		if len(maps)+skipped > lines {
			t.Fatalf("%d mappings and %d skipped of %d lines", len(maps), skipped, lines)
		}
		for _, m := range maps {
			if m.Start >= m.End {
				t.Fatalf("empty range %+v", m)
			}
			major := m.Device>>32&0xfffff000 | m.Device>>8&0xfff
			minor := m.Device>>12&0xffffff00 | m.Device&0xff
			line := fmt.Sprintf("%x-%x r-xp %08x %02x:%02x %d %s", m.Start, m.End, m.Offset, major, minor, m.Inode,
				strings.ReplaceAll(m.Path, "\n", `\012`))
			again, _, err := parseMaps(strings.NewReader(line))
			if err != nil || len(again) != 1 || again[0] != m {
				t.Fatalf("%q is read as %+v, %v; want %+v", line, again, err, m)
			}
		}
	})
}
