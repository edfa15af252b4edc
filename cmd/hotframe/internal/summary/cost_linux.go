package summary

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cost is what a process used until now.
type Cost struct {
	CPU    time.Duration
	Memory uint64 // bytes resident at the most
}

// OwnCost is that of this process.
func OwnCost() (Cost, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return Cost{}, fmt.Errorf("own CPU time: %w", err)
	}
	// Not u.Maxrss: execve keeps that of the program before.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return Cost{}, fmt.Errorf("own memory: %w", err)
	}
	return Cost{
		CPU:    time.Duration(u.Utime.Nano() + u.Stime.Nano()),
		Memory: peakMemory(string(status)),
	}, nil
}

// peakMemory reads the field VmHWM of /proc/PID/status, or returns 0.
func peakMemory(status string) uint64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
