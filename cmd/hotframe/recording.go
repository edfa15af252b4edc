//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"hotframe/aggregate"
	"hotframe/cmd/hotframe/internal/summary"
	"hotframe/flamegraph"
	"hotframe/internal/artefact"
	"hotframe/internal/launch"
	"hotframe/internal/object"
	"hotframe/sampler"
	"hotframe/symbolize"
)

// A recording is one run of hotframe record.
type recording struct {
	*app
	plan      plan
	artefacts artefacts
	progress  progress
	released  bool      // the command was
	exited    chan exit // of the released command

	mu      sync.Mutex
	command *launch.Command // nil without one, and before it is started
}

// exit is how the command ended.
type exit struct {
	status int
	err    error
}

// record runs the plan in a goroutine and passes signals on to it. The first
// signal ends the sampling; the second, or one before anything could be written,
// leaves everything as it is but the temporary files, which it removes.
func (a *app) record(ctx context.Context, p plan) error {
	r := &recording{app: a, plan: p, artefacts: artefacts{outputs: p.outputs}, exited: make(chan exit, 1)}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case s := <-signals:
			if s != unix.SIGINT { // which the terminal sends to the command as well
				r.forward(s)
			}
			if ctx.Err() != nil || !r.artefacts.ready() {
				return &exitError{status: statusAborted,
					err: errors.Join(errors.New("given up, nothing more is written"), r.artefacts.abort())}
			}
			stop()
		}
	}
}

func (r *recording) forward(s os.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.command == nil {
		return
	}
	if err := r.command.Signal(s); err != nil {
		r.say("%v", err)
	}
}

// run samples, writes the artefacts and waits for the command, whose status
// comes as an exitError.
func (r *recording) run(ctx context.Context) error {
	err := r.prepare()
	if err == nil {
		err = r.sample(ctx)
	}
	if aerr := r.artefacts.abort(); err == nil { // does nothing to complete ones
		err = aerr
	}
	if !r.released {
		return err
	}
	if err != nil {
		r.say("%v", err)
	}
	end := r.waitForCommand()
	switch {
	case err != nil:
		return &exitError{status: statusFailure}
	case end.err != nil:
		return end.err
	case end.status != 0:
		return &exitError{status: end.status}
	}
	return nil
}

// prepare does all that can fail for what the user asked for, and starts the
// command, which waits.
func (r *recording) prepare() error {
	if err := r.checkTarget(); err != nil {
		return err
	}
	if err := r.artefacts.create(r.artefactConfig(), r.stdout); err != nil {
		return err
	}
	if len(r.plan.command) == 0 {
		return nil
	}
	cmd, err := r.launch()
	if err != nil {
		return commandError(err)
	}
	if !r.plan.allCPUs {
		r.plan.sampler.Target.Command = int32(cmd.PID)
	}
	r.setCommand(cmd)
	return nil
}

func (r *recording) setCommand(c *launch.Command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.command = c
}

// commandError gives the status of a shell to a command that cannot be run.
func commandError(err error) error {
	var le *launch.Error
	if errors.As(err, &le) {
		return &exitError{status: le.Status, err: le}
	}
	return err
}

func (r *recording) waitForCommand() exit {
	select {
	case end := <-r.exited:
		return end
	default:
	}
	r.say("the recording is over; waiting for the command to exit")
	return <-r.exited
}

// hostWide reports whether the profile shows more than one command.
func (p *plan) hostWide() bool { return len(p.command) == 0 || p.allCPUs }

// artefactConfig keeps what describes other people's processes to the user.
func (r *recording) artefactConfig() artefact.Config {
	c := artefact.Config{Mode: 0o666, Owner: artefact.InvokingUser(r.getenv)}
	if r.plan.hostWide() {
		c.Mode = 0o600
	}
	return c
}

