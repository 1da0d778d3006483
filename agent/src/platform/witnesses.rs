//! Asking those whose answer shows that the network is there.
//!
//! Whatever comes from somebody else is an answer, a refusal included. What the device says to itself
//! is none: addresses of its own are nobody.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::chance;
use crate::state::Witness;

/// Longest that anybody has for an answer.
const LIMIT: Duration = Duration::from_secs(8);
/// Pause before an unanswered question is sent again: UDP loses some.
const AGAIN: Duration = Duration::from_secs(2);
const DNS: u16 = 53;

/// How the device asks, and who is somebody else.
#[derive(Clone, Copy)]
pub struct Ways {
    /// Whether a router answers; may block.
    pub router: fn(IpAddr) -> bool,
    /// Whether an address is another device's.
    pub is_elsewhere: fn(IpAddr) -> bool,
}

/// Asks all of them at the same time; those that answer.
pub async fn answering(witnesses: BTreeSet<Witness>, ways: Ways) -> BTreeSet<Witness> {
    let mut asked = JoinSet::new();
    for witness in witnesses {
        asked.spawn(async move {
            let answers = tokio::time::timeout(LIMIT, answers(&witness, ways)).await;
            let answer = answers.ok().flatten();
            // A port that has a name is one by its address, too: names are no use without DNS.
            let by_address = match (&witness, answer) {
                (Witness::Port { port, .. }, Some(address)) => {
                    Some(Witness::Port { host: address.to_string(), port: *port })
                }
                _ => None,
            };
            answer.map(|_| [Some(witness), by_address].into_iter().flatten())
        });
    }
    let mut answering = BTreeSet::new();
    while let Some(answer) = asked.join_next().await {
        answering.extend(answer.ok().flatten().into_iter().flatten());
    }
    answering
}

/// The address from which somebody answers.
async fn answers(witness: &Witness, ways: Ways) -> Option<IpAddr> {
    match witness {
        // Those who know the gateways ask them.
        Witness::Gateway => None,
        Witness::Router { address } if (ways.is_elsewhere)(*address) => {
            let (tx, rx) = oneshot::channel();
            let address = *address;
            // A thread of its own: one that Windows never answers must not keep the agent from ending.
            let asking = std::thread::Builder::new().name("witness".to_owned()).spawn(move || {
                // Nobody listens any more when the time is over.
                let _ = tx.send((ways.router)(address));
            });
            (asking.is_ok() && rx.await.unwrap_or(false)).then_some(address)
        }
        Witness::Dns { address } if (ways.is_elsewhere)(*address) => {
            server((*address, DNS).into()).await.then_some(*address)
        }
        Witness::Router { .. } | Witness::Dns { .. } => None,
        Witness::Port { host, port } => {
            let found = tokio::net::lookup_host((host.as_str(), *port)).await.ok()?;
            let mut asked = JoinSet::new();
            for address in found.filter(|address| (ways.is_elsewhere)(address.ip())) {
                asked.spawn(async move { self::port(address).await.then_some(address.ip()) });
            }
            while let Some(answer) = asked.join_next().await {
                if let Ok(Some(address)) = answer {
                    return Some(address);
                }
            }
            None
        }
    }
}

/// Whether a port takes a connection, or is refused by the one who has it.
async fn port(address: SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(_) => true,
        Err(error) => is_refusal(error.kind()),
    }
}

/// Whether a DNS server answers anything to a question that every one of them understands (RFC 1035):
/// for the name servers of the root.
async fn server(address: SocketAddr) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let Ok(socket) = tokio::net::UdpSocket::bind(any).await else { return false };
    // From here on only its answers come in.
    if socket.connect(address).await.is_err() {
        return false;
    }
    let id = (chance::number() as u16).to_be_bytes();
    let question = [id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let mut buffer = [0; 512];
    loop {
        if let Err(error) = socket.send(&question).await {
            return is_refusal(error.kind());
        }
        match tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            Ok(Ok(received)) if buffer[..received].starts_with(&id) => return true,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return is_refusal(error.kind()),
            // Whoever called us ends this when the time is over.
            Err(_) => {}
        }
    }
}

/// Refused by the other side. "No route" and "unreachable" are what the device says by itself, too.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

/// Whether an address is another device's: neither one that never leaves this one, nor one of its own.
pub fn is_elsewhere(address: IpAddr) -> bool {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Sends nothing: it only asks which of its addresses the device would send from.
    let own = UdpSocket::bind(any)
        .and_then(|socket| socket.connect((address, DNS)).and_then(|()| socket.local_addr()));
    own.is_ok_and(|own| own.ip() != address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUSTING: Ways =
        Ways { router: |address| address.to_string() == "10.0.0.1", is_elsewhere: |_| true };

    fn of(witness: Witness) -> BTreeSet<Witness> {
        BTreeSet::from([witness])
    }

    fn port_of(host: &str, port: u16) -> BTreeSet<Witness> {
        of(Witness::Port { host: host.to_owned(), port })
    }

    #[tokio::test]
    async fn a_port_that_takes_a_connection_or_refuses_it_is_an_answer_and_a_name_of_nobody_is_none()
     {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = port_of("127.0.0.1", listener.local_addr().unwrap().port());
        assert_eq!(answering(open.clone(), TRUSTING).await, open);
        drop(listener);
        assert_eq!(answering(open.clone(), TRUSTING).await, open, "refused");
        let nobody = port_of("nobody.invalid", 443);
        assert_eq!(answering(nobody, TRUSTING).await, BTreeSet::new());
    }

    #[tokio::test]
    async fn a_port_with_a_name_is_known_by_its_address_from_then_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = answering(port_of("localhost", port), TRUSTING).await;
        let is_address = |witness: &&Witness| matches!(witness, Witness::Port { host, .. } if host.parse::<IpAddr>().is_ok());
        assert!(answering.is_superset(&port_of("localhost", port)), "{answering:?}");
        assert_eq!(answering.iter().filter(is_address).count(), 1, "{answering:?}");
    }

    #[tokio::test]
    async fn what_the_device_says_to_itself_is_no_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let ways = Ways { is_elsewhere, router: |_| true };
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let mut asked = port_of("127.0.0.1", own);
        asked.extend(port_of("localhost", own));
        asked.insert(Witness::Router { address });
        asked.insert(Witness::Dns { address });
        asked.insert(Witness::Gateway);
        assert_eq!(answering(asked, ways).await, BTreeSet::new());
    }

    #[tokio::test]
    async fn a_router_is_asked_the_devices_way() {
        let router = |address: &str| of(Witness::Router { address: address.parse().unwrap() });
        assert_eq!(answering(router("10.0.0.1"), TRUSTING).await, router("10.0.0.1"));
        assert_eq!(answering(router("10.0.0.2"), TRUSTING).await, BTreeSet::new());
    }

    #[tokio::test]
    async fn any_answer_of_a_dns_server_counts_and_its_silence_does_not() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            // Somebody else's answer first, then a refusal (RCODE 5).
            socket.send_to(&[0xFF; 12], from).await.unwrap();
            buffer[2..4].copy_from_slice(&[0x81, 0x85]);
            socket.send_to(&buffer[..length], from).await.unwrap();
        });
        assert!(server(address).await);
        served.await.unwrap();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let asked = server(silent.local_addr().unwrap());
        assert!(tokio::time::timeout(Duration::from_millis(300), asked).await.is_err());
    }
}
