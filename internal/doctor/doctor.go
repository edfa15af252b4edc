// Package doctor says in plain words what a host allows a profiler to do, and how
// to be allowed more.
//
// Upstream: /proc, /sys and attempts at the system calls in question.
// Downstream: the command line.
package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
)

// Status says whether a finding stands in the way.
type Status string

const (
	OK      Status = "ok"
	Limits  Status = "limits"  // something works less well, or not at all without it
	Blocks  Status = "blocks"  // nothing or no BPF works because of it
	Unknown Status = "unknown" // could not be found out
)

// A Check is one finding.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Value  string `json:"value"`
	Note   string `json:"note,omitempty"` // what it means; may have several lines
}

// A Way is one way to sample, as it was tried.
type Way struct {
	Name   string `json:"name"`
	Works  bool   `json:"works"`
	Reason string `json:"reason,omitempty"` // why it does not work
}

// A Report is all that is known about a host.
type Report struct {
	Checks  []Check  `json:"checks"`
	Ways    []Way    `json:"ways"`
	Usable  bool     `json:"usable"` // one way works
	Verdict string   `json:"verdict"`
	Advice  []string `json:"advice"` // how to get more, never nil
}

// Attempts are the outcomes of trying: nil where it works.
type Attempts struct {
	LoadBPF    error // load a perf event program, create a ring buffer
	AttachBPF  error // attach it to an event that runs on a whole CPU
	HostPerf   error // open an event on a whole CPU, the kernel included
	OwnKernel  error // open an event on an own process, the kernel included
	OwnPerf    error // open an event on an own process, user code only
	HardwarePM error // count cycles in an own process
}

var errNoBTF = errors.New("the kernel has no BTF")

// Host is what a Report is made from.
type Host struct {
	Root     fs.FS  // holds proc and sys
	Arch     string // as GOARCH
	Attempts Attempts
}

// Examine reads what the host says about itself and judges the attempts by it.
func Examine(h Host) Report {
	k := read(h)
	r := Report{Checks: k.checks(), Advice: []string{}}
	a := h.Attempts
	bpf := a.LoadBPF
	if bpf == nil {
		bpf = a.AttachBPF
	}
	if bpf == nil && !k.btf {
		bpf = errNoBTF
	}
	r.Ways = []Way{
		way("BPF, whole host", bpf),
		way("perf rings, whole host", a.HostPerf),
		way("perf rings, own processes with kernel stacks", a.OwnKernel),
		way("perf rings, own processes, user stacks only", a.OwnPerf),
	}
	if !k.supported() {
		r.Verdict = "hotframe does not run here: it needs Linux 5.10 or newer on amd64 or arm64."
		return r
	}
	r.Usable = bpf == nil || a.HostPerf == nil || a.OwnKernel == nil || a.OwnPerf == nil
	r.Verdict = verdict(bpf, a)
	r.Advice = append(r.Advice, k.advice(bpf)...)
	return r
}

func way(name string, err error) Way {
	if err != nil {
		return Way{Name: name, Reason: err.Error()}
	}
	return Way{Name: name, Works: true}
}

func verdict(bpf error, a Attempts) string {
	switch {
	case bpf == nil:
		return "hotframe can profile this whole host with BPF."
	case a.HostPerf == nil:
		return "hotframe can profile this whole host through perf rings, not with BPF: " +
			"it costs more and user stacks are those that the kernel can walk."
	case a.OwnKernel == nil:
		return "hotframe can profile your own processes and commands that it starts, not other users' nor the whole host."
	case a.OwnPerf == nil:
		return "hotframe can profile the user code of your own processes and of commands that it starts, " +
			"not the kernel, other users' processes nor the whole host."
	}
	return "hotframe can profile nothing here."
}

// WriteText writes the report for people to read.
func (r Report) WriteText(w io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", mark(c.Status), c.Name, c.Value)
		for note := range strings.Lines(c.Note) {
			fmt.Fprintf(t, "\t\t  %s\n", strings.TrimSuffix(note, "\n"))
		}
	}
	t.Flush() // to a Buffer, which takes everything
	b.WriteString("\nTried:\n")
	for _, w := range r.Ways {
		if w.Works {
			fmt.Fprintf(&b, "  works   %s\n", w.Name)
		} else {
			fmt.Fprintf(&b, "  fails   %s: %s\n", w.Name, w.Reason)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.Verdict)
	if len(r.Advice) > 0 {
		b.WriteString("To get more:\n")
		for _, a := range r.Advice {
			fmt.Fprintf(&b, "  - %s\n", a)
		}
	}
	// Nothing in the report ends in blanks but rows of the table without a value.
	for line := range strings.Lines(b.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func mark(s Status) string {
	switch s {
	case OK:
		return "  ok"
	case Limits:
		return "  !"
	case Blocks:
		return "  NO"
	}
	return "  ?"
}
