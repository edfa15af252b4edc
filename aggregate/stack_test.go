package aggregate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"hotframe/sampler"
)

// Addresses of the test processes: a program, libc, and data that is no code.
const (
	text   = 0x400000
	libc   = 0x7f0000001000
	data   = 0x7ffe00000000
	kernel = 0xffffffff81000000
)

func process(pid int32) *sampler.Process {
	return sampler.NewProcess(pid,
		&sampler.Mapping{Start: text, End: text + 0x1000, Offset: 0x1000, Path: "/bin/p", Device: 1, Inode: 10},
		&sampler.Mapping{Start: libc, End: libc + 0x10000, Offset: 0x28000, Path: "/lib/libc.so.6", Device: 1, Inode: 11},
	)
}

func stack(stop sampler.StopReason, frames ...sampler.Addr) *sampler.Stack {
	return &sampler.Stack{Frames: frames, Stop: stop}
}

// flush makes a profile of samples and checks what holds for every profile.
func flush(t *testing.T, samples ...*sampler.Sample) *Recording {
	t.Helper()
	a := New(Config{Event: "cpu-clock", Frequency: 99, Start: time.Unix(0, 0)})
	for _, s := range samples {
		a.Add(s)
	}
	r := a.Flush(time.Unix(1, 0), sampler.Stats{})
	checkProfile(t, r.Profile, len(samples))
	for _, l := range r.Profile.Location {
		if m := l.Mapping; m != nil && (l.Address < m.Start || l.Address >= m.Limit) {
			t.Errorf("location %#x is outside of its mapping %s %#x-%#x", l.Address, m.File, m.Start, m.Limit)
		}
	}
	return r
}

func checkProfile(t *testing.T, p *profile.Profile, samples int) {
	t.Helper()
	if err := p.CheckValid(); err != nil {
		t.Errorf("CheckValid: %v", err)
	}
	if decoded := p.Copy().String(); decoded != p.String() {
		t.Errorf("encoded and decoded the profile is\n%s\nwant\n%s", decoded, p)
	}
	n := int64(0)
	for _, s := range p.Sample {
		n += s.Value[0]
		if len(s.Location) == 0 {
			t.Errorf("a sample without a frame: %v", s.Label)
		}
	}
	if n != int64(samples) {
		t.Errorf("the profile counts %d samples of %d", n, samples)
	}
}

// show writes a sample's frames, leaf first, as FILE:ADDRESS, "?" being the
// file of what nothing maps.
func show(s *profile.Sample) string {
	var frames []string
	for _, l := range s.Location {
		switch {
		case len(l.Line) > 0:
			frames = append(frames, l.Line[0].Function.Name)
		case l.Mapping == nil:
			frames = append(frames, fmt.Sprintf("?:%x", l.Address))
		default:
			frames = append(frames, fmt.Sprintf("%s:%x", l.Mapping.File, l.Address))
		}
	}
	return strings.Join(frames, " ")
}

