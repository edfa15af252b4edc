// Package summary tells the user how a recording went: what was sampled and what was
// lost, how much of it can be read, and what it cost.
//
// Upstream: a finished profile and the sampler's account. Downstream: a terminal.
package summary

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hotframe/sampler"
	"hotframe/symbolize"
)

// A Summary is what is told at the end of a recording.
type Summary struct {
	Target    string // in words
	Info      sampler.Info
	Frequency int
	Took      time.Duration
	Stats     sampler.Stats
	Shares    Shares
	Reasons   []symbolize.Reason // why addresses have no name
	Cost      Cost
	Written   []Written
}

// Written is an artefact.
type Written struct {
	Path string
	Size int64
}

// Subtitle says in one line how the profile came about.
func (s *Summary) Subtitle() string {
	return fmt.Sprintf("%d samples of %s at %d Hz in %.1f s", s.Shares.Samples, s.Info.Event, s.Frequency, s.Took.Seconds())
}

// Text is the summary in some lines. Names from profiled processes are escaped.
func (s *Summary) Text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "hotframe: %s at %d Hz on %s for %.1f s (%s)\n",
		s.Info.Event, s.Frequency, printable(s.Target), s.Took.Seconds(), s.Info.Backend)
	for _, g := range s.Info.GaveUp {
		row(&b, "gave up", printable(g))
	}
	row(&b, "samples", strconv.FormatUint(s.Stats.Outcomes[sampler.OutcomeEmitted], 10))
	row(&b, "ticks", s.ticks())
	if n := s.Stats.Lost(); n > 0 {
		row(&b, "lost", s.lost(n))
	}
	if n := s.Stats.SidebandLost; n > 0 {
		row(&b, "missed", fmt.Sprintf("%d process records; /proc was read again", n))
	}
	if s.Shares.Samples > 0 {
		row(&b, "stacks", percent(s.Shares.Complete, s.Shares.Samples)+" complete"+s.cuts())
		row(&b, "frames", s.names())
		s.problems(&b)
	} else {
		row(&b, "stacks", "none: no tick hit the target")
	}
	row(&b, "cost", fmt.Sprintf("%.2f s CPU time, %s memory", s.Cost.CPU.Seconds(), byteSize(s.Cost.Memory)))
	label := "wrote"
	for _, f := range s.Written {
		row(&b, label, fmt.Sprintf("%s (%s)", printable(f.Path), byteSize(uint64(f.Size))))
		label = ""
	}
	if len(s.Shares.Hottest) > 0 {
		b.WriteString("  hottest functions, by CPU time in themselves:\n")
	}
	for _, f := range s.Shares.Hottest {
		fmt.Fprintf(&b, "  %8s  %s\n", percent(f.Count, s.Shares.Time), printable(f.Name))
	}
	return b.Bytes()
}

func row(w io.Writer, label, text string) { fmt.Fprintf(w, "  %-8s %s\n", label, text) }

// ticks is the account that has to come out even.
func (s *Summary) ticks() string {
	var terms []string
	var sum uint64
	for _, o := range sampler.Outcomes() {
		n := s.Stats.Outcomes[o]
		if o == sampler.OutcomeUndelivered { // never happened
			continue
		}
		sum += n
		if n > 0 || o == sampler.OutcomeEmitted {
			terms = append(terms, fmt.Sprintf("%d %v", n, o))
		}
	}
	if sum != s.Stats.Ticks {
		terms = append(terms, fmt.Sprintf("%d UNACCOUNTED FOR", int64(s.Stats.Ticks-sum)))
	}
	return fmt.Sprintf("%d = %s", s.Stats.Ticks, strings.Join(terms, " + "))
}

func (s *Summary) lost(total uint64) string {
	var terms []string
	for _, o := range sampler.Outcomes() {
		if n := s.Stats.Outcomes[o]; n > 0 && o.Lost() {
			terms = append(terms, fmt.Sprintf("%d %v", n, o))
		}
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(terms, ", "))
}

// cuts tells what the stacks that are not complete lack.
func (s *Summary) cuts() string {
	var t string
	for i, c := range s.Shares.Cut {
		if i == 0 {
			t = "; the others: "
		} else {
			t += ", "
		}
		t += percent(c.Count, s.Shares.Samples) + " " + printable(c.Name)
	}
	return t
}

func (s *Summary) names() string {
	const shown = 3
	t := percent(s.Shares.Named, s.Shares.Frames) + " named"
	for i, u := range s.Shares.Unnamed {
		switch i {
		case 0:
			t += "; the others: "
		case shown:
			return t + ", ..."
		default:
			t += ", "
		}
		t += percent(u.Count, s.Shares.Frames) + " " + printable(u.Name)
	}
	return t
}

// problems tells which files could not be asked for names.
func (s *Summary) problems(b *bytes.Buffer) {
	const most = 3
	shown := 0
	for _, r := range s.Reasons {
		if r.File == "" || r.Text == symbolize.NoSymbol {
			continue
		}
		if shown == most {
			row(b, "", "...")
			return
		}
		label := ""
		if shown == 0 {
			label = "unnamed"
		}
		row(b, label, fmt.Sprintf("%d addresses in %s: %s", r.Locations, printable(r.File), printable(r.Text)))
		shown++
	}
}

// percent is rounded down, so that 100.0 % is all.
func percent(n, of int64) string {
	if of <= 0 {
		return "- %"
	}
	tenths := math.Floor(1000 * float64(n) / float64(of))
	if tenths == 0 && n > 0 {
		return "<0.1 %"
	}
	return fmt.Sprintf("%.1f %%", tenths/10)
}

func byteSize(n uint64) string {
	const unit = 1024
	switch {
	case n < unit:
		return fmt.Sprintf("%d B", n)
	case n < unit*unit:
		return fmt.Sprintf("%.1f KiB", float64(n)/unit)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/unit/unit)
}

// printable makes text of other programs safe for a terminal, and bounds it.
func printable(s string) string {
	const longest = 200 // characters
	n := 0
	for i := range s {
		if n++; n > longest {
			return Escape(s[:i]) + "..."
		}
	}
	return Escape(s)
}

// Escape replaces what a terminal would not print by Go's escapes.
func Escape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case !unicode.IsPrint(r):
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}
