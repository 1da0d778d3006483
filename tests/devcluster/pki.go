package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// A run is expected to last hours; a demo may be kept for days. Beyond a month something leaked.
const certificateLifetime = 30 * 24 * time.Hour

// authority signs the certificates of one run. Its key never leaves this process.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// pair is a certificate with its key, both PEM.
type pair struct {
	certificate, key []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certificateTemplate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return &authority{certificate: certificate, key: key, pem: encoded}, nil
}

// server issues the certificate the API server shows to its clients.
func (a *authority) server() (pair, error) {
	return a.issue(pkix.Name{CommonName: "kube-apiserver"}, func(template *x509.Certificate) {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		template.DNSNames = []string{"localhost", "kubernetes.default.svc"}
	})
}

// client issues a certificate that authenticates as user, in the given groups.
func (a *authority) client(user string, groups ...string) (pair, error) {
	name := pkix.Name{CommonName: user, Organization: groups}
	return a.issue(name, func(template *x509.Certificate) {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
}

func (a *authority) issue(name pkix.Name, shape func(*x509.Certificate)) (pair, error) {
	template, err := certificateTemplate(name)
	if err != nil {
		return pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	shape(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return pair{}, err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return pair{certificate: certificate, key: keyPEM}, nil
}

func certificateTemplate(name pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	// Tests move a process's clock back by minutes; the certificates shall not be what fails.
	start := time.Now().Add(-24 * time.Hour)
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      name,
		NotBefore:    start,
		NotAfter:     start.Add(certificateLifetime),
	}, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	// Kubernetes reads service account keys in this older form, not in PKCS #8.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// credentials writes every key, certificate and kubeconfig of a run into dir, and returns the
// administrator's TLS configuration for this process's own questions to the API server.
func credentials(dir, server string) (*tls.Config, error) {
	ca, err := newAuthority("devcluster")
	if err != nil {
		return nil, err
	}
	serving, err := ca.server()
	if err != nil {
		return nil, err
	}
	admin, err := ca.client("devcluster-admin", "system:masters")
	if err != nil {
		return nil, err
	}
	manager, err := ca.client("system:kube-controller-manager")
	if err != nil {
		return nil, err
	}
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signingPEM, err := encodeKey(signing)
	if err != nil {
		return nil, err
	}
	adminConfig, err := kubeconfig(server, ca.pem, admin)
	if err != nil {
		return nil, err
	}
	managerConfig, err := kubeconfig(server, ca.pem, manager)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		caFile:                ca.pem,
		servingCertFile:       serving.certificate,
		servingKeyFile:        serving.key,
		serviceAccountKeyFile: signingPEM,
		adminKubeconfig:       adminConfig,
		managerKubeconfig:     managerConfig,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, fmt.Errorf("failed to write %s: %w", name, err)
		}
	}
	certificate, err := tls.X509KeyPair(admin.certificate, admin.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.certificate)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}, nil
}

func kubeconfig(server string, ca []byte, user pair) ([]byte, error) {
	const name = "devcluster"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: user.certificate,
		ClientKeyData:         user.key,
	}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	return clientcmd.Write(*config)
}
