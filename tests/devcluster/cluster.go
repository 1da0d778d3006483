package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcdsnapshot "go.etcd.io/etcd/client/v3/snapshot"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

const (
	// Ready takes about two seconds; this is for a machine that is busy compiling.
	readyTimeout = 2 * time.Minute
	readyPoll    = 25 * time.Millisecond
	// What an API server may use to finish requests before it is killed. Ordinary ones take
	// milliseconds; it would also wait a minute for watches, which end only by being cut.
	stopGrace = time.Second
	// A snapshot of a test's data is copied in well under a second.
	snapshotTimeout = time.Minute
)

// cluster is the control plane of one run. All methods are for the main goroutine.
type cluster struct {
	dir    *runDir
	port   int
	client *http.Client
	// The pipe that tells the children of our end: nothing is written to it, and held, its writing
	// end, is kept only so that it closes when this process is gone.
	lifeline, held *os.File

	etcd, apiserver, manager *child
}

func (c *cluster) server() string {
	return fmt.Sprintf("https://127.0.0.1:%d", c.port)
}

// prepare makes what all components share: the port, the keys, the pipe that tells children of
// our end.
func prepare(dir *runDir, port int) (*cluster, error) {
	port, err := reservePort(port)
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, port: port}
	admin, err := credentials(dir.path, c.server())
	if err != nil {
		return nil, err
	}
	c.client = newClient(admin)
	c.lifeline, c.held, err = os.Pipe()
	return c, err
}

func newClient(admin *tls.Config) *http.Client {
	return &http.Client{
		Timeout: 5 * time.Second,
		// A new connection for every question: an old one may lead to a stopped API server.
		Transport: &http.Transport{TLSClientConfig: admin, DisableKeepAlives: true},
	}
}

func (c *cluster) start(ctx context.Context) error {
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	return c.startManager()
}

func (c *cluster) startEtcd(ctx context.Context) error {
	started, err := startChild(c.dir.path, etcdName, c.lifeline, c.dir.path)
	if err != nil {
		return err
	}
	c.etcd = started
	// The API server would find out by itself, but only after a pause.
	return c.await(ctx, started, func() error {
		connection, err := net.Dial("unix", c.dir.file(etcdSocket))
		if err == nil {
			_ = connection.Close()
		}
		return err
	})
}

func (c *cluster) startAPIServer(ctx context.Context) error {
	if c.apiserver != nil && c.apiserver.isRunning() {
		return errors.New("the API server is already running")
	}
	started, err := startChild(c.dir.path, apiserverName, c.lifeline,
		"--etcd-servers=unix://"+c.dir.file(etcdSocket),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.port),
		"--permit-port-sharing",
		// Nobody reaches the API server through the `kubernetes` Service here.
		"--endpoint-reconciler-type=none",
		"--advertise-address=127.0.0.1",
		"--service-cluster-ip-range=10.0.0.0/24",
		"--tls-cert-file="+servingCertFile,
		"--tls-private-key-file="+servingKeyFile,
		"--client-ca-file="+caFile,
		"--anonymous-auth=false",
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+serviceAccountKeyFile,
		"--service-account-signing-key-file="+serviceAccountKeyFile,
		// Only adds to the default set, of which ValidatingAdmissionPolicy is one; naming it makes
		// a release that drops it from the default fail at the start and not in a safety test.
		"--enable-admission-plugins=ValidatingAdmissionPolicy",
		"--shutdown-delay-duration=0s",
	)
	if err != nil {
		return err
	}
	c.apiserver = started
	return c.await(ctx, started, c.askReady)
}

func (c *cluster) startManager() error {
	started, err := startChild(c.dir.path, controllerManagerName, c.lifeline,
		"--kubeconfig="+managerKubeconfig,
		"--controllers=garbage-collector-controller,namespace-controller,serviceaccount-controller,"+
			"serviceaccount-token-controller,root-ca-certificate-publisher-controller,"+
			"clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller",
		"--secure-port=0",
		"--leader-elect=false",
		// Each controller acts under its own service account and its own roles, as on a real
		// cluster: policies name `system:serviceaccount:kube-system:namespace-controller`.
		"--use-service-account-credentials",
		"--service-account-private-key-file="+serviceAccountKeyFile,
		"--root-ca-file="+caFile,
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	)
	c.manager = started
	return err
}

// await asks until the answer is good, the child has ended, or the time is over.
func (c *cluster) await(ctx context.Context, starting *child, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		answer := ask()
		if answer == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-starting.ended:
			return starting.obituary()
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return fmt.Errorf("%s was not ready within %s: %w", starting.name, readyTimeout, answer)
			}
			return context.Cause(ctx)
		}
	}
}

func (c *cluster) askReady() error {
	response, err := c.client.Get(c.server() + "/readyz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("/readyz answered %s: %s", response.Status, body)
	}
	return err
}

func (c *cluster) stopAPIServer() {
	if c.apiserver != nil {
		c.apiserver.stop(stopGrace)
	}
	c.apiserver = nil
}

// snapshot writes a copy of everything the cluster stores to path, while it goes on running.
func (c *cluster) snapshot(ctx context.Context, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("snapshot file %q is not an absolute path", path)
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	endpoint := "unix://" + c.dir.file(etcdSocket)
	config := clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()}
	if _, err := etcdsnapshot.SaveWithVersion(ctx, zap.NewNop(), config, path); err != nil {
		return fmt.Errorf("failed to save the snapshot %s: %w", path, err)
	}
	return nil
}

// restore puts the cluster back to what the snapshot at path holds, as an operator would after a
// disaster: everything stops, the data is replaced, everything starts at the same address.
//
// With a bump, resource versions go on from that far above the snapshot's, which is what etcd's
// documentation recommends; without, they go back and are given out a second time.
func (c *cluster) restore(ctx context.Context, path string, bump uint64) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("snapshot file %q is not an absolute path", path)
	}
	// Into a second directory first: a bad snapshot must leave the running cluster alone.
	restored := c.dir.file(etcdData + ".restored")
	if err := os.RemoveAll(restored); err != nil {
		return err
	}
	config, err := etcdConfig(c.dir.path)
	if err != nil {
		return err
	}
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        path,
		Name:                config.Name,
		OutputDataDir:       restored,
		PeerURLs:            []string{etcdPeerURL},
		InitialCluster:      config.InitialCluster,
		InitialClusterToken: config.InitialClusterToken,
		RevisionBump:        bump,
		MarkCompacted:       bump > 0,
	})
	if err != nil {
		return fmt.Errorf("failed to restore the snapshot %s: %w", path, err)
	}
	c.kill()
	data := c.dir.file(etcdData)
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	if err := os.Rename(restored, data); err != nil {
		return err
	}
	return c.start(ctx)
}

// kill ends all components at once. Nothing is lost by it that would be kept: either the data is
// replaced or the whole directory goes.
func (c *cluster) kill() {
	for _, component := range []*child{c.manager, c.apiserver, c.etcd} {
		if component != nil {
			component.stop(0)
		}
	}
	c.manager, c.apiserver, c.etcd = nil, nil, nil
}

// casualty returns why the cluster cannot go on, or nil while every component that should run does.
func (c *cluster) casualty() error {
	for _, component := range []*child{c.etcd, c.apiserver, c.manager} {
		if component != nil && !component.isRunning() {
			return component.obituary()
		}
	}
	return nil
}

func (c *cluster) pids() map[string]int {
	pids := map[string]int{"up": os.Getpid()}
	for _, component := range []*child{c.etcd, c.apiserver, c.manager} {
		if component != nil {
			pids[component.name] = component.process.Process.Pid
		}
	}
	return pids
}
