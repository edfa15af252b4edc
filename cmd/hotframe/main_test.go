//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"hotframe/cmd/hotframe/internal/summary"
	"hotframe/internal/launch"
	"hotframe/sampler"
)

// fakeEnv makes the test binary behave as hotframe with a fake source of that
// name; see openFake.
const fakeEnv = "HOTFRAME_TEST_SOURCE"

func TestMain(m *testing.M) {
	launch.ExecIfWaiting()
	if name := os.Getenv(fakeEnv); name != "" {
		signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
		a := newApp(os.Stdout, os.Stderr)
		a.openBPF = openFake(&fakeSource{name: name, log: os.Stderr})
		a.openPerf = a.openBPF
		os.Exit(a.run(context.Background(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// openFake returns an open function that yields src and keeps the Config.
func openFake(src *fakeSource) func(sampler.Config) (sampler.Source, error) {
	return func(c sampler.Config) (sampler.Source, error) {
		src.config = c
		src.stop = make(chan struct{})
		fmt.Fprintln(src.log, "opened")
		return src, nil
	}
}

// denied is an open function that has no rights.
func denied(what string) func(sampler.Config) (sampler.Source, error) {
	return func(sampler.Config) (sampler.Source, error) {
		return nil, fmt.Errorf("%s: %w", what, unix.EPERM)
	}
}

// fakeSource yields a hundred equal samples and ends when it is stopped. Named
// "stuck" it never ends, "broken" it fails instead of ending, "ends" it ends by itself.
type fakeSource struct {
	name   string
	log    io.Writer // told "opened", "stopped" and "closed"
	config sampler.Config
	info   sampler.Info

	taken int
	stop  chan struct{}
	once  sync.Once
}

const fakeSamples = 100

func (f *fakeSource) Read(s *sampler.Sample) error {
	if f.taken < fakeSamples {
		f.taken++
		p := &sampler.Process{PID: 42, Exe: "/bin/busy"}
		*s = sampler.Sample{PID: 42, TID: 42, Period: 10_101_010, Comm: sampler.NewComm("busy"), Process: p,
			User: &sampler.Stack{Frames: []sampler.Addr{0x401000, 0x402000}, Stop: sampler.StopFPEnd}}
		return nil
	}
	switch f.name {
	case "stuck":
		select {}
	case "broken":
		return errors.New("the ring is broken")
	case "ends":
	default:
		<-f.stop
	}
	return io.EOF
}

func (f *fakeSource) Stop() error {
	f.once.Do(func() { close(f.stop); fmt.Fprintln(f.log, "stopped") })
	return nil
}

func (f *fakeSource) Stats() sampler.Stats {
	st := sampler.Stats{Ticks: uint64(f.taken) + 20}
	st.Outcomes[sampler.OutcomeEmitted] = uint64(f.taken)
	st.Outcomes[sampler.OutcomeIdle] = 20
	return st
}

func (f *fakeSource) Info() sampler.Info { return f.info }

func (f *fakeSource) KernelSymbols() []sampler.KernelSymbol { return nil }

func (f *fakeSource) Close() error {
	fmt.Fprintln(f.log, "closed")
	return nil
}

// testApp is an app whose sources are fakes. Its streams are buffers.
func testApp(t *testing.T) (*app, *fakeSource, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	t.Chdir(t.TempDir())
	var stdout, stderr bytes.Buffer
	src := &fakeSource{log: io.Discard, info: sampler.Info{Backend: "bpf", Event: "cpu-clock"}}
	a := newApp(&stdout, &stderr)
	a.openBPF = openFake(src)
	a.openPerf = denied("perf_event_open")
	a.getenv = func(string) string { return "" }
	a.mayLoadBPF = func() bool { return true }
	a.ownCost = func() (summary.Cost, error) { return summary.Cost{CPU: 1e9, Memory: 20 << 20}, nil }
	return a, src, &stdout, &stderr
}

// files lists the working directory, hidden files included.
func files(t *testing.T) string {
	t.Helper()
	list, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
