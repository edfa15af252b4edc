package symbolize

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// perfMap is the resolver of /tmp/perf-PID.map: lines of start and size in hex
// and a name, as JIT compilers append them. Where code was compiled over older
// code the later line counts.
type perfMap struct {
	r    io.ReaderAt
	size int64
}

const (
	maxPerfMap     = 64 << 20 // bytes
	maxPerfMapName = 4 << 10  // the rest is cut
)

func (m *perfMap) resolve(q []query) error {
	work, bad, left := 0, 0, maxNames
	err := eachLine(io.NewSectionReader(m.r, 0, min(m.size, maxPerfMap)), func(line []byte) error {
		start, end, name, ok := parsePerfMap(line)
		if !ok {
			bad++
			return nil
		}
		i, _ := slices.BinarySearchFunc(q, start, func(q query, a elfAddr) int {
			if q.addr < a {
				return -1
			}
			return 1
		})
		if i == len(q) || q[i].addr >= end {
			return nil
		}
		if left -= len(name); left < 0 {
			return errNames
		}
		f := frame{name: string(name)}
		for ; i < len(q) && q[i].addr < end; i++ {
			q[i].frames = append(q[i].frames[:0], f)
			if work++; work > maxWork {
				return errOverlap
			}
		}
		return nil
	})
	for i := range q {
		if len(q[i].frames) == 0 {
			q[i].pseudo = "[unknown: not in perf map]"
		}
	}
	return errors.Join(err, m.problem(bad))
}

// problem says what of the map was not read.
func (m *perfMap) problem(bad int) error {
	switch {
	case m.size > maxPerfMap:
		return fmt.Errorf("not in the first %d MB of the perf map, which has %d MB", maxPerfMap>>20, m.size>>20)
	case bad > 0:
		return fmt.Errorf("not in the perf map, %d lines of which are damaged", bad)
	}
	return nil
}

// parsePerfMap reads "7f3a10 1c LazyCompile:~f /app.js:1".
func parsePerfMap(line []byte) (start, end elfAddr, name []byte, ok bool) {
	a, rest, ok := parseHex(line)
	if !ok || len(rest) == 0 || rest[0] != ' ' {
		return 0, 0, nil, false
	}
	size, rest, ok := parseHex(rest[1:])
	if !ok || len(rest) < 2 || rest[0] != ' ' {
		return 0, 0, nil, false
	}
	name = rest[1:]
	name = name[:min(len(name), maxPerfMapName)]
	return elfAddr(a), elfAddr(a + min(size, math.MaxUint64-a)), name, true
}
