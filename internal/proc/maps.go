package proc

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
)

// Bounds on one process's maps. A longer line or a later mapping is skipped.
const (
	maxMapsLine = 16 << 10 // a path is at most PATH_MAX = 4096 bytes, its newlines escaped as 4 each
	MaxMappings = 65536    // vm.max_map_count is 65530 unless raised
)

// A Mapping is one executable line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64 // [Start, End)
	Offset     uint64 // of Start in the file
	Device     uint64 // st_dev encoding, see Mkdev
	Inode      uint64
	Path       string // "" for anonymous memory; as the kernel names it otherwise, "[vdso]" or "/x (deleted)"
}

// Mkdev encodes a device number as st_dev has it (glibc's gnu_dev_makedev).
func Mkdev(major, minor uint32) uint64 {
	return uint64(major&0xfffff000)<<32 | uint64(major&0xfff)<<8 |
		uint64(minor&0xffffff00)<<12 | uint64(minor&0xff)
}

// Maps returns the executable mappings of a process, and how many more there
// may be in lines that were too long, too many or not understood. A process
// without memory of its own, such as a kernel thread, has none.
func (fs FS) Maps(pid int32) (maps []Mapping, skipped int, err error) {
	f, err := os.Open(fs.Path(pid, "maps"))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	return parseMaps(f)
}

// parseMaps reads lines as in
//
//	7f0b10a28000-7f0b10bb0000 r-xp 00028000 fe:00 3943   /usr/lib/libc.so.6
func parseMaps(r io.Reader) (maps []Mapping, skipped int, err error) {
	br := bufio.NewReaderSize(r, maxMapsLine)
	for {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			skipped++
			if err := skipLine(br); err != nil {
				return maps, skipped, err
			}
			continue
		case err == io.EOF && len(line) == 0:
			return maps, skipped, nil
		case err != nil && err != io.EOF:
			return maps, skipped, err
		}
		m, executable, ok := parseMapsLine(bytes.TrimSuffix(line, []byte("\n")))
		switch {
		case !ok, executable && len(maps) == MaxMappings:
			skipped++
		case executable:
			maps = append(maps, m)
		}
	}
}

// skipLine reads up to the end of a line that does not fit in the buffer.
func skipLine(br *bufio.Reader) error {
	for {
		_, err := br.ReadSlice('\n')
		if err == nil || err == io.EOF {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// parseMapsLine reports ok = false for a line that is not as the kernel writes
// it (show_map_vma). m is set for executable mappings only.
func parseMapsLine(line []byte) (m Mapping, executable, ok bool) {
	var field [5][]byte // range, permissions, offset, device, inode
	rest := line
	for i := range field {
		field[i], rest, _ = bytes.Cut(rest, []byte(" "))
		if len(field[i]) == 0 {
			return Mapping{}, false, false
		}
	}
	if len(field[1]) != 4 {
		return Mapping{}, false, false
	}
	if field[1][2] != 'x' {
		return Mapping{}, false, true
	}
	start, end, dash := bytes.Cut(field[0], []byte("-"))
	major, minor, colon := bytes.Cut(field[3], []byte(":"))
	bad := !dash || !colon
	hex := func(b []byte, bits int) uint64 {
		n, err := strconv.ParseUint(string(b), 16, bits)
		bad = bad || err != nil
		return n
	}
	m.Start, m.End = hex(start, 64), hex(end, 64)
	m.Offset = hex(field[2], 64)
	m.Device = Mkdev(uint32(hex(major, 32)), uint32(hex(minor, 32)))
	inode, err := strconv.ParseUint(string(field[4]), 10, 64)
	if bad || err != nil || m.Start >= m.End {
		return Mapping{}, false, false
	}
	m.Inode = inode
	m.Path = unescape(bytes.TrimLeft(rest, " "))
	return m, true, true
}

// unescape undoes what the kernel does to newlines in paths. It leaves
// backslashes alone, so that a file named `a\012b` is taken for one with a newline.
func unescape(path []byte) string {
	return string(bytes.ReplaceAll(path, []byte(`\012`), []byte("\n")))
}
