//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// checkTarget finds out before anything is started whether the target exists.
func (r *recording) checkTarget() error {
	t := &r.plan.sampler.Target
	for _, id := range slices.Concat(t.PIDs, t.TIDs) {
		if _, err := os.Stat(r.proc.Path(id)); err != nil {
			return fmt.Errorf("no process or thread has the id %d", id)
		}
	}
	if len(t.CPUs) > 0 {
		online, err := r.proc.OnlineCPUs()
		if err != nil {
			return err
		}
		for _, cpu := range t.CPUs {
			if !slices.Contains(online, cpu) {
				return fmt.Errorf("cpu %d is not online", cpu)
			}
		}
	}
	if t.Cgroup == "" {
		return nil
	}
	dir, err := r.cgroupDir(t.Cgroup)
	t.Cgroup = dir
	return err
}

// cgroupDir is the directory of a cgroup that was named by it, or by its path as
// /proc/PID/cgroup shows it.
func (r *recording) cgroupDir(path string) (string, error) {
	dirs := []string{path}
	if mount, err := r.proc.Cgroup2Mount(); err == nil {
		dirs = append(dirs, filepath.Join(mount, path))
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("no cgroup %q", path)
}

// targetGone reports whether none of the processes or threads to sample is left.
func (r *recording) targetGone() bool {
	ids := slices.Concat(r.plan.sampler.Target.PIDs, r.plan.sampler.Target.TIDs)
	if len(ids) == 0 {
		return false
	}
	for _, id := range ids {
		if _, err := os.Stat(r.proc.Path(id)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// targetText is the target in the words of the summary.
func (p *plan) targetText() string {
	t := &p.sampler.Target
	var s string
	switch {
	case len(p.command) > 0 && !p.allCPUs:
		s = "the command " + filepath.Base(p.command[0])
	case len(t.PIDs) > 0:
		ids := idList(t.PIDs)
		s = "process " + ids.String()
	case len(t.TIDs) > 0:
		ids := idList(t.TIDs)
		s = "thread " + ids.String()
	case t.Cgroup != "":
		s = "the cgroup " + t.Cgroup
	default:
		s = "the whole host"
	}
	if len(t.CPUs) > 0 {
		cpus := cpuList(t.CPUs)
		s += " on CPU " + cpus.String()
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
