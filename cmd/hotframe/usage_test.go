//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"hotframe/internal/testutil"
	"hotframe/sampler"
)

// TestUsageErrors holds the messages in a golden file.
func TestUsageErrors(t *testing.T) {
	var got bytes.Buffer
	for _, line := range []string{
		"recrod",
		"--frequency 5",
		"version now",
		"doctor --yaml",
		"record --frobnicate",
		"record -F",
		"record -F x",
		"record -F 0",
		"record -F -1",
		"record -F 100001",
		"record -d soon",
		"record -d -1s",
		"record -p 0",
		"record -p 12,x",
		"record -p 12 34",
		"record -t -3",
		"record -t 99999999999",
		"record -C 3-1",
		"record -C 0-99999999",
		"record -e frobs",
		"record -e ''",
		"record --comm (",
		"record --max-depth 0",
		"record --max-depth 513",
		"record --backend dtrace",
		"record --format png",
		"record --format svg -o a.folded",
		"record -o a.png",
		"record -o a",
		"record -o ''",
		"record -o -",
		"record -o a.svg -o ./a.svg",
		"record -a -p 1",
		"record -a -C 0",
		"record -p 1 -t 1",
		"record -p 1 --cgroup /",
		"record -p 1 -- true",
		"record --cgroup ''",
		"record --cgroup / -- true",
		"record -K -U",
		"record --user nobody",
		"record --call-graph lbr",
		"record --unwind-memory 0",
		"record --user '' -- true",
	} {
		t.Run(line, func(t *testing.T) {
			a, _, stdout, stderr := testApp(t)
			args := strings.Fields(line)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "''", "")
			}
			status := a.run(context.Background(), args)
			fmt.Fprintf(&got, "$ hotframe %s\n%s", line, stderr)
			if status != statusUsage {
				t.Errorf("exit status %d, want %d", status, statusUsage)
			}
			if strings.Count(stderr.String(), "\n") != 1 || stdout.Len() > 0 {
				t.Errorf("wrote %q and %q, want one line of error", stdout, stderr)
			}
			if left := files(t); left != "" {
				t.Errorf("left %q", left)
			}
		})
	}
	testutil.Golden(t, got.Bytes(), "usage-errors.txt")
}

// TestConfig: what the sampler is asked for.
func TestConfig(t *testing.T) {
	plain := sampler.Config{Event: "auto", Frequency: 99, MaxDepth: 512, UnwindMemory: 64 << 20}
	with := func(change func(*sampler.Config)) sampler.Config {
		c := plain
		change(&c)
		return c
	}
	me := strconv.Itoa(os.Getpid())
	tests := []struct {
		args string
		want sampler.Config
	}{
		{"", plain},
		{"-a", plain},
		{"-F 1000 -e cpu-clock --max-depth 64", with(func(c *sampler.Config) { c.Frequency, c.Event, c.MaxDepth = 1000, "cpu-clock", 64 })},
		{"-K --include-idle", with(func(c *sampler.Config) { c.NoKernel, c.IncludeIdle = true, true })},
		{"--call-graph fp --unwind-memory 8", with(func(c *sampler.Config) { c.CallGraph, c.UnwindMemory = sampler.CallGraphFP, 8<<20 })},
		{"-U", with(func(c *sampler.Config) { c.NoUser = true })},
		{"-p " + me + ",1," + me, with(func(c *sampler.Config) { c.Target.PIDs = []int32{int32(os.Getpid()), 1} })},
		{"-p 1 -p " + me, with(func(c *sampler.Config) { c.Target.PIDs = []int32{1, int32(os.Getpid())} })},
		{"-t " + me + " -C 0", with(func(c *sampler.Config) {
			c.Target.TIDs, c.Target.CPUs = []int32{int32(os.Getpid())}, []int{0}
		})},
	}
	for _, tt := range tests {
		t.Run("record "+tt.args, func(t *testing.T) {
			a, src, _, stderr := testApp(t)
			args := append([]string{"record", "-d", "1ms", "-o", "x.folded"}, strings.Fields(tt.args)...)
			if status := a.run(context.Background(), args); status != 0 {
				t.Fatalf("exit status %d: %s", status, stderr)
			}
			got := src.config
			if got.Objects == nil {
				t.Error("Config.Objects is nil: no file will be opened")
			}
			got.Objects = nil
			if !reflect.DeepEqual(normal(got), normal(tt.want)) {
				t.Errorf("config %+v, want %+v", got, tt.want)
			}
		})
	}
}

// normal makes empty lists nil.
func normal(c sampler.Config) sampler.Config {
	if len(c.Target.PIDs) == 0 {
		c.Target.PIDs = nil
	}
	if len(c.Target.TIDs) == 0 {
		c.Target.TIDs = nil
	}
	if len(c.Target.CPUs) == 0 {
		c.Target.CPUs = nil
	}
	return c
}

func TestSeconds(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration
	}{
		{"30s", 30 * time.Second},
		{"2m", 2 * time.Minute},
		{"500ms", 500 * time.Millisecond},
		{"10", 10 * time.Second},
		{"0", 0},
		{"0.5", 500 * time.Millisecond},
	}
	for _, tt := range tests {
		var s seconds
		if err := s.Set(tt.in); err != nil || time.Duration(s) != tt.want {
			t.Errorf("Set(%q) = %v, %v, want %v", tt.in, time.Duration(s), err, tt.want)
		}
	}
}

func TestParseOutputs(t *testing.T) {
	tests := []struct {
		name   string
		paths  []string
		format string
		want   []output
	}{
		{"default", nil, "", defaultOutputs},
		{"default of one format", nil, "folded", []output{{"hotframe.folded", formatFolded}}},
		{"by extension", []string{"a.svg", "b/c.pb.gz", "d.pprof", "e.folded"}, "",
			[]output{{"a.svg", formatSVG}, {"b/c.pb.gz", formatPprof}, {"d.pprof", formatPprof}, {"e.folded", formatFolded}}},
		{"format is for what has no extension", []string{"a.svg", "-", "/dev/fd/3"}, "pprof",
			[]output{{"a.svg", formatSVG}, {"-", formatPprof}, {"/dev/fd/3", formatPprof}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseOutputs(tt.paths, tt.format)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parseOutputs(%q, %q) = %v, %v, want %v", tt.paths, tt.format, got, err, tt.want)
			}
		})
	}
}

func TestHelpAndCompletion(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{}, "Available Commands:"},
		{[]string{"record", "--help"}, "sudo hotframe record -p 1234"},
		{[]string{"completion", "bash"}, "__start_hotframe"},
		{[]string{"__complete", "record", "--backend", ""}, "auto\nbpf\nperf\n:4\n"},
		{[]string{"__complete", "record", "--format", ""}, "svg\npprof\nfolded\n:4\n"},
		{[]string{"__complete", "record", "--event", ""}, "auto\ncycles\ncpu-clock\n"},
	}
	for _, tt := range tests {
		a, _, stdout, stderr := testApp(t)
		status := a.run(context.Background(), tt.args)
		if status != 0 || !strings.Contains(stdout.String(), tt.want) {
			t.Errorf("hotframe %q: status %d, no %q in %q; %s", tt.args, status, tt.want, stdout, stderr)
		}
	}
}
