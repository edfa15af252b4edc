package proc

import (
	iofs "io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds on the cgroup tree.
const (
	maxCgroups     = 1 << 16
	cgroupScanWait = time.Second // between two scans
)

// CgroupIDs finds the paths of cgroups by the id that the kernel gives to a
// cgroup of version 2: the inode number of its directory. It is for one
// goroutine. A cgroup that is gone keeps its path.
type CgroupIDs struct {
	mount   string
	paths   map[uint64]string
	scanned time.Time
}

// CgroupIDs returns an empty CgroupIDs for the cgroup2 mount.
func (fs FS) CgroupIDs() (*CgroupIDs, error) {
	mount, err := fs.Cgroup2Mount()
	if err != nil {
		return nil, err
	}
	return &CgroupIDs{mount: mount, paths: make(map[uint64]string)}, nil
}

// Path is the path of a cgroup within the hierarchy, "" when there is none
// with that id. An unknown id makes it scan the tree, at most once a second.
func (c *CgroupIDs) Path(id uint64) string {
	path, ok := c.paths[id]
	if ok || time.Since(c.scanned) < cgroupScanWait {
		return path
	}
	c.scan()
	c.scanned = time.Now()
	return c.paths[id]
}

// scan adds all cgroups to paths. Directories that vanish meanwhile, or cannot
// be read, are left out.
func (c *CgroupIDs) scan() {
	if len(c.paths) > maxCgroups {
		clear(c.paths) // those that are gone; the living are found again
	}
	added := 0
	filepath.WalkDir(c.mount, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		rel := strings.TrimPrefix(path, c.mount)
		if rel == "" {
			rel = "/"
		}
		c.paths[st.Ino] = rel
		if added++; added == maxCgroups {
			return filepath.SkipAll
		}
		return nil
	})
}
