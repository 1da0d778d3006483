package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// request is one line from the control socket on its way to the main goroutine.
type request struct {
	line   string
	answer chan<- answer
}

// answer is the one line a request is answered with, and the line `up` prints when it is ready.
type answer struct {
	OK         bool           `json:"ok"`
	Error      string         `json:"error,omitempty"`
	Kubeconfig string         `json:"kubeconfig"`
	Server     string         `json:"server"`
	Dir        string         `json:"dir"`
	Control    string         `json:"control"`
	Pids       map[string]int `json:"pids"`
}

func (c *cluster) answer(err error) answer {
	a := answer{
		OK:         err == nil,
		Kubeconfig: c.dir.file(adminKubeconfig),
		Server:     c.server(),
		Dir:        c.dir.path,
		Control:    c.dir.file(controlSocket),
		Pids:       c.pids(),
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

// listen takes requests, a line each, from whoever may enter the run's directory.
func listen(path string, requests chan<- request) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("failed to listen on %s: %w", path, err)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go converse(connection, requests)
		}
	}()
	return nil
}

func converse(connection net.Conn, requests chan<- request) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		answers := make(chan answer, 1)
		requests <- request{line: lines.Text(), answer: answers}
		if json.NewEncoder(connection).Encode(<-answers) != nil {
			return
		}
	}
}

// obey does what one request line asks for.
func (c *cluster) obey(ctx context.Context, line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		words = []string{""}
	}
	command, args := words[0], words[1:]
	wrong := func(form string) error { return fmt.Errorf("%q is not of the form `%s`", line, form) }
	switch command {
	case "status":
		return nil
	case "stop-apiserver":
		c.stopAPIServer()
		return nil
	case "start-apiserver":
		return c.startAPIServer(ctx)
	case "restart-apiserver":
		c.stopAPIServer()
		return c.startAPIServer(ctx)
	case "etcd-snapshot":
		if len(args) != 1 {
			return wrong("etcd-snapshot FILE")
		}
		return c.snapshot(ctx, args[0])
	case "etcd-restore":
		if len(args) != 1 && len(args) != 2 {
			return wrong("etcd-restore FILE [REVISION-BUMP]")
		}
		var bump uint64
		if len(args) == 2 {
			var err error
			if bump, err = strconv.ParseUint(args[1], 10, 32); err != nil {
				return wrong("etcd-restore FILE [REVISION-BUMP]")
			}
		}
		return c.restore(ctx, args[0], bump)
	default:
		return fmt.Errorf("there is no command %q; there are status, stop-apiserver, start-apiserver, restart-apiserver, etcd-snapshot, etcd-restore, stop", command)
	}
}
