package proc

import (
	"bytes"
	"fmt"
	"strings"
)

// Cgroup is the path of a process within the cgroup hierarchy, as in
// "/system.slice/cron.service".
func (fs FS) Cgroup(pid int32) (string, error) {
	b, err := read(fs.Path(pid, "cgroup"))
	if err != nil {
		return "", err
	}
	path, ok := parseCgroup(b)
	if !ok {
		return "", fmt.Errorf("cgroup of process %d: no path in %d bytes", pid, len(b))
	}
	return path, nil
}

// parseCgroup reads lines "hierarchy:controllers:path" (cgroups(7)). The path
// of version 2, hierarchy 0, counts unless it is the root, as on hosts where
// version 1 does the work; then the deepest of the other paths does, the
// first of them where several are equally deep.
func parseCgroup(b []byte) (path string, ok bool) {
	for line := range bytes.Lines(b) {
		hierarchy, rest, ok1 := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		_, p, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 || !strings.HasPrefix(p, "/") {
			continue
		}
		if hierarchy == "0" && p != "/" {
			return p, true
		}
		if !ok || depth(p) > depth(path) {
			path, ok = p, true
		}
	}
	return path, ok
}

func depth(path string) int {
	if path == "/" {
		return 0
	}
	return strings.Count(path, "/")
}

// Cgroup2Mount is the directory where cgroup version 2 is mounted.
func (fs FS) Cgroup2Mount() (string, error) {
	path := fs.path("proc/self/mounts")
	b, err := read(path)
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(b) { // device, directory, type, options, 0, 0
		fields := strings.Fields(string(line))
		if len(fields) >= 3 && fields[2] == "cgroup2" {
			return fs.path(unescapeMount.Replace(fields[1])), nil
		}
	}
	return "", fmt.Errorf("%s: no cgroup2 mount", path)
}

// unescapeMount undoes the escapes of show_vfsmnt in the kernel.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
