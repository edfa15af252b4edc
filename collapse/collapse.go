// Package collapse converts between pprof profiles and folded stacks.
//
// Upstream: symbolize, or any pprof file. Downstream: any reader of folded text.
package collapse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/pprof/profile"

	"hotframe/internal/frames"
)

// ErrNegative is returned for a profile with negative values, such as the
// difference of two: folded text has no place for them.
var ErrNegative = errors.New("negative sample value")

// WriteFolded writes p as folded text: one line for each distinct stack,
//
//	comm;outermost;...;leaf count
//
// sorted bytewise by stack. The comm is left out where no sample has one. The
// count is the value of samples/count, else of the first sample type; stacks
// whose count is 0 are left out. Frames of the kernel end in "_[k]".
//
// In names, ";" becomes ":", and every control character, line separator and
// invalid byte becomes U+FFFD; in a comm, blanks become "_" too. So a line
// is split by its last blank into stack and count, and the stack by ";" into
// as many names as it has frames.
func WriteFolded(w io.Writer, p *profile.Profile) error {
	if err := p.CheckValid(); err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	counts, err := fold(p)
	if err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	stacks := make([]string, 0, len(counts))
	for s := range counts {
		stacks = append(stacks, s)
	}
	slices.Sort(stacks)

	bw := bufio.NewWriterSize(w, 64<<10)
	var num []byte
	for _, s := range stacks {
		bw.WriteString(s)
		num = strconv.AppendInt(append(num[:0], ' '), *counts[s], 10)
		bw.Write(append(num, '\n'))
	}
	return bw.Flush() // the first error of any write
}

// fold sums the counts of equal stacks.
func fold(p *profile.Profile) (map[string]*int64, error) {
	counts := make(map[string]*int64)
	value := countType(p)
	hasComm := frames.HasComm(p)
	texts := make(map[*profile.Location]string) // each begins with ";"
	var stack []byte
	for _, s := range p.Sample {
		n := s.Value[value]
		if n < 0 {
			return nil, ErrNegative
		}
		if n == 0 {
			continue
		}
		stack = stack[:0]
		if hasComm {
			stack = append(append(stack, ';'), commText(frames.Comm(s))...)
		}
		for i := len(s.Location) - 1; i >= 0; i-- {
			l := s.Location[i]
			text, ok := texts[l]
			if !ok {
				text = locationText(l)
				texts[l] = text
			}
			stack = append(stack, text...)
		}
		if len(stack) == 0 {
			stack = append(stack, ";[unknown]"...)
		}
		sum := counts[string(stack[1:])]
		if sum == nil {
			sum = new(int64)
			counts[string(stack[1:])] = sum
		}
		if *sum > math.MaxInt64-n {
			return nil, fmt.Errorf("sum of %s exceeds 64 bits", p.SampleType[value].Type)
		}
		*sum += n
	}
	return counts, nil
}

func countType(p *profile.Profile) int {
	for i, t := range p.SampleType {
		if t.Type == "samples" && t.Unit == "count" {
			return i
		}
	}
	return 0
}

func locationText(l *profile.Location) string {
	var b strings.Builder
	for _, f := range frames.Append(nil, l) {
		b.WriteByte(';')
		b.WriteString(escape(f.Name))
		if f.Kernel() {
			b.WriteString("_[k]")
		}
	}
	return b.String()
}

func commText(comm string) string {
	if comm == "" {
		comm = frames.UnknownComm
	}
	return strings.ReplaceAll(escape(comm), " ", "_")
}

func escape(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ';':
			return ':'
		case unicode.IsControl(r), r == '\u2028', r == '\u2029':
			return unicode.ReplacementChar
		}
		return r // U+FFFD for an invalid byte
	}, name)
}
