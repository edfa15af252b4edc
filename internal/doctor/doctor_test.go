package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"hotframe/internal/testutil"
)

// files is a host's tree by path.
type files map[string]string

func (f files) root() fs.FS {
	tree := fstest.MapFS{}
	for name, content := range f {
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			tree[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
			continue
		}
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return tree
}

// with returns a copy where the given files are changed, or removed when "".
func (f files) with(changes files) files {
	c := maps.Clone(f)
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_, content string) bool { return content == "" })
	return c
}

func status(uid int, caps string, seccomp int) string {
	return fmt.Sprintf("Name:\thotframe\nUid:\t%d\t%d\t%d\t%d\nCapEff:\t%s\nSeccomp:\t%d\n", uid, uid, uid, uid, caps, seccomp)
}

var modern = files{
	"proc/sys/kernel/osrelease":                 "6.12.41+deb13-amd64\n",
	"proc/sys/kernel/perf_event_paranoid":       "2\n",
	"proc/sys/kernel/kptr_restrict":             "0\n",
	"proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
	"proc/sys/kernel/perf_event_mlock_kb":       "516\n",
	"proc/sys/kernel/perf_event_max_stack":      "127\n",
	"proc/sys/net/core/bpf_jit_enable":          "1\n",
	"proc/kallsyms":                             "ffffffff81000000 T startup_64\n",
	"proc/self/status":                          status(0, "000001ffffffffff", 0),
	"proc/self/limits": "Limit                     Soft Limit           Hard Limit           Units\n" +
		"Max open files            1024                 1048576              files\n" +
		"Max locked memory         8388608              8388608              bytes\n",
	"proc/self/mounts":             "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
	"proc/self/ns/pid":             "-> pid:[4026531836]",
	"sys/kernel/btf/vmlinux":       "\x9f\xeb",
	"sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
	"proc/1/cgroup":                "0::/init.scope\n",
	"proc/1/environ":               "TERM=linux\x00",
}

func denied(call string, errno syscall.Errno) error { return fmt.Errorf("%s: %w", call, errno) }

func TestExamine(t *testing.T) {
	noPMU := denied("perf_event_open", syscall.ENOENT)
	noBPF := denied("load a BPF program", syscall.EPERM)
	noPerf := denied("perf_event_open", syscall.EACCES)
	filtered := denied("perf_event_open", syscall.EPERM) // by seccomp
	ordinary := modern.with(files{"proc/self/status": status(1000, "0", 0), "proc/kallsyms": "0000000000000000 T startup_64\n"})
	tests := []struct {
		name   string // of the golden file
		host   Host
		usable bool
	}{
		{"root", Host{modern.root(), "amd64", Attempts{}}, true},
		{"user", Host{ordinary.root(), "amd64",
			Attempts{LoadBPF: noBPF, AttachBPF: noPerf, HostPerf: noPerf, OwnKernel: noPerf, HardwarePM: noPMU}}, true},
		{"user-paranoid-1", Host{ordinary.with(files{"proc/sys/kernel/perf_event_paranoid": "1"}).root(), "arm64",
			Attempts{LoadBPF: noBPF, AttachBPF: noPerf, HostPerf: noPerf}}, true},
		{"user-debian", Host{ordinary.with(files{"proc/sys/kernel/perf_event_paranoid": "3", "proc/sys/kernel/kptr_restrict": "2"}).root(), "amd64",
			Attempts{LoadBPF: noBPF, AttachBPF: noPerf, HostPerf: noPerf, OwnKernel: noPerf, OwnPerf: noPerf, HardwarePM: noPerf}}, false},
		// What docker run gives to root: no capability that counts, and a seccomp filter.
		{"container", Host{modern.with(files{
			"proc/self/status": status(0, "00000000a80425fb", 2), "proc/self/ns/pid": "-> pid:[4026532201]", ".dockerenv": "\n",
			"proc/kallsyms": "0000000000000000 T startup_64\n", "proc/sys/net/core/bpf_jit_enable": "", "sys/kernel/security/lockdown": "",
		}).root(), "amd64",
			Attempts{LoadBPF: noBPF, AttachBPF: filtered, HostPerf: filtered, OwnKernel: filtered, OwnPerf: filtered, HardwarePM: filtered}}, false},
		{"lockdown", Host{modern.with(files{"sys/kernel/security/lockdown": "none integrity [confidentiality]"}).root(), "amd64",
			Attempts{LoadBPF: noBPF, AttachBPF: noPerf, HostPerf: noPerf, OwnKernel: noPerf}}, true},
		{"linux-5.10", Host{modern.with(files{"proc/sys/kernel/osrelease": "5.10.0-28-amd64",
			"proc/self/mounts": "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "proc/sys/net/core/bpf_jit_enable": "0"}).root(), "amd64",
			Attempts{}}, true},
		// The attempts succeed, but hotframe's own program would not load.
		{"linux-5.4", Host{modern.with(files{"proc/sys/kernel/osrelease": "5.4.0", "sys/kernel/btf/vmlinux": ""}).root(), "amd64",
			Attempts{}}, false},
		{"nothing-readable", Host{files{}.root(), "riscv64",
			Attempts{LoadBPF: noBPF, AttachBPF: noPerf, HostPerf: noPerf, OwnKernel: noPerf, OwnPerf: noPerf, HardwarePM: noPerf}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Examine(tt.host)
			if r.Usable != tt.usable {
				t.Errorf("Usable = %v, want %v", r.Usable, tt.usable)
			}
			var b bytes.Buffer
			if err := r.WriteText(&b); err != nil {
				t.Fatal(err)
			}
			testutil.Golden(t, b.Bytes(), tt.name+".txt")
		})
	}
}

func TestJSON(t *testing.T) {
	b, err := json.MarshalIndent(Examine(Host{modern.root(), "amd64", Attempts{}}), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	testutil.Golden(t, append(b, '\n'), "root.json")
}

func TestWriteTextReportsErrors(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if err := Examine(Host{modern.root(), "amd64", Attempts{}}).WriteText(full); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteText to a full disk = %v, want ENOSPC", err)
	}
}

func TestParseRelease(t *testing.T) {
	tests := []struct {
		release      string
		major, minor int
	}{
		{"6.18.44-fc", 6, 18},
		{"5.10", 5, 10},
		{"6.6-rc1", 6, 6},
		{"4.19.0+", 4, 19},
		{"", 0, 0},
		{"6", 0, 0},
		{"six.one", 0, 0},
	}
	for _, tt := range tests {
		if major, minor := parseRelease(tt.release); major != tt.major || minor != tt.minor {
			t.Errorf("parseRelease(%q) = %d, %d, want %d, %d", tt.release, major, minor, tt.major, tt.minor)
		}
	}
}

// TestAttempt holds the attempts against each other on the machine of the test.
func TestAttempt(t *testing.T) {
	a := Attempt()
	t.Logf("%+v", a)
	if a.HostPerf == nil && a.OwnPerf != nil {
		t.Errorf("the whole host may be sampled but an own process not: %v", a.OwnPerf)
	}
	if a.LoadBPF != nil && a.AttachBPF == nil {
		t.Errorf("attached a program that could not be loaded: %v", a.LoadBPF)
	}
}

func TestAttemptPrivileged(t *testing.T) {
	testutil.NeedPrivileges(t)
	// RLIMIT_MEMLOCK counts for nothing since Linux 5.11, so that it must not be
	// raised, which needs a right of its own.
	if a := Attempt(); a.LoadBPF != nil || a.AttachBPF != nil || a.HostPerf != nil {
		t.Errorf("with all rights: %+v", a)
	}
}
