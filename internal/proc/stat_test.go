package proc

import (
	"maps"
	"testing"
	"time"
)

func TestParseIdleTimes(t *testing.T) {
	const stat = `cpu  10 0 10 300 30 0 0 0 0 0
cpu0 5 0 5 100 10 0 0 0 0 0
cpu7 5 0 5 200 20 0 0 0 0 0
cpu8 5 0 5
cpu-1 5 0 5 200 20 0 0 0 0 0
cpu9 5 0 5 99999999999999999999 20 0 0 0 0 0
intr 1 2 3 4 5 6
`
	want := map[int]time.Duration{0: 1100 * time.Millisecond, 7: 2200 * time.Millisecond}
	if got := parseIdleTimes([]byte(stat)); !maps.Equal(got, want) {
		t.Errorf("parseIdleTimes = %v, want %v", got, want)
	}
}

func TestIdleTimesOfThisMachine(t *testing.T) {
	idle, err := FS("/").IdleTimes()
	if err != nil {
		t.Skip("no /proc/stat:", err)
	}
	if len(idle) == 0 {
		t.Error("no CPU in /proc/stat")
	}
}
