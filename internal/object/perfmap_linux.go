package object

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hotframe/internal/proc"
)

// PerfMap returns the File of the names that a run-time gave its compiled code.
// Run-times write it late, so that Open looks again while there is none; while
// there never was one, Open fails with ErrGone.
func (s *Store) PerfMap(pid int32) *File {
	s.mu.Lock()
	f := s.perfMaps[pid]
	if f == nil {
		p := &perfMap{store: s, pid: pid}
		f = &File{Kind: PerfMap, Path: fmt.Sprintf("/tmp/perf-%d.map", pid), PID: pid}
		p.kept = kept{store: s, name: f.Path, opener: p.open}
		f.content = &p.kept
		s.perfMaps[pid] = f
	}
	s.mu.Unlock()
	f.content.(*kept).get() // a failure shows in Open, which tries again
	return f
}

// perfMap opens the perf map of a process.
type perfMap struct {
	store *Store
	pid   int32
	kept  kept

	// Guarded by kept.opening:
	status      proc.Status
	statusKnown bool // the process lived when it was asked for
}

// open looks in the root of the process under the pid that the process knows
// of itself, then on the host.
func (p *perfMap) open() (*os.File, error) {
	s := p.store
	if !p.statusKnown {
		if st, err := s.proc().Status(p.pid); err == nil {
			p.status, p.statusKnown = st, true
		}
	}
	own := p.pid
	if n := len(p.status.NS); n > 0 {
		own = p.status.NS[n-1]
	}
	f, err := p.openIn(s.proc().Path(p.pid, "root"), own)
	if err == nil || !errors.Is(err, ErrGone) && !errors.Is(err, ErrDenied) {
		return f, err
	}
	f, hostErr := p.openIn(s.root, p.pid)
	switch {
	case hostErr == nil:
		return f, nil
	case errors.Is(err, ErrGone) && errors.Is(hostErr, ErrGone):
		return nil, fmt.Errorf("no perf map exists: %w", ErrGone)
	case errors.Is(hostErr, ErrGone):
		return nil, err
	}
	return nil, hostErr
}

func (p *perfMap) openIn(root string, pid int32) (*os.File, error) {
	// With O_PATH, O_NOFOLLOW opens a symbolic link itself, which is then no
	// regular file.
	f, st, err := openIn(root, fmt.Sprintf("/tmp/perf-%d.map", pid), unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	if !p.trusts(st.Uid) {
		f.Close()
		return nil, fmt.Errorf("owned by uid %d: %w", st.Uid, ErrOwner)
	}
	return f, nil
}

// trusts reports whether a user may name the code of the process: root and the
// user it runs as; once it is gone and that is not known, the profiler's user.
func (p *perfMap) trusts(uid uint32) bool {
	if p.statusKnown {
		return uid == 0 || uid == p.status.UID
	}
	return uid == 0 || uid == uint32(os.Geteuid())
}
