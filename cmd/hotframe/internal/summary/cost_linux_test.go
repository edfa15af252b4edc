package summary

import "testing"

func TestOwnCost(t *testing.T) {
	c, err := OwnCost()
	if err != nil || c.CPU <= 0 || c.Memory < 1<<20 {
		t.Errorf("OwnCost = %+v, %v", c, err)
	}
	for _, status := range []string{"", "VmHWM:\n", "VmHWM:\t x kB\n", "VmHWM:\t-5 kB\n"} {
		if got := peakMemory(status); got != 0 {
			t.Errorf("peakMemory(%q) = %d, want 0", status, got)
		}
	}
	if got := peakMemory("Name:\tx\nVmHWM:\t   123 kB\nVmRSS:\t 5 kB\n"); got != 123<<10 {
		t.Errorf("peakMemory = %d, want %d", got, 123<<10)
	}
}
