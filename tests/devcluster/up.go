package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc/grpclog"
)

// How often to look for a component that ended by itself.
const casualtyPoll = 200 * time.Millisecond

// errStopped is the cause of an end that somebody asked for.
var errStopped = errors.New("stopped")

type options struct {
	base, kubeconfigOut string
	port                int
	dieWithParent       bool
}

func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.base, "dir", os.TempDir(), "")
	flags.StringVar(&o.kubeconfigOut, "kubeconfig-out", "", "")
	flags.IntVar(&o.port, "port", 0, "")
	flags.BoolVar(&o.dieWithParent, "die-with-parent", false, "")
	if err := flags.Parse(args); err != nil {
		return o, fmt.Errorf("%w\n%s", err, usage)
	}
	if o.port < 0 || o.port > 65535 {
		return o, fmt.Errorf("port %d is not between 0 and 65535", o.port)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q\n%s", flags.Arg(0), usage)
	}
	return o, nil
}

// up runs a cluster until it is told to stop, its parent ends, or a component fails.
func up(args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	// The snapshot's client reports its own disconnecting as a warning.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	ctx, end := context.WithCancelCause(context.Background())
	endOnSignal(end)
	if o.dieWithParent {
		endOnHangUp(end)
	}
	for _, path := range sweep(o.base) {
		fmt.Fprintf(os.Stderr, "devcluster: removed %s, left by a run that was killed\n", path)
	}
	dir, err := newRunDir(o.base)
	if err != nil {
		return err
	}
	err = run(ctx, end, dir, o)
	if errors.Is(err, errStopped) {
		err = nil
	}
	return errors.Join(err, dir.remove())
}

func run(ctx context.Context, end context.CancelCauseFunc, dir *runDir, o options) error {
	c, err := prepare(dir, o.port)
	if err != nil {
		return err
	}
	defer c.kill()
	if o.kubeconfigOut != "" {
		if err := copyKubeconfig(dir.file(adminKubeconfig), o.kubeconfigOut); err != nil {
			return err
		}
		// What it leads to is gone with this run.
		defer os.Remove(o.kubeconfigOut)
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	requests := make(chan request)
	if err := listen(dir.file(controlSocket), requests); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(c.answer(nil)); err != nil {
		return fmt.Errorf("failed to tell that the cluster is ready: %w", err)
	}
	return serve(ctx, end, c, requests)
}

// serve answers requests one at a time until the end.
func serve(ctx context.Context, end context.CancelCauseFunc, c *cluster, requests <-chan request) error {
	look := time.NewTicker(casualtyPoll)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
			if err := c.casualty(); err != nil {
				return err
			}
		case r := <-requests:
			if r.line == "stop" {
				c.kill()
				r.answer <- c.answer(nil)
				end(errStopped)
				continue
			}
			r.answer <- c.answer(c.obey(ctx, r.line))
		}
	}
}

func endOnSignal(end context.CancelCauseFunc) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		end(errStopped)
	}()
}

// endOnHangUp ends the run when standard input does, whose other end the parent holds. The kernel's
// parent-death signal is of no use here: it tells of the end of the parent's thread, and a parent
// with a thread pool ends threads all the time.
func endOnHangUp(end context.CancelCauseFunc) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end(errStopped)
	}()
}

// copyKubeconfig makes the file anew: overwriting would destroy the user's way to other clusters.
func copyKubeconfig(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("file %s exists already; remove it or choose another with --kubeconfig-out", to)
	}
	if err != nil {
		return fmt.Errorf("failed to write the kubeconfig: %w; choose another place with --kubeconfig-out", err)
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}
