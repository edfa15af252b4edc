package aggregate

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// labels is what a profile says of a thread. A value is never "", which pprof's
// encoding does not keep.
func labels(c thread) map[string][]string {
	l := make(map[string][]string, 5)
	set := func(key, value string) {
		if value != "" {
			l[key] = []string{value}
		}
	}
	set("pid", strconv.Itoa(int(c.pid)))
	set("tid", strconv.Itoa(int(c.tid)))
	set("comm", c.comm)
	set("cgroup", c.cgroup)
	set("container", containerID(c.cgroup))
	return l
}

// clean makes a name that a profiled process chose fit for a protocol buffer
// string, and for one line: bytes that are no UTF-8 and control characters
// become U+FFFD.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// containerIDLen is the length of the ids of Docker, containerd, CRI-O and
// Podman: a SHA-256 in hex.
const containerIDLen = 64

// containerID is the last container id in a cgroup path, as in
// /system.slice/docker-ID.scope or /kubepods/burstable/podUID/ID, or "".
func containerID(cgroup string) string {
	for end := len(cgroup); end >= containerIDLen; end-- {
		start := end
		for start > 0 && isHexDigit(cgroup[start-1]) {
			start--
		}
		if end-start == containerIDLen {
			return cgroup[start:end]
		}
		end = start
	}
	return ""
}

func isHexDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
}
