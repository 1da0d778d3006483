package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// How many bytes from the end of a log are worth showing when a child ends by itself.
const logTailBytes = 2000

// child is one component, running as a process of its own.
type child struct {
	name    string
	logPath string
	process *exec.Cmd
	// Closed when the process has ended and been waited for; failure may be read after that.
	ended   chan struct{}
	failure error
}

// startChild runs this binary again as component name. The caller must be on the main thread.
func startChild(dir, name string, lifeline *os.File, args ...string) (*child, error) {
	logPath := filepath.Join(dir, name+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	process := exec.Command("/proc/self/exe", args...)
	process.Args[0] = "devcluster"
	process.Args = append([]string{process.Args[0], name}, args...)
	process.Dir = dir
	process.Env = append(os.Environ(), lifelineVariable+"=1")
	process.Stdout, process.Stderr = log, log
	process.ExtraFiles = []*os.File{lifeline}
	process.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		// A Ctrl-C at the terminal is for `up` alone, which then ends the children in order.
		Setpgid: true,
	}
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("failed to start %s: %w", name, err)
	}
	c := &child{name: name, logPath: logPath, process: process, ended: make(chan struct{})}
	go func() {
		c.failure = process.Wait()
		close(c.ended)
	}()
	return c, nil
}

func (c *child) isRunning() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// stop asks the child to end and kills it if it has not within the grace. It returns when the
// process is gone.
func (c *child) stop(grace time.Duration) {
	if grace > 0 {
		_ = c.process.Process.Signal(syscall.SIGTERM)
		select {
		case <-c.ended:
			return
		case <-time.After(grace):
		}
	}
	_ = c.process.Process.Kill()
	<-c.ended
}

// obituary says how the child ended and what it wrote last.
func (c *child) obituary() error {
	how := "exit status 0"
	if c.failure != nil {
		how = c.failure.Error()
	}
	return fmt.Errorf("%s ended by itself (%s); its log ends with:\n%s", c.name, how, logTail(c.logPath))
}

func logTail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(content) > logTailBytes {
		content = content[len(content)-logTailBytes:]
	}
	return strings.TrimSpace(string(content))
}
