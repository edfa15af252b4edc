//go:build linux

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"hotframe/aggregate"
	"hotframe/collapse"
	"hotframe/flamegraph"
	"hotframe/internal/object"
	"hotframe/internal/testutil"
	"hotframe/sampler"
	"hotframe/symbolize"
)

// TestReplayOfAllStages takes recorded samples through every stage behind the sampler, with a fixed
// set of kernel symbols: no privileges, the same bytes on every machine.
func TestReplayOfAllStages(t *testing.T) {
	first, second := replayed(t), replayed(t)
	for name, artefact := range map[string]func(*profile.Profile) []byte{"replay.folded": folded, "replay.svg": svg} {
		got := artefact(first)
		if !bytes.Equal(got, artefact(second)) {
			t.Errorf("%s: the same samples gave other bytes", name)
		}
		testutil.Golden(t, got, name)
	}
	if err := wellFormed(svg(first)); err != nil {
		t.Errorf("the SVG is not well-formed: %v", err)
	}
}

func replayed(t *testing.T) *profile.Profile {
	t.Helper()
	f, err := os.Open("../../testdata/samples/mixed.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src := sampler.NewReplay(f)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	agg := aggregate.New(aggregate.Config{Host: "host", Kernel: "6.1.0", Event: "cpu-clock", Frequency: 99, Start: start})
	var s sampler.Sample
	for {
		err := src.Read(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		agg.Add(&s)
	}
	rec := agg.Flush(start.Add(time.Second), src.Stats())
	names := symbolize.New(symbolize.Config{Kallsyms: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("ffffffff81000000 T _stext\nffffffff81000100 T entry_SYSCALL_64_after_hwframe\n" +
			"ffffffff81200000 T vfs_read\nffffffff81300000 T schedule\n")), nil
	}})
	if err := names.Symbolize(rec.Profile, func(m *profile.Mapping) *object.File { return rec.Objects[m] }); err != nil {
		t.Fatal(err)
	}
	if err := rec.Profile.CheckValid(); err != nil {
		t.Fatal(err)
	}
	return rec.Profile
}

func folded(p *profile.Profile) []byte {
	var b bytes.Buffer
	if err := collapse.WriteFolded(&b, p); err != nil {
		return []byte(err.Error())
	}
	return b.Bytes()
}

// svg is the flame graph up to its script, which has goldens of its own.
// svg is the flame graph without its viewer's script, which changes more often.
func svg(p *profile.Profile) []byte {
	var b bytes.Buffer
	if err := flamegraph.WriteSVG(&b, p, flamegraph.Options{Title: "replay"}); err != nil {
		return []byte(err.Error())
	}
	return regexp.MustCompile(`(?s)<script><!\[CDATA\[.*?\]\]></script>`).ReplaceAll(b.Bytes(), []byte("<script/>"))
}
