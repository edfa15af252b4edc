package symbolize

import (
	"encoding/binary"
	"fmt"

	"hotframe/internal/object"
)

// Tags of the dynamic segment (ELF gABI 4.1, chapter 5).
const (
	dynHash    = 4          // DT_HASH
	dynStrtab  = 5          // DT_STRTAB
	dynSymtab  = 6          // DT_SYMTAB
	dynStrsz   = 10         // DT_STRSZ
	dynGNUHash = 0x6ffffef5 // DT_GNU_HASH

	maxDynamic = 64 << 10 // bytes of the segment; a few hundred is usual
)

// dynamicTable finds the dynamic symbols of a file without section headers.
// Nothing tells their number but the hash tables over them.
func (f elfFile) dynamicTable() (symbolTable, error) {
	tags, err := f.dynamicTags()
	if err != nil {
		return symbolTable{}, err
	}
	symtab, ok1 := f.fileOffset(tags[dynSymtab])
	strtab, ok2 := f.fileOffset(tags[dynStrtab])
	if !ok1 || !ok2 {
		return symbolTable{}, errNoSymbols
	}
	var count uint64
	if off, ok := f.fileOffset(tags[dynGNUHash]); ok && tags[dynGNUHash] != 0 {
		count, err = f.countGNU(off)
	} else if off, ok := f.fileOffset(tags[dynHash]); ok && tags[dynHash] != 0 {
		var nchain uint32
		nchain, err = f.u32(off + 4) // one chain entry for each symbol
		count = uint64(nchain)
	} else {
		err = fmt.Errorf("no hash table tells the number of dynamic symbols: %w", errNoSymbols)
	}
	if err != nil {
		return symbolTable{}, err
	}
	entry := uint64(symbolSize64)
	if !f.headers.Is64 {
		entry = symbolSize32
	}
	return symbolTable{symtab, count * entry, strtab, tags[dynStrsz]}, nil
}

// dynamicTags reads the values of the dynamic segment by tag.
func (f elfFile) dynamicTags() (map[uint64]uint64, error) {
	for _, s := range f.headers.Segments {
		if s.Type != object.SegmentDynamic {
			continue
		}
		b := make([]byte, min(s.Filesz, maxDynamic))
		if s.Off > uint64(f.size) {
			break
		}
		n, _ := f.r.ReadAt(b, int64(s.Off))
		tags := make(map[uint64]uint64)
		word := f.wordSize()
		for b = b[:n]; len(b) >= 2*word; b = b[2*word:] {
			tags[f.word(b)] = f.word(b[word:])
		}
		return tags, nil
	}
	return nil, errNoSymbols
}

// countGNU is the number of symbols that a GNU hash table covers: the last one
// ends the chain that starts last. The table is: numbers of buckets, of the
// first symbol, of filter words, a shift, the filter, the buckets, the chains,
// in which an odd hash is the end of a chain.
func (f elfFile) countGNU(off uint64) (uint64, error) {
	var head [3]uint64
	for i := range head {
		v, err := f.u32(off + uint64(4*i))
		if err != nil {
			return 0, err
		}
		head[i] = uint64(v)
	}
	buckets, first, filter := head[0], head[1], head[2]
	at := off + 16 + filter*uint64(f.wordSize())
	if at > uint64(f.size) || buckets > min(maxSymbols, uint64(f.size)-at)/4 {
		return 0, fmt.Errorf("%d hash buckets at %#x: %w", buckets, at, object.ErrBadELF)
	}
	w := object.NewWindow(f.r, at, uint64(f.size)-at)
	last := uint64(0)
	for i := range buckets {
		b := w.At(4*i, 4)
		if len(b) < 4 {
			return 0, fmt.Errorf("hash bucket %d: %w", i, object.ErrBadELF)
		}
		last = max(last, uint64(binary.LittleEndian.Uint32(b)))
	}
	if last < first {
		return first, nil // no symbol is hashed
	}
	for {
		b := w.At(4*(buckets+last-first), 4)
		if len(b) < 4 || last > maxSymbols/symbolSize32 {
			return 0, fmt.Errorf("hash chain at %d: %w", last, object.ErrBadELF)
		}
		last++
		if b[0]&1 == 1 {
			return last, nil
		}
	}
}

// fileOffset is where a virtual address of the file's data is in the file.
func (f elfFile) fileOffset(vaddr uint64) (off uint64, ok bool) {
	for _, s := range f.headers.Segments {
		if s.Type == object.SegmentLoad && s.Vaddr <= vaddr && vaddr-s.Vaddr < s.Filesz {
			return vaddr - s.Vaddr + s.Off, true
		}
	}
	return 0, false
}

func (f elfFile) wordSize() int {
	if f.headers.Is64 {
		return 8
	}
	return 4
}

// word decodes an address or size.
func (f elfFile) word(b []byte) uint64 {
	if f.headers.Is64 {
		return binary.LittleEndian.Uint64(b)
	}
	return uint64(binary.LittleEndian.Uint32(b))
}

func (f elfFile) u32(off uint64) (uint32, error) {
	var b [4]byte
	if off > uint64(f.size) {
		return 0, fmt.Errorf("offset %#x in a file of %d bytes: %w", off, f.size, object.ErrBadELF)
	}
	if _, err := f.r.ReadAt(b[:], int64(off)); err != nil {
		return 0, fmt.Errorf("read at %#x: %w", off, err)
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}
