package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Files and folders within the directory of a run.
const (
	lockFile              = "lock"
	controlSocket         = "control.sock"
	etcdSocket            = "etcd.sock"
	etcdData              = "etcd"
	caFile                = "ca.crt"
	servingCertFile       = "serving.crt"
	servingKeyFile        = "serving.key"
	serviceAccountKeyFile = "service-account.key"
	adminKubeconfig       = "kubeconfig"
	managerKubeconfig     = "controller-manager.kubeconfig"
)

const runDirPrefix = "wardring-devcluster-"

// The kernel's limit for the path of a unix socket, less the terminating zero.
const socketPathLimit = 107

// runDir is the private directory of one run, held by a lock that the kernel drops at its end.
type runDir struct {
	path string
	lock *os.File
}

func newRunDir(base string) (*runDir, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, fmt.Errorf("directory %s cannot be made: %w; choose another with --dir", base, err)
	}
	// MkdirTemp makes the directory readable and searchable by its owner only. It gets the name
	// that sweep looks for once it is locked, or another run could take it for a dead one.
	made, err := os.MkdirTemp(base, "."+runDirPrefix)
	if err != nil {
		return nil, fmt.Errorf("directory %s is not writable: %w; choose another with --dir", base, err)
	}
	dir, err := claim(made, filepath.Join(base, strings.TrimPrefix(filepath.Base(made), ".")))
	if err != nil {
		_ = os.RemoveAll(made)
		return nil, err
	}
	return dir, nil
}

// claim locks the new directory made and gives it the name path.
func claim(made, path string) (*runDir, error) {
	if len(filepath.Join(path, controlSocket)) > socketPathLimit {
		return nil, fmt.Errorf("directory %s is too long a path for a socket (at most %d bytes); choose a shorter one with --dir", path, socketPathLimit)
	}
	lock, err := lockDir(made, os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("failed to lock %s: %w", made, err)
	}
	if err := os.Rename(made, path); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return &runDir{path: path, lock: lock}, nil
}

func lockDir(path string, flags int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

func (d *runDir) file(name string) string {
	return filepath.Join(d.path, name)
}

// remove deletes the directory while the lock is still held, so that no other run sweeps it at
// the same time.
func (d *runDir) remove() error {
	defer d.lock.Close()
	return removeAll(d.path)
}

// removeAll tries more than once: a child killed a moment ago may still be making files.
func removeAll(path string) error {
	var err error
	for range 5 {
		if err = os.RemoveAll(path); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("failed to remove %s: %w", path, err)
}

// sweep removes the directories of runs that are dead: their lock is free. It returns what it
// removed. What cannot be looked at belongs to somebody else and is left alone.
func sweep(base string) []string {
	found, err := filepath.Glob(filepath.Join(base, runDirPrefix+"*"))
	if err != nil {
		return nil
	}
	var removed []string
	for _, path := range found {
		if !isOurs(path) {
			continue
		}
		lock, err := lockDir(path, 0)
		switch {
		case err == nil:
			if removeAll(path) == nil {
				removed = append(removed, path)
			}
			_ = lock.Close()
		case errors.Is(err, os.ErrNotExist):
			// A directory has its lock before it has its name: this one is half removed.
			if removeAll(path) == nil {
				removed = append(removed, path)
			}
		}
	}
	return removed
}

func isOurs(path string) bool {
	var stat unix.Stat_t
	// Lstat: in a directory shared by everyone, a link with our prefix may point anywhere.
	if unix.Lstat(path, &stat) != nil {
		return false
	}
	return stat.Mode&unix.S_IFMT == unix.S_IFDIR && int(stat.Uid) == os.Geteuid()
}
