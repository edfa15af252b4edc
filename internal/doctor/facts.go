package doctor

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// A capability of capabilities(7) and what hotframe gains by it.
type capability struct {
	name string
	bit  uint // include/uapi/linux/capability.h
	use  string
}

var capabilities = []capability{
	{"CAP_BPF", 39, "load BPF programs"},
	{"CAP_PERFMON", 38, "sample all processes and the kernel"},
	{"CAP_SYS_ADMIN", 21, "stands for the two above and CAP_CHECKPOINT_RESTORE"},
	{"CAP_SYS_PTRACE", 19, "read the memory maps of other users' processes"},
	{"CAP_CHECKPOINT_RESTORE", 40, "open deleted and replaced files that are still mapped"},
	{"CAP_SYSLOG", 34, "name kernel functions"},
	{"CAP_IPC_LOCK", 14, "perf rings of any size"},
}

// facts is what the files of a host say. Strings are "" where a file is missing.
type facts struct {
	host Host

	release             string
	major, minor        int // 0.0 when the release could not be understood
	caps                uint64
	capsKnown           bool
	root                bool // effective uid 0
	seccomp             bool
	paranoid            string
	kptrRestrict        string
	kallsyms            string // the first address, in hex
	unprivilegedBPF     string
	jit                 string
	lockdown            string
	mlockKB             string
	maxStack            string
	memlock, files      limit
	btf                 bool
	cgroups             string
	container           string
	pidNamespace        string
	initialPIDNamespace bool
}

// limit is a row of /proc/self/limits; the values are numbers or "unlimited".
type limit struct{ soft, hard string }

func read(h Host) facts {
	f := facts{
		host:            h,
		release:         line(h.Root, "proc/sys/kernel/osrelease"),
		paranoid:        line(h.Root, "proc/sys/kernel/perf_event_paranoid"),
		kptrRestrict:    line(h.Root, "proc/sys/kernel/kptr_restrict"),
		unprivilegedBPF: line(h.Root, "proc/sys/kernel/unprivileged_bpf_disabled"),
		jit:             line(h.Root, "proc/sys/net/core/bpf_jit_enable"),
		lockdown:        chosen(line(h.Root, "sys/kernel/security/lockdown")),
		mlockKB:         line(h.Root, "proc/sys/kernel/perf_event_mlock_kb"),
		maxStack:        line(h.Root, "proc/sys/kernel/perf_event_max_stack"),
		kallsyms:        firstWord(h.Root, "proc/kallsyms"),
	}
	f.major, f.minor = parseRelease(f.release)
	_, err := fs.Stat(h.Root, "sys/kernel/btf/vmlinux")
	f.btf = err == nil
	f.readStatus(text(h.Root, "proc/self/status"))
	f.readLimits(text(h.Root, "proc/self/limits"))
	f.cgroups = cgroupVersion(text(h.Root, "proc/self/mounts"))
	f.container = container(h.Root)
	f.pidNamespace, _ = fs.ReadLink(h.Root, "proc/self/ns/pid") // "" is shown as not known
	// The first pid namespace has a fixed number: PROC_PID_INIT_INO.
	f.initialPIDNamespace = f.pidNamespace == "pid:[4026531836]"
	return f
}

// maxText bounds what is read of a file; only kallsyms is longer.
const maxText = 1 << 20

func text(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, maxText)
	n := 0
	for n < len(b) {
		m, err := f.Read(b[n:])
		n += m
		if err != nil {
			break
		}
	}
	return string(b[:n])
}

func line(root fs.FS, name string) string {
	first, _, _ := strings.Cut(text(root, name), "\n")
	return strings.TrimSpace(first)
}

// firstWord reads a few bytes only.
func firstWord(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 64)
	n, err := f.Read(b)
	if n == 0 || err != nil {
		return ""
	}
	word, _, _ := strings.Cut(string(b[:n]), " ")
	return word
}

// chosen returns the word in brackets of a line like "[none] integrity".
func chosen(s string) string {
	_, rest, _ := strings.Cut(s, "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}

func parseRelease(s string) (major, minor int) {
	first, rest, _ := strings.Cut(s, ".")
	second := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		second = rest[:i]
	}
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0
	}
	minor, err = strconv.Atoi(second)
	if err != nil {
		return 0, 0
	}
	return major, minor
}

// atLeast compares the kernel's version.
func (f *facts) atLeast(major, minor int) bool {
	return f.major > major || f.major == major && f.minor >= minor
}

func (f *facts) supported() bool {
	return f.atLeast(5, 10) && (f.host.Arch == "amd64" || f.host.Arch == "arm64")
}

func (f *facts) readStatus(status string) {
	for l := range strings.Lines(status) {
		key, value, _ := strings.Cut(l, ":")
		fields := strings.Fields(value)
		switch {
		case key == "CapEff" && len(fields) == 1:
			caps, err := strconv.ParseUint(fields[0], 16, 64)
			f.caps, f.capsKnown = caps, err == nil
		case key == "Uid" && len(fields) == 4: // real, effective, saved, file system
			f.root = fields[1] == "0"
		case key == "Seccomp" && len(fields) == 1:
			f.seccomp = fields[0] == "2" // SECCOMP_MODE_FILTER
		}
	}
}

func (f *facts) has(name string) bool {
	for _, c := range capabilities {
		if c.name == name {
			return f.caps>>c.bit&1 == 1
		}
	}
	return false
}

func (f *facts) readLimits(limits string) {
	for l := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(l, "Max locked memory"); ok {
			f.memlock = parseLimit(rest)
		}
		if rest, ok := strings.CutPrefix(l, "Max open files"); ok {
			f.files = parseLimit(rest)
		}
	}
}

func parseLimit(s string) limit {
	fields := strings.Fields(s)
	if len(fields) < 2 {
		return limit{}
	}
	return limit{soft: fields[0], hard: fields[1]}
}

func cgroupVersion(mounts string) string {
	var v1, v2 bool
	for l := range strings.Lines(mounts) { // device, directory, type, options, 0, 0
		if fields := strings.Fields(l); len(fields) >= 3 {
			v1 = v1 || fields[2] == "cgroup"
			v2 = v2 || fields[2] == "cgroup2"
		}
	}
	switch {
	case v1 && v2:
		return "1 and 2"
	case v2:
		return "2"
	case v1:
		return "1"
	}
	return ""
}

// container names what runs the container that this process is in, or returns "".
func container(root fs.FS) string {
	for _, m := range []struct{ file, name string }{
		{".dockerenv", "docker"},
		{"run/.containerenv", "podman"},
		{"var/run/secrets/kubernetes.io", "kubernetes"},
	} {
		if _, err := fs.Stat(root, m.file); err == nil {
			return m.name
		}
	}
	for kv := range strings.SplitSeq(text(root, "proc/1/environ"), "\x00") {
		if name, ok := strings.CutPrefix(kv, "container="); ok {
			return fmt.Sprintf("%.32q", name)
		}
	}
	groups := text(root, "proc/1/cgroup")
	for _, name := range []string{"docker", "kubepods", "libpod", "lxc"} {
		if strings.Contains(groups, name) {
			return name
		}
	}
	return ""
}
