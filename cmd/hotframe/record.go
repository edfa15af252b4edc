//go:build linux

package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hotframe/sampler"
)

// maxFrequency is where the kernel's cpu-clock ends: its period is at least 10 us
// (perf_swevent_start_hrtimer).
const maxFrequency = 100_000

// maxUnwindMemory is what the BPF program can address, MiB: MAX_ARENAS in bpf/wire.h.
const maxUnwindMemory = 256

const defaultDuration = seconds(30 * time.Second)

// options are the flags of record as they were given.
type options struct {
	duration        seconds
	frequency       int
	allCPUs         bool
	pids, tids      idList
	cpus            cpuList
	cgroup          string
	comm            string
	user            string
	event           string
	noKernel        bool
	noUser          bool
	includeIdle     bool
	outputs         []string
	format, backend string
	maxDepth        int
	callGraph       string
	unwindMemory    int
}

// A plan is a recording as it was asked for.
type plan struct {
	sampler  sampler.Config
	allCPUs  bool // the whole host, with or without a command
	backend  string
	duration time.Duration // 0: no limit
	comm     *regexp.Regexp
	outputs  []output
	command  []string // to run; nil without one
	user     string   // to run it as
}

const recordExample = `  sudo hotframe record                       # this host for 30 s: hotframe.svg, .pb.gz, .folded
  hotframe record -- make -j4                # a command and all that it starts
  sudo hotframe record -p 1234 -d 10s -o app.svg
  sudo hotframe record -a -d 0 -- sleep 5    # this host while a command runs
  sudo hotframe record --user www-data -- php script.php
  sudo hotframe record --format folded -o - | grep nginx`

const recordLong = `Record samples what CPUs run and writes what it saw: a flame graph (.svg, for a
browser), a pprof profile (.pb.gz, for go tool pprof) and folded stacks (.folded,
for grep and for other flame graph tools). Without -o these are hotframe.svg,
hotframe.pb.gz and hotframe.folded in the current directory.

Without a target it samples the whole host for 30 s. A command is started once
the sampling is ready and sampled with all its children until it exits; hotframe
exits with its status. With -o - its standard output goes to standard error.

Ctrl-C or SIGTERM ends the recording early and writes it; the second one gives up.

Exit status: 0 when all files are complete, 1 on errors, 2 on mistakes in the
command line, 130 when given up; with a command its own, 127 when there is no such
command and 126 when it cannot be executed.`

