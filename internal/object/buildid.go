package object

import (
	"encoding/binary"
	"encoding/hex"
	"io"
)

const (
	maxNotes     = 64 << 10 // of one segment or section; core files have more, programs a few hundred bytes
	maxBuildID   = 64       // SHA-1 gives 20 bytes, the longest hash that linkers offer 32
	noteGNUBuild = 3        // NT_GNU_BUILD_ID
)

// readBuildID finds the GNU build id in the note segments, or for files
// without program headers in the note sections.
func readBuildID(r io.ReaderAt, h *Headers) string {
	for _, s := range h.Segments {
		if s.Type == SegmentNote {
			if id := buildIDIn(r, s.Off, s.Filesz); id != "" {
				return id
			}
		}
	}
	if s := h.Section(".note.gnu.build-id"); s != nil && s.Type == SectionNote {
		return buildIDIn(r, s.Off, s.Size)
	}
	return ""
}

func buildIDIn(r io.ReaderAt, off, size uint64) string {
	if off > 1<<62 {
		return ""
	}
	b := make([]byte, min(size, maxNotes))
	n, _ := r.ReadAt(b, int64(off))
	return findBuildID(b[:n])
}

// findBuildID walks notes: sizes of name and content, type, then both, each
// padded to 4 bytes (ELF gABI 4.1, chapter 5; segments aligned to 8 pad the
// GNU property note to 8 in its content size already).
func findBuildID(b []byte) string {
	for len(b) >= 12 {
		name := uint64(binary.LittleEndian.Uint32(b))
		desc := uint64(binary.LittleEndian.Uint32(b[4:]))
		kind := binary.LittleEndian.Uint32(b[8:])
		b = b[12:]
		nameEnd := (name + 3) &^ 3
		descEnd := nameEnd + (desc+3)&^3
		if nameEnd+desc > uint64(len(b)) {
			return ""
		}
		if kind == noteGNUBuild && string(b[:name]) == "GNU\x00" && 0 < desc && desc <= maxBuildID {
			return hex.EncodeToString(b[nameEnd : nameEnd+desc])
		}
		b = b[min(descEnd, uint64(len(b))):]
	}
	return ""
}
