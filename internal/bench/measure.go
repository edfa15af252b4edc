//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"
)

// figures are what one profiler cost and got.
type figures struct {
	firstSample   float64 // ms from its start
	bpfPerSample  float64 // us
	userPerSample float64 // us
	sysPerSample  float64 // us
	rss           float64 // MB
	mapMemory     float64 // MB
	finish        float64 // s from the end of the recording to the last file
	taken         float64 // % of the samples due
	written       float64 // MB
}

// startWorkload keeps every CPU busy until stop is called.
func startWorkload(path string) (stop func(), err error) {
	var cmds []*exec.Cmd
	stop = func() {
		for _, c := range cmds {
			c.Process.Kill()
			c.Wait()
		}
	}
	for range runtime.NumCPU() {
		c := exec.Command(path, "20", "600")
		if err := c.Start(); err != nil {
			stop()
			return nil, err
		}
		cmds = append(cmds, c)
	}
	time.Sleep(500 * time.Millisecond)
	return stop, nil
}

func measureHotframe(binary, busy, dir string, duration time.Duration, frequency int) (figures, error) {
	var f figures
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return f, fmt.Errorf("enable BPF statistics: %w", err)
	}
	defer stats.Close()
	stopWorkload, err := startWorkload(busy)
	if err != nil {
		return f, err
	}
	defer stopWorkload()

	outputs := []string{filepath.Join(dir, "out.svg"), filepath.Join(dir, "out.pb.gz"), filepath.Join(dir, "out.folded")}
	args := []string{"record", "--duration", "0", "--frequency", strconv.Itoa(frequency)}
	for _, o := range outputs {
		args = append(args, "--output", o)
	}
	cmd := exec.Command(binary, args...)
	var summary bytes.Buffer
	cmd.Stderr = &summary
	before := newestProgram()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return f, err
	}
	prog, err := waitForFirstTick(before, 5*time.Second)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return f, fmt.Errorf("%w; it said: %s", err, summary.String())
	}
	f.firstSample = ms(time.Since(start))
	time.Sleep(duration)
	runs, err := prog.Stats()
	if err != nil {
		return f, err
	}
	f.bpfPerSample = us(runs.Runtime) / float64(runs.RunCount)
	f.mapMemory = mapMemory(prog)
	prog.Close()

	end := time.Now()
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		return f, fmt.Errorf("%w; it said: %s", err, summary.String())
	}
	f.finish = time.Since(end).Seconds()
	samples, err := countSamples(outputs[1])
	if err != nil {
		return f, err
	}
	f.charge(cmd.ProcessState, samples, end.Sub(start), frequency)
	for _, o := range outputs {
		f.written += megabytes(o)
	}
	return f, nil
}

// charge divides what a profiler used by the samples it took.
func (f *figures) charge(ps *os.ProcessState, samples int64, took time.Duration, frequency int) {
	usage := ps.SysUsage().(*syscall.Rusage)
	f.rss = float64(usage.Maxrss) / 1024
	if samples == 0 {
		return
	}
	f.userPerSample = us(ps.UserTime()) / float64(samples)
	f.sysPerSample = us(ps.SystemTime()) / float64(samples)
	// The first tick comes a period after the events are on.
	due := (took.Seconds() - f.firstSample/1000) * float64(frequency) * float64(runtime.NumCPU())
	f.taken = 100 * float64(samples) / due
}

func measurePerf(busy, dir string, duration time.Duration) (figures, error) {
	var f figures
	if _, err := exec.LookPath("perf"); err != nil {
		return f, err
	}
	stopWorkload, err := startWorkload(busy)
	if err != nil {
		return f, err
	}
	defer stopWorkload()

	data := filepath.Join(dir, "perf.data")
	cmd := exec.Command("perf", "record", "-q", "-g", "-F", "99", "-a", "-k", "CLOCK_MONOTONIC", "-o", data)
	startMono := monotonic()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return f, err
	}
	time.Sleep(duration)
	end := time.Now()
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait() // killed by the signal that ended it
	script := exec.Command("perf", "script", "-i", data, "-F", "time,ip,sym")
	out, err := script.Output()
	if err != nil {
		return f, fmt.Errorf("perf script: %w", err)
	}
	f.finish = time.Since(end).Seconds()
	samples, first, err := readScript(out)
	if err != nil {
		return f, err
	}
	f.firstSample = 1000 * (first - startMono)
	f.charge(cmd.ProcessState, samples, end.Sub(start), 99)
	usage := script.ProcessState.SysUsage().(*syscall.Rusage)
	f.rss = max(f.rss, float64(usage.Maxrss)/1024)
	f.userPerSample += us(script.ProcessState.UserTime()) / float64(samples)
	f.sysPerSample += us(script.ProcessState.SystemTime()) / float64(samples)
	f.written = megabytes(data)
	return f, nil
}

// readScript counts the samples in perf script's output and gives the time of the earliest, in seconds.
func readScript(out []byte) (samples int64, first float64, err error) {
	for line := range strings.Lines(string(out)) {
		stamp, ok := strings.CutSuffix(strings.TrimSpace(line), ":")
		if !ok || strings.HasPrefix(line, "\t") {
			continue
		}
		t, err := strconv.ParseFloat(stamp, 64)
		if err != nil {
			continue
		}
		if samples++; samples == 1 || t < first {
			first = t
		}
	}
	if samples == 0 {
		return 0, 0, errors.New("perf script printed no samples")
	}
	return samples, first, nil
}

// newestProgram is the highest id of a loaded BPF program; ids only grow.
func newestProgram() (newest ebpf.ProgramID) {
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		newest = id
	}
	return newest
}

// waitForFirstTick waits until a sampling program loaded after the given one has run once.
func waitForFirstTick(after ebpf.ProgramID, limit time.Duration) (*ebpf.Program, error) {
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(time.Millisecond) {
		for id, err := ebpf.ProgramGetNextID(after); err == nil; id, err = ebpf.ProgramGetNextID(id) {
			p, err := ebpf.NewProgramFromID(id)
			if err != nil {
				continue
			}
			info, err := p.Info()
			if err == nil && strings.HasPrefix(info.Name, "on_tick") {
				if st, err := p.Stats(); err == nil && st.RunCount > 0 {
					return p, nil
				}
			}
			p.Close()
		}
	}
	return nil, fmt.Errorf("no tick of the sampling program within %v", limit)
}

// mapMemory sums what the kernel charges for the program's maps, in MB.
func mapMemory(p *ebpf.Program) float64 {
	info, err := p.Info()
	if err != nil {
		return 0
	}
	ids, _ := info.MapIDs()
	var sum uint64
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if mi, err := m.Info(); err == nil {
			if n, ok := mi.Memlock(); ok {
				sum += n
			}
		}
		m.Close()
	}
	return float64(sum) / (1 << 20)
}

func countSamples(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	p, err := profile.Parse(io.LimitReader(f, 1<<30))
	if err != nil {
		return 0, err
	}
	var n int64
	for _, s := range p.Sample {
		n += s.Value[0]
	}
	return n, nil
}

func megabytes(path string) float64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(st.Size()) / (1 << 20)
}

// monotonic is CLOCK_MONOTONIC in seconds.
func monotonic() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return float64(ts.Sec) + float64(ts.Nsec)/1e9
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
