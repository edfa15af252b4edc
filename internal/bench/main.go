//go:build linux

// Command bench measures hotframe's budgets beside `perf record -g` on the
// same workload in the same run: all CPUs busy in 20-frame stacks. It prints a
// table and writes JSON. It must run as root.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"
)

// A row is one measured figure.
type row struct {
	Name     string   `json:"name"`
	Unit     string   `json:"unit"`
	Budget   float64  `json:"budget,omitempty"` // 0: none
	Hotframe float64  `json:"hotframe"`
	Perf     *float64 `json:"perf,omitempty"` // nil: perf has no such figure
}

// A report is what the JSON file holds.
type report struct {
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
	Date   string `json:"date"`
	Rows   []row  `json:"rows"`
}

func main() {
	hotframe := flag.String("hotframe", "./hotframe", "the binary to measure")
	jsonPath := flag.String("json", "", "file to write the figures to")
	duration := flag.Duration("duration", 10*time.Second, "length of each recording")
	source := flag.String("workload", "testdata/programs/deep.c", "C source of the workload; its arguments are depth and seconds")
	flag.Parse()
	if err := run(os.Stdout, *hotframe, *source, *jsonPath, *duration); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, hotframe, source, jsonPath string, duration time.Duration) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: it samples the whole host")
	}
	dir, err := os.MkdirTemp("", "hotframe-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	hotframe, err = filepath.Abs(hotframe)
	if err != nil {
		return err
	}
	busy, err := buildWorkload(source, dir)
	if err != nil {
		return err
	}

	h, err := measureHotframe(hotframe, busy, dir, duration, 99)
	if err != nil {
		return fmt.Errorf("hotframe: %w", err)
	}
	p, perfErr := measurePerf(busy, dir, duration)
	if perfErr != nil {
		fmt.Fprintln(os.Stderr, "bench: perf left out:", perfErr)
	}
	perf := func(v float64) *float64 {
		if perfErr != nil {
			return nil
		}
		return &v
	}
	rows := []row{
		{Name: "start to first sample", Unit: "ms", Budget: 150, Hotframe: h.firstSample, Perf: perf(p.firstSample)},
		{Name: "BPF time per sample, 20 frames", Unit: "us", Budget: 8, Hotframe: h.bpfPerSample},
		{Name: "user CPU per sample, names included", Unit: "us", Budget: 5, Hotframe: h.userPerSample, Perf: perf(p.userPerSample)},
		{Name: "system CPU per sample", Unit: "us", Hotframe: h.sysPerSample, Perf: perf(p.sysPerSample)},
		{Name: "peak resident memory", Unit: "MB", Budget: 40, Hotframe: h.rss, Perf: perf(p.rss)},
		{Name: "kernel map memory", Unit: "MB", Budget: 16, Hotframe: h.mapMemory},
		{Name: "end of recording to artefacts", Unit: "s", Budget: 0.5, Hotframe: h.finish, Perf: perf(p.finish)},
		{Name: "samples taken of those due", Unit: "%", Hotframe: h.taken, Perf: perf(p.taken)},
		{Name: "recording written", Unit: "MB", Hotframe: h.written, Perf: perf(p.written)},
	}
	fast, err := measureHotframe(hotframe, busy, dir, duration, 10000)
	if err != nil {
		return fmt.Errorf("hotframe at 10 kHz: %w", err)
	}
	rows = append(rows,
		row{Name: "at 10 kHz: user CPU per sample", Unit: "us", Budget: 5, Hotframe: fast.userPerSample},
		row{Name: "at 10 kHz: system CPU per sample", Unit: "us", Hotframe: fast.sysPerSample},
		row{Name: "at 10 kHz: BPF time per sample", Unit: "us", Budget: 8, Hotframe: fast.bpfPerSample},
		row{Name: "at 10 kHz: peak resident memory", Unit: "MB", Hotframe: fast.rss},
		row{Name: "at 10 kHz: samples taken of those due", Unit: "%", Hotframe: fast.taken},
	)
	print(w, rows)
	if jsonPath == "" {
		return nil
	}
	out, err := json.MarshalIndent(report{Kernel: kernelRelease(), CPUs: runtime.NumCPU(), Date: time.Now().UTC().Format(time.RFC3339), Rows: rows}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonPath, append(out, '\n'), 0o644)
}

func print(w io.Writer, rows []row) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "figure\tunit\tbudget\thotframe\tperf record -g\t")
	for _, r := range rows {
		budget, perf := "-", "-"
		if r.Budget != 0 {
			budget = fmt.Sprintf("%g", r.Budget)
			if r.Hotframe > r.Budget {
				budget += " (missed)"
			}
		}
		if r.Perf != nil {
			perf = fmt.Sprintf("%.2f", *r.Perf)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%.2f\t%s\t\n", r.Name, r.Unit, budget, r.Hotframe, perf)
	}
	tw.Flush()
}

func kernelRelease() string {
	out, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return string(out[:len(out)-1])
}

// buildWorkload compiles the program that keeps a CPU busy.
func buildWorkload(source, dir string) (string, error) {
	path := filepath.Join(dir, "busy")
	out, err := exec.Command("gcc", "-O2", "-g", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-o", path, source, "-lpthread").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compile %s: %w: %s", source, err, out)
	}
	return path, nil
}
