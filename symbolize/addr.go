package symbolize

import (
	"github.com/google/pprof/profile"

	"hotframe/internal/object"
)

// An elfAddr is an address as the headers and symbols of an ELF file number
// it, before the file is loaded anywhere. For the kernel and for code compiled
// at run time, whose symbols tell run-time addresses, it is the address itself.
type elfAddr uint64

// fileAddr converts an address in a mapping of a file; ok is false if no
// segment of the file is mapped there.
func fileAddr(addr uint64, m *profile.Mapping, segments []object.Segment) (a elfAddr, ok bool) {
	if addr < m.Start {
		return 0, false
	}
	off := addr - m.Start + m.Offset
	for _, s := range segments {
		if s.Type == object.SegmentLoad && s.Off <= off && off-s.Off < s.Filesz {
			return elfAddr(off - s.Off + s.Vaddr), true
		}
	}
	return 0, false
}

// sameAddr is the conversion where symbols tell run-time addresses.
func sameAddr(l *profile.Location) (elfAddr, bool) { return elfAddr(l.Address), true }
