// Devcluster is a Kubernetes control plane in one binary, for development and tests.
//
// `devcluster up` starts etcd, kube-apiserver and kube-controller-manager as children of itself,
// each a re-execution of this same binary. It runs no kubelet: pods are stored, never started.
// It must never reuse a port, a key or a certificate between runs, nor outlive the process that
// asked for it when told so.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

const usage = `usage: devcluster up [--dir BASE] [--kubeconfig-out FILE] [--port N] [--die-with-parent]
       devcluster kubectl ARGS...      (also when called by the name kubectl)`

// A parent-death signal is sent when the parent's *thread* ends, so children are started from the
// main goroutine only, and the main goroutine stays on the main thread, which lives to the end.
func init() {
	runtime.LockOSThread()
}

func main() {
	if filepath.Base(os.Args[0]) == "kubectl" {
		runKubectl()
		return
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	command, args := os.Args[1], os.Args[2:]
	// The Kubernetes commands read os.Args themselves.
	os.Args = append([]string{command}, args...)
	switch command {
	case "up":
		if err := up(args); err != nil {
			fmt.Fprintf(os.Stderr, "devcluster: %v\n", err)
			os.Exit(1)
		}
	case "kubectl":
		runKubectl()
	case etcdName:
		endWithParent()
		if err := runEtcd(args); err != nil {
			fmt.Fprintf(os.Stderr, "etcd: %v\n", err)
			os.Exit(1)
		}
	case apiserverName:
		endWithParent()
		runAPIServer()
	case controllerManagerName:
		endWithParent()
		runControllerManager()
	case "help", "-h", "--help":
		fmt.Println(usage)
	default:
		fmt.Fprintf(os.Stderr, "devcluster: there is no command %q\n%s\n", command, usage)
		os.Exit(2)
	}
}
