//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"hotframe/sampler"
)

// open opens the backend of the plan. For auto that is BPF, or perf rings where
// BPF is not to be had.
func (r *recording) open(c sampler.Config) (sampler.Source, error) {
	switch r.plan.backend {
	case "bpf":
		src, err := r.openBPF(c)
		return src, r.explain(r.whyNoBPF(err))
	case "perf":
		src, err := r.openPerf(c)
		return src, r.explain(err)
	}
	src, err := r.openBPF(c)
	if err == nil || !unavailable(err) {
		return src, err
	}
	err = r.whyNoBPF(err)
	src, perr := r.openPerf(c)
	if perr != nil {
		return nil, r.explain(errors.Join(err, perr))
	}
	r.say("no BPF here (%v): perf rings are used instead", err)
	return src, nil
}

// unavailable reports whether a backend failed for what the host is or permits, not
// for what was asked of it.
func unavailable(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, errors.ErrUnsupported)
}

// whyNoBPF puts the usual reason, no rights, shorter than the kernel and the loader do.
func (r *recording) whyNoBPF(err error) error {
	if errors.Is(err, os.ErrPermission) && !r.mayLoadBPF() {
		return fmt.Errorf("BPF needs CAP_BPF and CAP_PERFMON: %w", unix.EPERM)
	}
	return err
}

// mayLoadBPF reports whether the process has the capabilities for perf event programs.
func mayLoadBPF() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return true // not known: nothing is to be explained by it
	}
	has := func(c int) bool { return data[c/32].Effective>>(c%32)&1 == 1 }
	return has(unix.CAP_SYS_ADMIN) || has(unix.CAP_BPF) && has(unix.CAP_PERFMON)
}

// explain adds the ways out to an error for want of rights.
func (r *recording) explain(err error) error {
	if err == nil || !errors.Is(err, os.ErrPermission) {
		return err
	}
	return fmt.Errorf("sampling %s is not permitted (%s): use sudo, or sudo setcap cap_bpf,cap_perfmon+ep on hotframe; "+
		"own processes and commands need no more than kernel.perf_event_paranoid <= 2; hotframe doctor tells more",
		r.plan.targetText(), oneLine(err.Error()))
}
