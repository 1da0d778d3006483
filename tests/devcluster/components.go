package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// The names of the children: the command they are re-executed with, and their names in messages.
const (
	etcdName              = "etcd"
	apiserverName         = "apiserver"
	controllerManagerName = "controller-manager"
)

// The file descriptor on which a child holds the reading end of its parent's pipe.
const lifelineFD = 3

// Set for children, so that the inner commands are not started by hand with a wrong descriptor 3.
const lifelineVariable = "DEVCLUSTER_LIFELINE"

// endWithParent ends this process when the parent is gone.
//
// The kernel's parent-death signal does the same and is faster; this second way remains when a
// container's init or a debugger has got between parent and child.
func endWithParent() {
	if os.Getenv(lifelineVariable) == "" {
		fmt.Fprintf(os.Stderr, "devcluster: %s is started by `devcluster up` only\n", os.Args[0])
		os.Exit(2)
	}
	lifeline := os.NewFile(lifelineFD, "lifeline")
	syscall.CloseOnExec(lifelineFD)
	go func() {
		// Nothing is ever written to the pipe: a read returns only at the parent's end.
		_, _ = lifeline.Read(make([]byte, 1))
		os.Exit(1)
	}()
}

func runAPIServer() {
	os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
}

func runControllerManager() {
	os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
}

func runKubectl() {
	// Before the command is built, because building it already looks for plugins and logs.
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

// The addresses the one member would have for others. etcd insists on host:port even in a unix URL;
// where it listens, that is a socket of this name in the working directory.
const (
	etcdPeerURL      = "unix://etcd-peer:1"
	etcdAdvertiseURL = "unix://etcd-client:1"
)

// etcdConfig describes the one member that keeps its data and sockets in dir.
func etcdConfig(dir string) (*embed.Config, error) {
	peer, err := url.Parse(etcdPeerURL)
	if err != nil {
		return nil, err
	}
	advertised, err := url.Parse(etcdAdvertiseURL)
	if err != nil {
		return nil, err
	}
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, etcdSocket)}
	config := embed.NewConfig()
	config.Dir = filepath.Join(dir, etcdData)
	// A socket in a directory only its owner can enter needs neither a port nor a certificate.
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = []url.URL{*advertised}
	config.ListenPeerUrls = []url.URL{*peer}
	config.AdvertisePeerUrls = []url.URL{*peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	// The data dies with the run, so a power cut may take it: writes need not reach the disk.
	config.UnsafeNoFsync = true
	// Fewer entries in memory between snapshots; the default is sized for real followers.
	config.SnapshotCount = 1000
	config.SnapshotCatchUpEntries = 100
	config.MaxSnapFiles, config.MaxWalFiles = 1, 1
	// Benchmarks write more than the default 2 GiB between two compactions.
	config.QuotaBackendBytes = 6 << 30
	config.EnableGRPCGateway = false
	// Left at zero, as NewConfig does, it would log every single request.
	config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	config.LogLevel = "warn"
	return config, nil
}

func runEtcd(args []string) error {
	if len(args) != 1 {
		return errors.New("expected the directory to work in")
	}
	config, err := etcdConfig(args[0])
	if err != nil {
		return err
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	select {
	case <-terminate:
		server.Close()
		return nil
	case err := <-server.Err():
		return err
	}
}
