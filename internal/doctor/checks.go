package doctor

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

func (f *facts) checks() []Check {
	return []Check{
		f.kernel(), f.architecture(), f.typeInformation(), f.effectiveCaps(),
		f.perfParanoid(), f.kernelSymbols(), f.bpfForAll(), f.bpfJIT(), f.pmu(), f.lockdownMode(),
		f.memlockAccounting(), f.perfRings(), f.stackDepth(), f.openFiles(),
		f.cgroupHierarchy(), f.containment(), f.seccompFilter(),
	}
}

func (f *facts) kernel() Check {
	c := Check{Name: "kernel", Value: f.release, Status: OK}
	switch {
	case f.major == 0:
		c.Status, c.Value, c.Note = Unknown, orUnknown(f.release), "no version could be read from it"
	case !f.atLeast(5, 10):
		c.Status, c.Note = Blocks, "hotframe needs Linux 5.10 or newer"
	}
	return c
}

func (f *facts) architecture() Check {
	c := Check{Name: "architecture", Value: f.host.Arch, Status: OK}
	if c.Value != "amd64" && c.Value != "arm64" {
		c.Status, c.Note = Blocks, "hotframe knows amd64 and arm64"
	}
	return c
}

func (f *facts) typeInformation() Check {
	if f.btf {
		return Check{Name: "BTF", Value: "/sys/kernel/btf/vmlinux", Status: OK}
	}
	return Check{Name: "BTF", Value: "missing", Status: Blocks,
		Note: "the BPF program cannot be fitted to this kernel; it needs one built with CONFIG_DEBUG_INFO_BTF"}
}

func (f *facts) effectiveCaps() Check {
	c := Check{Name: "capabilities", Status: OK}
	if !f.capsKnown {
		c.Status, c.Value = Unknown, orUnknown("")
		return c
	}
	var have, lack []string
	for _, p := range capabilities {
		if f.has(p.name) {
			have = append(have, p.name)
		} else if !f.has("CAP_SYS_ADMIN") || p.name == "CAP_SYS_PTRACE" || p.name == "CAP_SYSLOG" || p.name == "CAP_IPC_LOCK" {
			lack = append(lack, "missing "+p.name+": "+p.use)
		}
	}
	c.Value = "none of those that count"
	if len(have) > 0 {
		c.Value = strings.Join(have, " ")
	}
	if len(lack) > 0 {
		c.Status, c.Note = Limits, strings.Join(lack, "\n")
	}
	return c
}

func (f *facts) perfParanoid() Check {
	c := Check{Name: "perf_event_paranoid", Value: f.paranoid, Status: OK}
	level, err := strconv.Atoi(f.paranoid)
	switch {
	case err != nil:
		c.Status, c.Value, c.Note = Blocks, "missing", "this kernel was built without perf events"
	case f.mayPerf():
		c.Note = "does not apply to you: CAP_PERFMON or CAP_SYS_ADMIN is there"
	case level <= 0:
		c.Note = "everybody may sample the whole host"
	case level == 1:
		c.Status, c.Note = Limits, "without CAP_PERFMON: own processes only, the kernel included"
	case level == 2:
		c.Status, c.Note = Limits, "without CAP_PERFMON: own processes only, no kernel stacks"
	default:
		c.Status, c.Note = Limits, "without CAP_PERFMON: nothing (a patch of Debian and Ubuntu)"
	}
	return c
}

func (f *facts) mayPerf() bool { return f.has("CAP_SYS_ADMIN") || f.has("CAP_PERFMON") }
func (f *facts) mayBPF() bool {
	return f.has("CAP_SYS_ADMIN") || f.has("CAP_BPF") && f.has("CAP_PERFMON")
}

func (f *facts) kernelSymbols() Check {
	c := Check{Name: "kernel symbols", Value: "kptr_restrict " + orUnknown(f.kptrRestrict), Status: OK}
	switch {
	case f.kallsyms == "":
		c.Status, c.Note = Limits, "/proc/kallsyms cannot be read: kernel functions will have no names"
	case strings.Trim(f.kallsyms, "0") == "":
		c.Status, c.Note = Limits, "/proc/kallsyms shows no addresses: kernel functions will have no names"
	}
	return c
}

func (f *facts) bpfForAll() Check {
	c := Check{Name: "unprivileged_bpf_disabled", Value: orUnknown(f.unprivilegedBPF), Status: OK}
	if !f.mayBPF() {
		c.Note = "of no use to hotframe: perf event programs need CAP_BPF and CAP_PERFMON anyway"
	}
	return c
}

func (f *facts) bpfJIT() Check {
	c := Check{Name: "BPF JIT", Value: orUnknown(f.jit), Status: OK}
	switch f.jit {
	case "":
		c.Status = Unknown
	case "0":
		c.Status, c.Note = Limits, "programs are interpreted and cost several times as much"
	}
	return c
}

func (f *facts) pmu() Check {
	c := Check{Name: "PMU", Status: OK, Value: "counts cycles"}
	switch err := f.host.Attempts.HardwarePM; {
	case err == nil:
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
		c.Status, c.Value, c.Note = Unknown, orUnknown(""), "asking for cycles: "+err.Error()
	default:
		c.Status, c.Value = Limits, "none"
		c.Note = "usual in virtual machines: cpu-clock samples instead, by a timer that interrupts-off code delays"
	}
	return c
}

