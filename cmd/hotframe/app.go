//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"hotframe/cmd/hotframe/internal/summary"
	"hotframe/internal/doctor"
	"hotframe/internal/proc"
	"hotframe/sampler"
)

// Exit statuses besides those of a command that was run.
const (
	statusFailure = 1
	statusUsage   = 2
	statusAborted = 130 // as a shell gives it for SIGINT
)

// An app is what the commands need of the outside world.
type app struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	proc           proc.FS
	now            func() time.Time
	terminal       func(io.Writer) bool
	openBPF        func(sampler.Config) (sampler.Source, error)
	openPerf       func(sampler.Config) (sampler.Source, error)
	mayLoadBPF     func() bool
	ownCost        func() (summary.Cost, error)
	examine        func() doctor.Report
}

func newApp(stdout, stderr io.Writer) *app {
	return &app{
		stdout:     stdout,
		stderr:     stderr,
		getenv:     os.Getenv,
		proc:       "/",
		now:        time.Now,
		terminal:   isTerminal,
		openBPF:    sampler.OpenBPF,
		openPerf:   sampler.OpenPerf,
		mayLoadBPF: mayLoadBPF,
		ownCost:    summary.OwnCost,
		examine:    examine,
	}
}

// An exitError ends the process with a status of its own. Errors of other types are
// mistakes in the command line.
type exitError struct {
	status int
	err    error // nil: all was said
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// failure marks an error that is not the command line's fault.
func failure(err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	return &exitError{status: statusFailure, err: err}
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.err != nil {
			a.say("%v", exit.err)
		}
		return exit.status
	}
	a.say("%v", err)
	return statusUsage
}

// say writes one line for the user.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.stderr, "hotframe: %s\n", summary.Escape(oneLine(fmt.Sprintf(format, args...))))
}

// oneLine joins lines. Those of joined errors are often equal, one for each CPU.
func oneLine(s string) string {
	var distinct []string
	for line := range strings.SplitSeq(s, "\n") {
		if !slices.Contains(distinct, line) {
			distinct = append(distinct, line)
		}
	}
	return strings.Join(distinct, "; ")
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "hotframe",
		Short:         "A continuous CPU profiler for Linux",
		Long:          "hotframe samples what the CPUs of a Linux host run and shows it as a flame graph.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
	})
	root.AddCommand(a.recordCommand(), a.doctorCommand(), a.versionCommand())
	return root
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
