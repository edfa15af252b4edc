package sampler

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hotframe/internal/proc"
	"hotframe/internal/testutil"
)

// TestSidebandLive follows a program on this host from fork to exit.
func TestSidebandLive(t *testing.T) {
	testutil.NeedPrivileges(t)
	s, err := openSideband(Target{}, sidebandPages)
	if err != nil {
		t.Fatal(err)
	}
	p := newProcesses(proc.FS("/"), monotonicNow, nil)
	defer p.close()
	p.scanner.wg.Wait() // or else it may find the program before its records are read
	before := monotonicNow()
	cmd := exec.Command("/bin/sh", "-c", "exec sleep 0.05")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	after := monotonicNow()
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	s.until(allTime, p.apply)
	if err := s.close(); err != nil {
		t.Error(err)
	}
	h := p.byPID[int32(cmd.Process.Pid)]
	if h == nil {
		t.Fatal("the program is not known")
	}
	if h.ended <= before || h.ended >= after {
		t.Errorf("ended at %d, want between %d and %d", h.ended, before, after)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if sleep, err = filepath.EvalSymlinks(sleep); err != nil {
		t.Fatal(err)
	}
	last := h.images[len(h.images)-1]
	if got, err := filepath.EvalSymlinks(last.Exe); err != nil || filepath.Base(got) != filepath.Base(sleep) {
		t.Errorf("it is %s, want %s", describe(last), sleep)
	}
	var vdso, file bool
	for _, m := range last.Mappings() {
		vdso = vdso || m.Path == "[vdso]"
		file = file || m.Path == last.Exe && m.Inode != 0 && m.Device != 0
	}
	if !vdso || !file || len(h.images) < 3 { // the test's fork, the shell, sleep
		t.Errorf("%d images, the last is %s", len(h.images), describe(last))
	}
	if s.lost != 0 {
		t.Errorf("%d records lost", s.lost)
	}
	if p.at(int32(os.Getpid()), after).Exe == "" {
		t.Error("this process is not known")
	}
}

// TestSidebandFollowsCPUs closes the rings of CPUs that are gone and opens new
// ones, as when a CPU goes offline and comes back.
func TestSidebandFollowsCPUs(t *testing.T) {
	testutil.NeedPrivileges(t)
	online, err := proc.FS("/").OnlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if len(online) < 2 {
		t.Skip("needs two CPUs")
	}
	s, err := openSideband(Target{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.rings.followCPUs(online[:1], s.take, s.openCPU); err != nil || len(s.rings.rings) != 1 {
		t.Fatalf("one CPU online: %v, %d rings", err, len(s.rings.rings))
	}
	s.followCPUs()
	if len(s.rings.rings) != len(online) {
		t.Errorf("%d CPUs online: %d rings", len(online), len(s.rings.rings))
	}
	const none = 1 << 15 // ENODEV or EINVAL, as for a CPU that goes offline meanwhile
	if err := s.rings.followCPUs(append(online, none), s.take, s.openCPU); err != nil {
		t.Logf("a CPU that does not exist: %v", err)
	}
	if len(s.rings.rings) != len(online) {
		t.Errorf("after a CPU that does not exist: %d rings", len(s.rings.rings))
	}
}

// TestSidebandOrder: records are handed out by time, and not before theirs.
func TestSidebandOrder(t *testing.T) {
	var s sideband
	var got []uint64
	take := func(r *perfRecord) { got = append(got, r.Time) }
	s.pending = []perfRecord{{Time: 1}, {Time: 2}, {Time: 5}, {Time: 6}}
	s.until(0, take)
	if got != nil {
		t.Errorf("until 0: %v", got)
	}
	s.until(5, take)
	s.until(5, take)
	if len(got) != 3 || got[2] != 5 {
		t.Errorf("until 5: %v", got)
	}
	s.pending = append(s.pending, perfRecord{Time: 7})
	s.until(allTime, take)
	if len(got) != 5 || got[4] != 7 || len(s.pending) != 0 || s.head != 0 {
		t.Errorf("until the end: %v, %d pending", got, len(s.pending))
	}
}

// BenchmarkSortRecords is what a storm leaves in the rings of four CPUs: each in
// order, 2500 records.
func BenchmarkSortRecords(b *testing.B) {
	var s sideband
	b.ReportAllocs()
	for b.Loop() {
		s.pending = s.pending[:0]
		for cpu := range uint64(4) {
			for i := range uint64(2500) {
				s.pending = append(s.pending, perfRecord{Time: i*1000 + cpu})
			}
		}
		s.sort()
	}
}
