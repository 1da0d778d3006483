//! Resolving a name: as the device itself does, or by asking one server (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::chance;

/// Pause before an unanswered question is sent again: UDP loses some.
const AGAIN: Duration = Duration::from_secs(2);

/// Asks.
pub(super) async fn ask(name: &str, server: Option<&str>) -> Result<(), String> {
    let Some(server) = server else {
        let mut found = tokio::net::lookup_host((name, 0))
            .await
            .map_err(|error| format!("{name} is not resolved: {error}"))?;
        return match found.next() {
            Some(_) => Ok(()),
            None => Err(format!("{name} has no address")),
        };
    };
    let address: IpAddr = server.parse().map_err(|_| format!("{server:?} is not an IP address"))?;
    ask_server(name, (address, 53).into()).await
}

async fn ask_server(name: &str, server: SocketAddr) -> Result<(), String> {
    let failed =
        |error: std::io::Error| format!("the DNS server {server} cannot be asked: {error}");
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    // From here on only its answers come in.
    socket.connect(server).await.map_err(failed)?;
    let id = chance::number() as u16;
    let question = question(name, id)?;
    let mut buffer = [0; 1500];
    loop {
        socket.send(&question).await.map_err(failed)?;
        match tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            Ok(received) => {
                let received = received.map_err(failed)?;
                if let Some(verdict) = judge(name, id, &buffer[..received]) {
                    return verdict;
                }
            }
            // Whoever called us ends this when the time is over.
            Err(_) => continue,
        }
    }
}

/// A question for the address of `name`; for the root, which has none, for its name servers.
fn question(name: &str, id: u16) -> Result<Vec<u8>, String> {
    let kind: u16 = if name == "." { 2 } else { 1 };
    let mut packet = Vec::with_capacity(name.len() + 18);
    packet.extend_from_slice(&id.to_be_bytes());
    // A standard query, recursion desired, one question.
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|length| *length < 64);
        packet.push(length.ok_or_else(|| format!("{name:?} is not a DNS name"))?);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&1_u16.to_be_bytes());
    Ok(packet)
}

/// Reads an answer; nothing where it is not one to our question.
fn judge(name: &str, id: u16, packet: &[u8]) -> Option<Result<(), String>> {
    let header: &[u8; 12] = packet.first_chunk()?;
    let is_ours = header[..2] == id.to_be_bytes() && header[2] & 0x80 != 0;
    if !is_ours {
        return None;
    }
    let (code, answers) = (header[3] & 0x0F, u16::from_be_bytes([header[6], header[7]]));
    Some(match code {
        // The server is alive, and whether it knows the way to the root is another matter.
        _ if name == "." => Ok(()),
        0 if answers > 0 => Ok(()),
        0 => Err(format!("the DNS server knows no address of {name}")),
        3 => Err(format!("the DNS server says that {name} does not exist")),
        code => Err(format!("the DNS server answers for {name} with code {code}")),
    })
}

#[cfg(fuzzing)]
pub(super) fn judge_anything(bytes: &[u8]) {
    // The id of an answer that is ours, so that the rest is looked at, too.
    let id = bytes.first_chunk().map_or(7, |id| u16::from_be_bytes(*id));
    let _ = judge("a.example", id, bytes);
    if let Ok(name) = std::str::from_utf8(bytes) {
        let _ = question(name, id);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_form_of_the_standard() {
        let asked = question("a.example", 0x1234).unwrap();
        let expected = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01".as_slice();
        assert_eq!(asked, expected);
        assert_eq!(question(".", 0).unwrap()[12..], [0, 0, 2, 0, 1]);
        assert!(question(&"a".repeat(64), 0).is_err());
    }

    #[test]
    fn only_an_answer_to_our_question_counts() {
        let answer = |id: u16, flags: u8, code: u8, answers: u8| {
            let id = id.to_be_bytes();
            vec![id[0], id[1], flags, code, 0, 1, 0, answers, 0, 0, 0, 0]
        };
        assert_eq!(judge("a.example", 7, &answer(7, 0x81, 0, 1)), Some(Ok(())));
        assert_eq!(judge("a.example", 7, &answer(8, 0x81, 0, 1)), None, "another question's");
        assert_eq!(judge("a.example", 7, &answer(7, 0x01, 0, 1)), None, "our own question");
        assert_eq!(judge("a.example", 7, b"short"), None);
        for (code, answers) in [(0, 0), (2, 0), (3, 0), (5, 1)] {
            let verdict = judge("a.example", 7, &answer(7, 0x81, code, answers));
            assert!(matches!(verdict, Some(Err(_))), "{code}");
            assert_eq!(judge(".", 7, &answer(7, 0x81, code, answers)), Some(Ok(())));
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_arrives_is_borne(
            packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            name in "[a-z.]{0,80}",
        ) {
            let _ = (judge("a.example", 7, &packet), question(&name, 7));
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_again_when_its_answer_was_lost() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let asking = tokio::spawn(async move { ask_server("a.example", address).await });
        let mut packet = [0; 512];
        let (count, _) = server.recv_from(&mut packet).await.unwrap();
        let first = packet[..count].to_vec();
        let (count, from) = server.recv_from(&mut packet).await.unwrap();
        assert_eq!(packet[..count], first);
        packet[2] |= 0x80;
        packet[7] = 1;
        server.send_to(&packet[..count], from).await.unwrap();
        assert_eq!(asking.await.unwrap(), Ok(()));
    }
}