func TestStack(t *testing.T) {
	known := process(1)
	tests := []struct {
		name         string
		process      *sampler.Process
		kernel, user *sampler.Stack
		want         string
	}{
		{
			name: "the PC stays, return addresses are taken into the call",
			user: stack(sampler.StopFPEnd, text+0x10, text+0x20, libc+0x30),
			want: "/bin/p:400010 /bin/p:40001f /lib/libc.so.6:7f000000102f",
		},
		{
			name:   "the leaf of either half stays",
			kernel: stack(sampler.StopKernel, kernel+0x10, kernel+0x20),
			user:   stack(sampler.StopFPEnd, text+0x10, text+0x20),
			want:   "[kernel.kallsyms]:ffffffff81000010 [kernel.kallsyms]:ffffffff8100001f /bin/p:400010 /bin/p:40001f",
		},
		{
			name: "a call that ends its mapping returns to the next byte",
			user: stack(sampler.StopFPEnd, text, text+0x1000),
			want: "/bin/p:400000 /bin/p:400fff",
		},
		{
			name: "a return address that starts a mapping is of no call in it",
			user: stack(sampler.StopFPEnd, text, libc),
			want: "/bin/p:400000 [unknown: no frame pointer]",
		},
		{
			name:    "return address zero does not wrap",
			process: sampler.NewProcess(1),
			user:    stack(sampler.StopFPEnd, text, 0),
			want:    "?:400000 ?:0",
		},
		{
			name: "a walk that ended early says so at the root",
			user: stack(sampler.StopDepth, text, text+1),
			want: "/bin/p:400000 /bin/p:400000 [unknown: max depth]",
		},
		{
			name: "a walk to data ends there, whatever ended it later",
			user: stack(sampler.StopFPUnreadable, text, data, text),
			want: "/bin/p:400000 [unknown: no frame pointer]",
		},
		{
			name: "a walk to data that seemed whole is not",
			user: stack(sampler.StopFPEnd, text, text+0x20, data),
			want: "/bin/p:400000 /bin/p:40001f [unknown: no frame pointer]",
		},
		{
			name: "the leaf is where the CPU was, mapped or not",
			user: stack(sampler.StopFPEnd, data, text+0x20),
			want: "?:7ffe00000000 /bin/p:40001f",
		},
		{
			name:    "of a process without known mappings all addresses stay",
			process: sampler.NewProcess(2),
			user:    stack(sampler.StopFPInvalid, text, libc+1),
			want:    "?:400000 ?:7f0000001000 [unknown: no frame pointer]",
		},
		{
			name:   "a cut kernel half says so above the user half",
			kernel: stack(sampler.StopKernelDepth, kernel),
			user:   stack(sampler.StopFPEnd, text),
			want:   "[kernel.kallsyms]:ffffffff81000000 [unknown: kernel max depth] /bin/p:400000",
		},
		{
			name:   "an unreadable kernel half",
			kernel: stack(sampler.StopKernelError),
			user:   stack(sampler.StopFPEnd, text),
			want:   "[unknown: kernel stack unreadable] /bin/p:400000",
		},
		{
			name:   "a kernel address of no kernel",
			kernel: stack(sampler.StopKernel, kernel, 0x1000),
			want:   "[kernel.kallsyms]:ffffffff81000000 ?:fff",
		},
		{
			name: "user registers could not be had",
			user: stack(sampler.StopNoRegs),
			want: "[unknown: no user registers]",
		},
		{
			name: "no frame and no reason",
			user: stack(sampler.StopNone),
			want: "[unknown: no stack]",
		},
		{
			name: "no half at all",
			want: "[unknown: no stack]",
		},
		{
			name: "a stop reason from a newer recording",
			user: stack(sampler.StopReason(200), text),
			want: "/bin/p:400000 [unknown: invalid stop reason]",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sampler.Sample{PID: 1, TID: 1, Kernel: tt.kernel, User: tt.user, Process: known}
			if tt.process != nil {
				s.Process = tt.process
			}
			p := flush(t, &s).Profile
			if got := show(p.Sample[0]); got != tt.want {
				t.Errorf("stack is\n%s, want\n%s", got, tt.want)
			}
		})
	}
}

func TestEqualContentIsOneSample(t *testing.T) {
	base := sampler.Sample{
		PID: 1, TID: 2, Comm: sampler.NewComm("p"), Cgroup: "/c", Process: process(1),
		Kernel: stack(sampler.StopKernel, kernel),
		User:   stack(sampler.StopFPEnd, text, libc+0x20),
	}
	tests := []struct {
		name   string
		change func(s *sampler.Sample)
		want   []int64 // counts of base and the changed sample, once each
	}{
		{"the same again", func(*sampler.Sample) {}, []int64{2}},
		{"elsewhere and later", func(s *sampler.Sample) { s.CPU, s.Time = 3, 5 }, []int64{2}},
		{"the stack under another pointer", func(s *sampler.Sample) { s.User = stack(sampler.StopFPEnd, text, libc+0x20) }, []int64{2}},
		{"after an exec of the same file", func(s *sampler.Sample) { s.Process = process(1) }, []int64{2}},
		{"another thread", func(s *sampler.Sample) { s.TID = 3 }, []int64{1, 1}},
		{"another process", func(s *sampler.Sample) { s.PID = 3 }, []int64{1, 1}},
		{"another comm", func(s *sampler.Sample) { s.Comm = sampler.NewComm("q") }, []int64{1, 1}},
		{"another cgroup", func(s *sampler.Sample) { s.Cgroup = "/d" }, []int64{1, 1}},
		{"no kernel half", func(s *sampler.Sample) { s.Kernel = nil }, []int64{1, 1}},
		{"ended for another reason", func(s *sampler.Sample) { s.User = stack(sampler.StopDepth, text, libc+0x20) }, []int64{1, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := base
			tt.change(&changed)
			var got []int64
			for _, s := range flush(t, &base, &changed).Profile.Sample {
				got = append(got, s.Value[0])
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("counts are %v, want %v", got, tt.want)
			}
		})
	}
}
