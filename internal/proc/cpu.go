package proc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxCPU bounds CPU numbers; the largest NR_CPUS that Linux can be built with is 8192.
const maxCPU = 1 << 16

// OnlineCPUs lists the CPUs that run now, ascending.
func (fs FS) OnlineCPUs() ([]int, error) {
	path := fs.path("sys/devices/system/cpu/online")
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	cpus, err := ParseCPUList(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cpus, nil
}

// ParseCPUList reads a list as in "0-3,5": ascending in the result, each CPU once.
func ParseCPUList(list string) ([]int, error) {
	var cpus []int
	for item := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(item, "-")
		from, err := parseCPU(first)
		if err != nil {
			return nil, fmt.Errorf("cpu list %q: %w", list, err)
		}
		to := from
		if isRange {
			if to, err = parseCPU(last); err != nil {
				return nil, fmt.Errorf("cpu list %q: %w", list, err)
			}
		}
		if to < from {
			return nil, fmt.Errorf("cpu list %q: %d is before %d", list, to, from)
		}
		if len(cpus)+to-from >= maxCPU {
			return nil, fmt.Errorf("cpu list %q: more than %d cpus", list, maxCPU)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

func parseCPU(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n >= maxCPU {
		return 0, fmt.Errorf("%q is no cpu number", s)
	}
	return int(n), nil
}
