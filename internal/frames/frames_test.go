package frames

import (
	"slices"
	"testing"

	"github.com/google/pprof/profile"
)

func TestAppend(t *testing.T) {
	lib := &profile.Mapping{File: "/usr/lib/libc.so.6"}
	line := func(name, system, file string) profile.Line {
		return profile.Line{Function: &profile.Function{Name: name, SystemName: system, Filename: file}}
	}
	tests := []struct {
		name string
		in   profile.Location
		want []Frame
	}{
		{
			name: "inlined calls, outermost first",
			in:   profile.Location{Mapping: lib, Line: []profile.Line{line("leaf", "", "a.c"), line("outer", "", "b.c")}},
			want: []Frame{{"outer", "b.c", lib.File}, {"leaf", "a.c", lib.File}},
		},
		{
			name: "the linker's name where there is no other",
			in:   profile.Location{Line: []profile.Line{line("", "_Z1fv", "")}},
			want: []Frame{{"_Z1fv", "", ""}},
		},
		{
			name: "function without any name",
			in:   profile.Location{Mapping: lib, Line: []profile.Line{line("", "", "a.c")}},
			want: []Frame{{"[libc.so.6]", "a.c", lib.File}},
		},
		{
			name: "unsymbolized, file known",
			in:   profile.Location{Mapping: lib, Address: 0x7f01},
			want: []Frame{{"[libc.so.6]", "", lib.File}},
		},
		{
			name: "unsymbolized kernel keeps its own brackets",
			in:   profile.Location{Mapping: &profile.Mapping{File: "[kernel.kallsyms]"}, Address: 1},
			want: []Frame{{"[kernel.kallsyms]", "", "[kernel.kallsyms]"}},
		},
		{
			name: "unsymbolized, no file",
			in:   profile.Location{Address: 0x7f01},
			want: []Frame{{"0x7f01", "", ""}},
		},
		{
			name: "nothing known",
			in:   profile.Location{Mapping: &profile.Mapping{}},
			want: []Frame{{"[unknown]", "", ""}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Append(nil, &tt.in); !slices.Equal(got, tt.want) {
				t.Errorf("Append = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestComm(t *testing.T) {
	with := &profile.Sample{Label: map[string][]string{"comm": {"cc1"}}}
	without := &profile.Sample{Label: map[string][]string{"comm": {}}}
	if got := Comm(with); got != "cc1" {
		t.Errorf("Comm = %q, want cc1", got)
	}
	if got := Comm(without); got != "" {
		t.Errorf("Comm of an empty label = %q, want none", got)
	}
	if p := (&profile.Profile{Sample: []*profile.Sample{without, with}}); !HasComm(p) {
		t.Error("HasComm = false where the second sample has one")
	}
	if p := (&profile.Profile{Sample: []*profile.Sample{without}}); HasComm(p) {
		t.Error("HasComm = true where no sample has one")
	}
}
