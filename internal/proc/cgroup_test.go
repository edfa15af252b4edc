package proc

import (
	"strings"
	"testing"
)

func TestParseCgroup(t *testing.T) {
	tests := []struct {
		name, in, want string
	}{
		{"version 2", "0::/system.slice/cron.service\n", "/system.slice/cron.service"},
		{"version 2 root", "0::/\n", "/"},
		{"hybrid with systemd on version 2", "4:memory:/a/b/c\n0::/user.slice\n", "/user.slice"},
		{"hybrid with version 2 unused: the deepest", "9:name=systemd:/\n4:memory:/jobs/17\n3:cpuset:/jobs\n0::/\n", "/jobs/17"},
		{"version 1, equally deep: the first", "4:memory:/a\n3:cpu:/b\n", "/a"},
		{"colons belong to the path", "0::/a:b:c\n", "/a:b:c"},
		{"outside of the reader's namespace", "0::/../other\n", "/../other"},
		{"no newline at the end", "0::/x", "/x"},
		{"lines not understood are passed over", "\n0:\nx\n0::relative\n0::/x\n", "/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := parseCgroup([]byte(tt.in)); !ok || got != tt.want {
				t.Errorf("parseCgroup(%q) = %q, %t; want %q", tt.in, got, ok, tt.want)
			}
		})
	}
	if got, ok := parseCgroup([]byte("nothing\n")); ok {
		t.Errorf("parseCgroup of no cgroup line = %q, want none", got)
	}
}

func TestCgroup(t *testing.T) {
	if got, err := fixture.Cgroup(4242); err != nil || got != "/system.slice/demo.service" {
		t.Errorf("Cgroup(4242) = %q, %v", got, err)
	}
	if _, err := fixture.Cgroup(1); err == nil {
		t.Error("Cgroup of a process without that file: no error")
	}
}

func TestCgroup2Mount(t *testing.T) {
	got, err := fixture.Cgroup2Mount()
	if want := string(fixture) + "/sys/fs/cgroup/uni fied"; err != nil || got != want {
		t.Errorf("Cgroup2Mount() = %q, %v; want %q", got, err, want)
	}
}

// FuzzCgroup holds that a path is absolute, on one line and a part of the input.
func FuzzCgroup(f *testing.F) {
	f.Add("4:memory:/a/b/c\n0::/user.slice\n")
	f.Fuzz(func(t *testing.T, in string) {
		path, ok := parseCgroup([]byte(in))
		if ok != strings.HasPrefix(path, "/") || strings.Contains(path, "\n") || !strings.Contains(in, path) {
			t.Fatalf("parseCgroup(%q) = %q, %t", in, path, ok)
		}
	})
}

// FuzzStatus holds that a status without error has a pid.
func FuzzStatus(f *testing.F) {
	f.Add("Tgid:\t4242\nUid:\t1\t2\t3\t4\nNStgid:\t4242\t17\n")
	f.Fuzz(func(t *testing.T, in string) {
		if s, err := parseStatus([]byte(in)); err == nil && s.PID <= 0 {
			t.Fatalf("parseStatus(%q) = %+v", in, s)
		}
	})
}