func (a *app) recordCommand() *cobra.Command {
	o := options{duration: defaultDuration}
	cmd := &cobra.Command{
		Use:     "record [flags] [-- command args...]",
		Short:   "Sample the host, processes or a command and write the profile",
		Long:    recordLong,
		Example: recordExample,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.plan(cmd.Flags().Changed, args)
			if err == nil {
				err = a.checkStdout(p.outputs)
			}
			if err != nil {
				return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
			}
			return failure(a.record(cmd.Context(), p))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.SetInterspersed(false) // what follows the command's name is the command's
	f.VarP(&o.duration, "duration", "d", "how long to sample; 0: until Ctrl-C or until the command exits")
	f.IntVarP(&o.frequency, "frequency", "F", sampler.DefaultFrequency, "samples a second on each CPU")
	f.BoolVarP(&o.allCPUs, "all-cpus", "a", false, "sample the whole host (default without a target)")
	f.VarP(&o.pids, "pid", "p", "sample these processes, as in 12,34")
	f.VarP(&o.tids, "tid", "t", "sample these threads")
	f.VarP(&o.cpus, "cpu", "C", "sample on these CPUs only, as in 0-3,8")
	f.StringVar(&o.cgroup, "cgroup", "", "sample a cgroup (`PATH` of its directory, or below the cgroup mount)")
	f.StringVar(&o.comm, "comm", "", "keep only threads whose name matches `REGEX`")
	f.StringVar(&o.user, "user", "", "run the command as the user `NAME`")
	f.StringVarP(&o.event, "event", "e", "auto", "cycles, cpu-clock, ...; auto: cycles where the CPU counts them, else cpu-clock")
	f.BoolVarP(&o.noKernel, "no-kernel", "K", false, "leave kernel stacks out")
	f.BoolVarP(&o.noUser, "no-user", "U", false, "leave user stacks out")
	f.BoolVar(&o.includeIdle, "include-idle", false, "sample idle CPUs as well")
	f.StringArrayVarP(&o.outputs, "output", "o", nil, "write `FILE`, repeatable: .svg, .pb.gz, .pprof or .folded; - is standard output")
	f.StringVar(&o.format, "format", "", "svg, pprof or folded: of an output whose name does not tell")
	f.StringVar(&o.backend, "backend", "auto", "bpf, perf or auto: BPF where it is permitted, else perf rings")
	f.StringVar(&o.callGraph, "call-graph", "auto", "how user stacks are walked: auto: by unwind tables, and by frame pointers where there are none; fp: by frame pointers only")
	f.IntVar(&o.unwindMemory, "unwind-memory", sampler.DefaultUnwindMemory>>20, "`MiB` of kernel memory for unwind tables at most; the least recently used make room")
	f.IntVar(&o.maxDepth, "max-depth", sampler.DefaultMaxDepth, "user frames of a stack at most")
	completeFrom(cmd, "backend", "auto", "bpf", "perf")
	completeFrom(cmd, "call-graph", "auto", "fp")
	completeFrom(cmd, "format", "svg", "pprof", "folded")
	completeFrom(cmd, "event", sampler.EventNames()...)
	return cmd
}

func completeFrom(cmd *cobra.Command, flag string, words ...string) {
	// The one error is that the flag does not exist, which the completion test shows.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// plan checks the flags. Its errors are mistakes in the command line.
func (o *options) plan(given func(flag string) bool, command []string) (plan, error) {
	if err := o.check(given, command); err != nil {
		return plan{}, err
	}
	p := plan{
		sampler: sampler.Config{
			Event:       o.event,
			Frequency:   o.frequency,
			Target:      sampler.Target{CPUs: o.cpus, PIDs: o.pids, TIDs: o.tids},
			NoKernel:    o.noKernel,
			NoUser:      o.noUser,
			IncludeIdle: o.includeIdle,
			MaxDepth:    o.maxDepth,

			UnwindMemory: int64(o.unwindMemory) << 20,
		},
		allCPUs:  o.allCPUs,
		backend:  o.backend,
		duration: time.Duration(o.duration),
		command:  command,
		user:     o.user,
	}
	p.sampler.Target.Cgroup = o.cgroup
	if o.callGraph == "fp" {
		p.sampler.CallGraph = sampler.CallGraphFP
	}
	if len(command) > 0 && !given("duration") {
		p.duration = 0
	}
	var err error
	if o.comm != "" {
		if p.comm, err = regexp.Compile(o.comm); err != nil {
			return plan{}, fmt.Errorf("--comm: %w", err)
		}
	}
	p.outputs, err = parseOutputs(o.outputs, o.format)
	return p, err
}

func (o *options) check(given func(flag string) bool, command []string) error {
	var targets []string // more than one of these would contradict
	for _, t := range []string{"all-cpus", "pid", "tid", "cgroup"} {
		if given(t) {
			targets = append(targets, "--"+t)
		}
	}
	if len(command) > 0 && !o.allCPUs {
		targets = append(targets, "a command")
	}
	switch {
	case len(targets) > 1:
		return fmt.Errorf("%s cannot be sampled together", strings.Join(targets, " and "))
	case o.allCPUs && len(o.cpus) > 0:
		return errors.New("--all-cpus contradicts --cpu")
	case o.noKernel && o.noUser:
		return errors.New("--no-kernel and --no-user together leave nothing to sample")
	case o.user != "" && len(command) == 0:
		return errors.New("--user is for a command, and there is none")
	case given("cgroup") && o.cgroup == "":
		return errors.New("--cgroup: no path")
	case given("user") && o.user == "":
		return errors.New("--user: no name")
	case o.frequency < 1 || o.frequency > maxFrequency:
		return fmt.Errorf("--frequency: %d is not between 1 and %d", o.frequency, maxFrequency)
	case o.maxDepth < 1 || o.maxDepth > sampler.DefaultMaxDepth:
		return fmt.Errorf("--max-depth: %d is not between 1 and %d", o.maxDepth, sampler.DefaultMaxDepth)
	case o.backend != "auto" && o.backend != "bpf" && o.backend != "perf":
		return fmt.Errorf("--backend: %q is none of auto, bpf, perf", o.backend)
	case o.callGraph != "auto" && o.callGraph != "fp":
		return fmt.Errorf("--call-graph: %q is none of auto, fp", o.callGraph)
	case o.unwindMemory < 1 || o.unwindMemory > maxUnwindMemory:
		return fmt.Errorf("--unwind-memory: %d is not between 1 and %d MiB", o.unwindMemory, maxUnwindMemory)
	case o.event == "":
		return errors.New("--event: no name")
	}
	if _, err := sampler.ParseEvent(o.event); err != nil {
		return fmt.Errorf("--event: %w", err)
	}
	return nil
}
