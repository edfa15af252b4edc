package proc

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of times in /proc: 1/100 s on all architectures of today
// (USER_HZ, include/asm-generic/param.h).
const userHZ = 100

// IdleTimes is how long each CPU has been idle since boot, waiting for I/O
// included. Its grain is 10 ms.
func (fs FS) IdleTimes() (map[int]time.Duration, error) {
	b, err := read(fs.path("proc", "stat"))
	if err != nil {
		return nil, err
	}
	return parseIdleTimes(b), nil
}

// parseIdleTimes reads the lines "cpuN user nice system idle iowait ...".
func parseIdleTimes(b []byte) map[int]time.Duration {
	idle := make(map[int]time.Duration)
	for line := range bytes.Lines(b) {
		fields := strings.Fields(string(line))
		if len(fields) < 6 {
			continue
		}
		number, isCPU := strings.CutPrefix(fields[0], "cpu")
		cpu, err := strconv.Atoi(number)
		if !isCPU || err != nil || cpu < 0 { // "cpu" alone is the sum
			continue
		}
		ticks, err1 := strconv.ParseUint(fields[4], 10, 48)
		wait, err2 := strconv.ParseUint(fields[5], 10, 48)
		if err1 != nil || err2 != nil {
			continue
		}
		idle[cpu] = time.Duration(ticks+wait) * (time.Second / userHZ)
	}
	return idle
}
