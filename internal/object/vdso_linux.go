package object

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"hotframe/internal/proc"
)

const maxVDSO = 1 << 20 // it is two to four pages

// VDSO returns the vDSO of this process, which 64-bit processes share. It is
// gone on systems without one.
func (s *Store) VDSO() *File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vdso == nil {
		s.vdso = &File{Kind: ELF, Path: "[vdso]", PID: int32(os.Getpid())}
		image, err := readVDSO()
		if err != nil {
			s.vdso.content = unreadable{err}
		} else {
			s.vdso.content = held{bytes.NewReader(image), int64(len(image))}
		}
	}
	return s.vdso
}

// unreadable is content that cannot be had, and why.
type unreadable struct{ error }

func (u unreadable) open() (io.ReaderAt, int64, error) { return nil, 0, u.error }

// readVDSO copies the vDSO out of this process's memory.
func readVDSO() ([]byte, error) {
	maps, _, err := proc.FS("/").Maps(int32(os.Getpid()))
	if err != nil {
		return nil, err
	}
	for _, m := range maps {
		if m.Path != "[vdso]" {
			continue
		}
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			return nil, err
		}
		defer mem.Close()
		image := make([]byte, min(m.End-m.Start, maxVDSO))
		if _, err := mem.ReadAt(image, int64(m.Start)); err != nil {
			return nil, fmt.Errorf("read vdso at %#x: %w", m.Start, err)
		}
		return image, nil
	}
	return nil, fmt.Errorf("no vdso: %w", ErrGone)
}
