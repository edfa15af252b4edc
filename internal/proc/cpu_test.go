package proc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseCPUList(t *testing.T) {
	tests := []struct {
		name, in string
		want     []int
	}{
		{"one", "0", []int{0}},
		{"range and one", "0-3,5", []int{0, 1, 2, 3, 5}},
		{"a user's order, with repetitions", "5,1-2,2", []int{1, 2, 5}},
		{"range of one", "7-7", []int{7}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := ParseCPUList(tt.in); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("ParseCPUList(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParseCPUListErrors(t *testing.T) {
	for _, in := range []string{"", ",", "0,", "a", "-1", "1-", "3-1", "0-65536", "99999999999", "0--1", " 1", "+1",
		strings.Repeat("0-65535,", 2) + "0-65535"} {
		if got, err := ParseCPUList(in); err == nil {
			t.Errorf("ParseCPUList(%q) = %d cpus, want an error", in, len(got))
		}
	}
}

// FuzzCPUList holds that a list is ascending and reads back the same when
// written out CPU by CPU.
func FuzzCPUList(f *testing.F) {
	f.Add("0-3,5")
	f.Add("0-65535,0")
	f.Fuzz(func(t *testing.T, in string) {
		cpus, err := ParseCPUList(in)
		if err != nil {
			if cpus != nil {
				t.Fatalf("%d cpus with error %v", len(cpus), err)
			}
			return
		}
		if len(cpus) == 0 || len(cpus) > maxCPU || !slices.IsSorted(cpus) {
			t.Fatalf("ParseCPUList(%q) = %v", in, cpus)
		}
		out := strings.ReplaceAll(strings.Trim(fmt.Sprint(cpus), "[]"), " ", ",")
		if again, err := ParseCPUList(out); err != nil || !slices.Equal(again, cpus) {
			t.Fatalf("ParseCPUList(%q) = %v, %v; want %v", out, again, err, cpus)
		}
	})
}