// launch starts the command, which then waits. Its standard output gives way to
// an artefact.
func (r *recording) launch() (*launch.Command, error) {
	c := launch.Config{Args: r.plan.command, User: r.plan.user, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	for _, o := range r.plan.outputs {
		if o.path == "-" {
			c.Stdout = os.Stderr
		}
	}
	return launch.Start(c)
}

// sample takes the samples and writes the artefacts. A command is released, or
// discarded, on every path.
func (r *recording) sample(ctx context.Context) (err error) {
	defer func() {
		if r.command != nil && !r.released {
			err = errors.Join(err, r.command.Discard())
		}
	}()
	objects := object.NewStore(object.Config{})
	defer func() { err = errors.Join(err, objects.Close()) }()
	config := r.plan.sampler
	config.Objects = objects
	src, err := r.open(config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()

	start := r.now()
	agg := aggregate.New(r.aggregateConfig(src.Info(), start))
	if r.command != nil {
		if err := r.release(); err != nil {
			return err
		}
	}
	end, err := r.collect(ctx, src, agg)
	if err != nil {
		return err
	}
	return r.finish(src, agg.Flush(end, src.Stats()), end.Sub(start))
}

func (r *recording) release() error {
	if err := r.command.Release(); err != nil { // the process is gone
		r.setCommand(nil)
		return commandError(err)
	}
	r.released = true
	go func() {
		status, err := r.command.Wait()
		r.exited <- exit{status, err}
	}()
	return nil
}

func (r *recording) aggregateConfig(info sampler.Info, start time.Time) aggregate.Config {
	c := aggregate.Config{
		Event:     info.Event,
		Frequency: r.plan.sampler.Frequency,
		Start:     start,
		Comm:      r.plan.comm,
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil { // fails for bad addresses only
		c.Host, c.Kernel = unix.ByteSliceToString(name.Nodename[:]), unix.ByteSliceToString(name.Release[:])
	}
	switch pids := r.plan.sampler.Target.PIDs; {
	case r.command != nil:
		c.Main = realPath(r.command.Path)
	case len(pids) == 1:
		c.Main, _ = r.proc.Exe(pids[0]) // kernel threads have none
	}
	return c
}

// realPath is how the kernel names the file in mappings.
func realPath(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return path
}

// collect reads samples until the recording is over, and then those that are left.
func (r *recording) collect(ctx context.Context, src sampler.Source, agg *aggregate.Aggregator) (end time.Time, err error) {
	read := make(chan error, 1)
	go func() { read <- r.read(src, agg) }()
	r.await(ctx, read)
	err = src.Stop()
	end = r.now()
	return end, errors.Join(err, <-read)
}

func (r *recording) read(src sampler.Source, agg *aggregate.Aggregator) error {
	var s sampler.Sample
	for {
		err := src.Read(&s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read samples: %w", err)
		}
		agg.Add(&s)
		r.progress.sample(src)
	}
}

// await returns when the recording is to end. What it takes from the channels it
// puts back.
func (r *recording) await(ctx context.Context, read chan error) {
	begin := r.now()
	var limit <-chan time.Time // never, for 0
	if r.plan.duration > 0 {
		t := time.NewTimer(r.plan.duration)
		defer t.Stop()
		limit = t.C
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	show := r.terminal(r.stderr) && r.command == nil // which may write there itself
	if show {
		defer r.progress.clear(r.stderr)
	}
	for {
		select {
		case <-limit:
			return
		case <-ctx.Done():
			return
		case err := <-read: // it failed, or the source has no more samples
			read <- err
			return
		case end := <-r.exited:
			r.exited <- end
			return
		case <-tick.C:
			if show {
				r.progress.draw(r.stderr, r.now().Sub(begin), r.plan.duration)
			}
			if r.targetGone() {
				return
			}
		}
	}
}

// kernelSymbols are those that may be gone from kallsyms.
func kernelSymbols(src sampler.Source) []symbolize.KernelSymbol {
	var symbols []symbolize.KernelSymbol
	for _, k := range src.KernelSymbols() {
		if !k.Gone {
			symbols = append(symbols, symbolize.KernelSymbol{Addr: uint64(k.Start), Size: uint64(k.End - k.Start), Name: k.Name})
		}
	}
	return symbols
}

// finish names and writes what was recorded.
func (r *recording) finish(src sampler.Source, rec *aggregate.Recording, took time.Duration) error {
	names := symbolize.New(symbolize.Config{KernelSymbols: kernelSymbols(src)})
	err := names.Symbolize(rec.Profile, func(m *profile.Mapping) *object.File { return rec.Objects[m] })
	if err != nil {
		return err
	}
	isRoot := summary.ProgramRoot
	if r.plan.sampler.NoUser {
		isRoot = summary.KernelRoot
	}
	s := &summary.Summary{
		Target:    r.plan.targetText(),
		Info:      src.Info(),
		Frequency: r.plan.sampler.Frequency,
		Took:      took,
		Stats:     rec.Stats,
		Shares:    summary.Measure(rec.Profile, rec.Bottoms, isRoot),
		Reasons:   names.Reasons(),
	}
	heading := flamegraph.Options{Title: "hotframe: " + s.Target, Subtitle: s.Subtitle()}
	if s.Written, err = r.artefacts.write(rec.Profile, heading); err != nil {
		return err
	}
	if s.Cost, err = r.ownCost(); err != nil {
		return err
	}
	r.stderr.Write(s.Text()) // where that fails there is nobody to tell, and the artefacts are complete
	return nil
}
