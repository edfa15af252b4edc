package flamegraph

import (
	"fmt"
	"strconv"
	"time"
)

// formatTotal says how much a metric is in all, as in "1,234 samples" and
// "12.30 s of cpu".
func formatTotal(m metric) string {
	switch m.unit {
	case "count":
		return formatCount(m.total) + " " + m.typ
	case "nanoseconds":
		return formatDuration(m.total) + " of " + m.typ
	case "bytes":
		return formatBytes(m.total) + " of " + m.typ
	}
	return formatCount(m.total) + " " + m.unit + " of " + m.typ
}

func formatCount(v int64) string {
	s := strconv.FormatInt(v, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func formatDuration(ns int64) string {
	switch d := time.Duration(ns); {
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", ns)
	case d < time.Millisecond:
		return fmt.Sprintf("%.2f µs", float64(ns)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.2f ms", float64(ns)/1e6)
	}
	return fmt.Sprintf("%.2f s", float64(ns)/1e9)
}

func formatBytes(v int64) string {
	f := float64(v)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if f < 1024 {
			return fmt.Sprintf("%.4g %s", f, unit)
		}
		f /= 1024
	}
	return fmt.Sprintf("%.4g TiB", f)
}
