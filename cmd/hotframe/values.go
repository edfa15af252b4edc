//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hotframe/internal/proc"
)

// idList is the value of a flag that lists processes or threads.
type idList []int32

func (l *idList) Type() string { return "LIST" }

func (l *idList) String() string {
	s := make([]string, len(*l))
	for i, id := range *l {
		s[i] = strconv.Itoa(int(id))
	}
	return strings.Join(s, ",")
}

func (l *idList) Set(list string) error {
	for item := range strings.SplitSeq(list, ",") {
		id, err := strconv.ParseInt(item, 10, 32)
		if err != nil || id <= 0 {
			return fmt.Errorf("%q is no process or thread id", item)
		}
		if !slices.Contains(*l, int32(id)) {
			*l = append(*l, int32(id))
		}
	}
	return nil
}

// cpuList is the value of a flag that lists CPUs, as in 0-3,8.
type cpuList []int

func (l *cpuList) Type() string { return "LIST" }

func (l *cpuList) String() string {
	s := make([]string, len(*l))
	for i, cpu := range *l {
		s[i] = strconv.Itoa(cpu)
	}
	return strings.Join(s, ",")
}

func (l *cpuList) Set(list string) error {
	cpus, err := proc.ParseCPUList(list)
	if err != nil {
		return err
	}
	*l = append(*l, cpus...)
	slices.Sort(*l)
	*l = slices.Compact(*l)
	return nil
}

// seconds is the value of a flag that is a duration; a bare number means seconds.
type seconds time.Duration

func (s *seconds) Type() string { return "DURATION" }

func (s *seconds) String() string { return time.Duration(*s).String() }

func (s *seconds) Set(v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		if d, err = time.ParseDuration(v + "s"); err != nil {
			return errors.New("want a duration such as 30s, 500ms or 2m")
		}
	}
	if d < 0 {
		return errors.New("a duration cannot be negative")
	}
	*s = seconds(d)
	return nil
}
