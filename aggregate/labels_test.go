package aggregate

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"hotframe/sampler"
)

func TestLabels(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	tests := []struct {
		name         string
		comm, cgroup string
		want         map[string]string // besides pid and tid
	}{
		{"no cgroup known", "p", "", map[string]string{"comm": "p"}},
		{"a name without bytes has no label", "", "", map[string]string{}},
		{"spaces and punctuation are kept", " a;b</x>", "", map[string]string{"comm": " a;b</x>"}},
		{"UTF-8 is kept", "naïve✓", "", map[string]string{"comm": "naïve✓"}},
		{"a character that the kernel cut", "123456789012é✓", "", map[string]string{"comm": "123456789012é\uFFFD"}},
		{"bytes that are no UTF-8", "a\xff\xfeb", "", map[string]string{"comm": "a\uFFFD\uFFFDb"}},
		{"control bytes", "a\n\x1b[0m\x7f", "", map[string]string{"comm": "a\uFFFD\uFFFD[0m\uFFFD"}},
		{"a cgroup that is no container", "p", "/user.slice", map[string]string{"comm": "p", "cgroup": "/user.slice"}},
		{"a hostile cgroup name", "p", "/a\n\xff", map[string]string{"comm": "p", "cgroup": "/a\uFFFD\uFFFD"}},
		{"a container", "p", "/docker/" + id, map[string]string{"comm": "p", "cgroup": "/docker/" + id, "container": id}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sampler.Sample{PID: 12, TID: 34, Comm: sampler.NewComm(tt.comm), Cgroup: tt.cgroup, Process: process(12)}
			got := make(map[string]string)
			for k, v := range flush(t, &s).Profile.Sample[0].Label {
				got[k] = strings.Join(v, "|")
			}
			tt.want["pid"], tt.want["tid"] = "12", "34"
			if !maps.Equal(got, tt.want) {
				t.Errorf("labels are %q, want %q", got, tt.want)
			}
		})
	}
}

func TestContainerID(t *testing.T) {
	a, b := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	tests := []struct {
		name, cgroup, want string
	}{
		{"docker, systemd driver", "/system.slice/docker-" + a + ".scope", a},
		{"docker, cgroupfs driver", "/docker/" + a, a},
		{"containerd under kubernetes", "/kubepods.slice/kubepods-burstable.slice/cri-containerd-" + a + ".scope", a},
		{"CRI-O", "/kubepods/crio-" + a + ".scope", a},
		{"podman", "/machine.slice/libpod-" + a + ".scope/container", a},
		{"a cgroup within the container", "/docker/" + a + "/init.scope", a},
		{"a container within a container", "/docker/" + a + "/docker/" + b, b},
		{"too short", "/docker/" + a[1:], ""},
		{"too long", "/docker/" + a + "0", ""},
		{"no hex digits", "/docker/" + strings.Repeat("g", 64), ""},
		{"a pod's UID", "/kubepods/pod5b1c9b5e-7b0f-4b0a-8b0a-0123456789ab", ""},
		{"none", "/", ""},
		{"not known", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := containerID(tt.cgroup); got != tt.want {
				t.Errorf("containerID(%q) = %q, want %q", tt.cgroup, got, tt.want)
			}
		})
	}
}

// FuzzLabels: whatever a process calls itself and its cgroup, labels are text
// of one line, and a container id is one.
func FuzzLabels(f *testing.F) {
	f.Add("comm", "/docker/"+strings.Repeat("0123456789abcdef", 4))
	f.Add("\xff\n\u0085", "")
	f.Fuzz(func(t *testing.T, comm, cgroup string) {
		l := labels(thread{comm: clean(comm), cgroup: clean(cgroup)})
		for key, values := range l {
			if len(values) != 1 || values[0] == "" || !utf8.ValidString(values[0]) || strings.ContainsFunc(values[0], unicode.IsControl) {
				t.Errorf("label %s is %q", key, values)
			}
		}
		if id := containerID(cgroup); id != "" {
			around := strings.FieldsFunc(cgroup, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) })
			if len(id) != 64 || !slices.Contains(around, id) {
				t.Errorf("containerID(%q) = %q", cgroup, id)
			}
		}
	})
}
