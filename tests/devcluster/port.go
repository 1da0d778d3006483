package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// reservePort binds a port of the loopback address and keeps it, without listening on it, for the
// life of this process. The API server shares it (`--permit-port-sharing`), so the port stays ours
// while the API server is stopped, and connections are refused then as they would be in earnest.
// Port 0 lets the kernel choose a free one.
func reservePort(port int) (int, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, err
	}
	address := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(socket, address); err != nil {
		return 0, fmt.Errorf("port %d on 127.0.0.1 is taken (%w); choose another with --port, or 0 for any free one", port, err)
	}
	bound, err := unix.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	return bound.(*unix.SockaddrInet4).Port, nil
}