func (f *facts) lockdownMode() Check {
	c := Check{Name: "lockdown", Value: f.lockdown, Status: OK}
	switch f.lockdown {
	case "":
		c.Value = "none or not visible"
	case "confidentiality":
		c.Status, c.Note = Blocks, "forbids BPF programs and perf events to read the kernel"
	}
	return c
}

func (f *facts) memlockAccounting() Check {
	c := Check{Name: "locked memory", Status: OK}
	if f.atLeast(5, 11) {
		c.Value = "BPF memory counts towards the memory cgroup"
		c.Note = "RLIMIT_MEMLOCK (" + kib(f.memlock.soft) + ") does not matter to it since Linux 5.11"
		return c
	}
	c.Value = "RLIMIT_MEMLOCK " + kib(f.memlock.soft) + ", hard " + kib(f.memlock.hard)
	const needed = 64 << 20 // bytes; more than the maps of the BPF program take
	if n, err := strconv.ParseUint(f.memlock.hard, 10, 64); err == nil && n < needed {
		c.Status, c.Note = Limits, "before Linux 5.11 BPF maps count towards it: raise it with ulimit -l where BPF fails"
	}
	return c
}

func (f *facts) perfRings() Check {
	c := Check{Name: "perf_event_mlock_kb", Value: orUnknown(f.mlockKB), Status: OK}
	if n, err := strconv.Atoi(f.mlockKB); err == nil && n < 516 && !f.has("CAP_IPC_LOCK") { // 516: the kernel's default
		c.Status, c.Note = Limits, "perf rings will be small and may lose samples"
	}
	return c
}

func (f *facts) stackDepth() Check {
	c := Check{Name: "perf_event_max_stack", Value: orUnknown(f.maxStack), Status: OK,
		Note: "frames: longer kernel stacks are cut, with perf rings user stacks as well"}
	if n, err := strconv.Atoi(f.maxStack); err == nil && n < 127 { // 127: the kernel's default
		c.Status = Limits
	}
	return c
}

func (f *facts) openFiles() Check {
	c := Check{Name: "open files", Value: orUnknown(f.files.hard), Status: OK}
	if n, err := strconv.Atoi(f.files.hard); err == nil && n < 4096 {
		c.Status = Limits
		c.Note = "hard limit; files of many processes are kept open: those beyond it will have no names"
	}
	return c
}

func (f *facts) cgroupHierarchy() Check {
	switch f.cgroups {
	case "":
		return Check{Name: "cgroup version", Value: orUnknown(""), Status: Unknown}
	case "1":
		return Check{Name: "cgroup version", Value: "1", Status: Limits,
			Note: "--cgroup needs a mounted version 2 hierarchy"}
	}
	return Check{Name: "cgroup version", Value: f.cgroups, Status: OK}
}

func (f *facts) containment() Check {
	c := Check{Name: "container", Value: "no", Status: OK}
	switch {
	case f.container != "" && f.initialPIDNamespace:
		c.Value, c.Note = f.container, "with the host's process ids"
	case f.container != "":
		c.Status, c.Value = Limits, f.container
		c.Note = "processes outside have no names here; docker run --pid=host shows them"
	case f.pidNamespace == "":
		c.Status, c.Value = Unknown, orUnknown("")
	case !f.initialPIDNamespace:
		c.Status, c.Value = Limits, "own pid namespace"
		c.Note = "processes outside of it have no names here"
	}
	return c
}

func (f *facts) seccompFilter() Check {
	if !f.seccomp {
		return Check{Name: "seccomp filter", Value: "no", Status: OK}
	}
	return Check{Name: "seccomp filter", Value: "yes", Status: Limits,
		Note: "it may forbid bpf and perf_event_open whatever the rights; container runtimes set one"}
}

// advice lists what would give more, the simplest first.
func (f *facts) advice(bpf error) []string {
	var a []string
	switch {
	case bpf == nil:
	case f.lockdown == "confidentiality":
		a = append(a, "boot without lockdown=confidentiality")
	case f.root && !f.mayBPF():
		a = append(a, "give the container CAP_BPF and CAP_PERFMON: docker run --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE --cap-add SYSLOG --pid=host")
	case !f.mayBPF():
		a = append(a, "run it as root: sudo hotframe ...",
			"or give the file the rights: sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog,cap_checkpoint_restore+ep ./hotframe")
	case f.seccomp:
		a = append(a, "allow bpf and perf_event_open in the seccomp profile, for a test with docker run --security-opt seccomp=unconfined")
	}
	if level, err := strconv.Atoi(f.paranoid); err == nil && !f.mayPerf() && level > 1 {
		want := "adds kernel stacks of own processes"
		if level > 2 {
			want = "allows own processes; 2 does so without kernel stacks"
		}
		a = append(a, "without more rights: sudo sysctl kernel.perf_event_paranoid=1 ("+want+")")
	}
	if f.kallsyms == "" || strings.Trim(f.kallsyms, "0") == "" {
		if f.kptrRestrict == "2" {
			a = append(a, "for names of kernel functions: sudo sysctl kernel.kptr_restrict=1")
		} else if f.mayPerf() && !f.has("CAP_SYSLOG") {
			a = append(a, "for names of kernel functions: CAP_SYSLOG")
		}
	}
	if f.jit == "0" {
		a = append(a, "for cheaper BPF: sudo sysctl net.core.bpf_jit_enable=1")
	}
	return a
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}

// kib shows a number of bytes, or another word as it is.
func kib(s string) string {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return orUnknown(s)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
