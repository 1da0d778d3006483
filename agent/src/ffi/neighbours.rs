//! Default gateways and DNS servers, and whether one of the former answers.
//!
//! Microsoft Learn, "GetAdaptersAddresses function" and "IcmpSendEcho function".

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use windows::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, NO_ERROR, WIN32_ERROR};
use windows::Win32::NetworkManagement::IpHelper::{
    GAA_FLAG_INCLUDE_GATEWAYS, GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_FRIENDLY_NAME,
    GAA_FLAG_SKIP_MULTICAST, GAA_FLAG_SKIP_UNICAST, GetAdaptersAddresses, ICMP_ECHO_REPLY,
    IP_ADAPTER_ADDRESSES_LH, IcmpCloseHandle, IcmpCreateFile, IcmpSendEcho,
};
use windows::Win32::NetworkManagement::Ndis::IfOperStatusUp;
use windows::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, AF_UNSPEC, SOCKADDR_IN, SOCKADDR_IN6, SOCKET_ADDRESS,
};
use windows::core::Result;

/// How long a router may take, milliseconds.
const ECHO_LIMIT_MS: u32 = 2_000;
/// IP_SUCCESS.
const SUCCESS: u32 = 0;

/// Those around the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Default gateways.
    pub routers: BTreeSet<IpAddr>,
    /// DNS servers.
    pub dns: BTreeSet<IpAddr>,
}

/// Default gateways and DNS servers of all adapters that are up; nobody where Windows does not tell.
pub fn neighbours() -> Neighbours {
    find_neighbours().unwrap_or_default()
}

/// The same.
///
/// # Errors
/// Windows does not tell.
pub fn find_neighbours() -> Result<Neighbours> {
    // u64 keeps the records that Windows writes into it aligned.
    let mut buffer: Vec<u64> = vec![0; 2_048];
    // The list may grow between the call that tells its size and the next one.
    for _ in 0..5 {
        let mut bytes = u32::try_from(buffer.len() * 8).unwrap_or(u32::MAX);
        let flags = GAA_FLAG_INCLUDE_GATEWAYS
            | GAA_FLAG_SKIP_UNICAST
            | GAA_FLAG_SKIP_ANYCAST
            | GAA_FLAG_SKIP_MULTICAST
            | GAA_FLAG_SKIP_FRIENDLY_NAME;
        let first = buffer.as_mut_ptr().cast::<IP_ADAPTER_ADDRESSES_LH>();
        // SAFETY: the buffer is as long as `bytes` says, and both live through the call.
        let answer = unsafe {
            GetAdaptersAddresses(u32::from(AF_UNSPEC.0), flags, None, Some(first), &mut bytes)
        };
        if answer == NO_ERROR.0 {
            return Ok(read(first));
        }
        if answer != ERROR_BUFFER_OVERFLOW.0 {
            return Err(WIN32_ERROR(answer).into());
        }
        buffer = vec![0; bytes as usize / 8 + 512];
    }
    Err(ERROR_BUFFER_OVERFLOW.into())
}

fn read(first: *const IP_ADAPTER_ADDRESSES_LH) -> Neighbours {
    let mut neighbours = Neighbours::default();
    let mut next = first;
    // SAFETY: Windows linked the records within the caller's buffer, and ends each list with null.
    while let Some(adapter) = unsafe { next.as_ref() } {
        next = adapter.Next;
        if adapter.OperStatus != IfOperStatusUp {
            continue;
        }
        let mut gateway = adapter.FirstGatewayAddress;
        // SAFETY: as above.
        while let Some(entry) = unsafe { gateway.as_ref() } {
            neighbours.routers.extend(address(&entry.Address));
            gateway = entry.Next;
        }
        let mut server = adapter.FirstDnsServerAddress;
        // SAFETY: as above.
        while let Some(entry) = unsafe { server.as_ref() } {
            neighbours.dns.extend(address(&entry.Address));
            server = entry.Next;
        }
    }
    neighbours
}

/// An address without its port. Those that hold on one link alone are left out: without the adapter
/// they say nothing, and adapters have other numbers after a restart.
fn address(entry: &SOCKET_ADDRESS) -> Option<IpAddr> {
    let length = usize::try_from(entry.iSockaddrLength).unwrap_or(0);
    // SAFETY: Windows points at a socket address in the caller's buffer, or at nothing.
    let family = unsafe { entry.lpSockaddr.as_ref()? }.sa_family;
    if family == AF_INET && length >= size_of::<SOCKADDR_IN>() {
        // SAFETY: the family and the length say what it is; it may lie anywhere.
        let four = unsafe { entry.lpSockaddr.cast::<SOCKADDR_IN>().read_unaligned() };
        // SAFETY: every view of four bytes is one.
        let bytes = unsafe { four.sin_addr.S_un.S_addr }.to_ne_bytes();
        return Some(Ipv4Addr::from(bytes).into());
    }
    if family == AF_INET6 && length >= size_of::<SOCKADDR_IN6>() {
        // SAFETY: as above.
        let six = unsafe { entry.lpSockaddr.cast::<SOCKADDR_IN6>().read_unaligned() };
        // SAFETY: every view of sixteen bytes is one.
        let six = Ipv6Addr::from(unsafe { six.sin6_addr.u.Byte });
        return (!six.is_unicast_link_local()).then_some(six.into());
    }
    None
}

/// Whether a router answers an echo request. Asks IPv4 only, like the list above: routers of IPv6 are
/// named by addresses of one link.
pub fn answers_echo(router: IpAddr) -> bool {
    let IpAddr::V4(router) = router else { return false };
    // SAFETY: takes nothing; the handle is closed below.
    let Ok(handle) = (unsafe { IcmpCreateFile() }) else { return false };
    let data = *b"wardring";
    // Room for the reply, the data, and the eight bytes of an ICMP error; u64 keeps it aligned.
    let mut reply = [0_u64; (size_of::<ICMP_ECHO_REPLY>() + 64) / 8];
    // SAFETY: data and reply live through the call and are as long as it is told.
    let count = unsafe {
        IcmpSendEcho(
            handle,
            u32::from_ne_bytes(router.octets()),
            data.as_ptr().cast(),
            8,
            None,
            reply.as_mut_ptr().cast(),
            size_of_val(&reply) as u32,
            ECHO_LIMIT_MS,
        )
    };
    // SAFETY: it was made above, and nobody uses it any more.
    let _ = unsafe { IcmpCloseHandle(handle) };
    // SAFETY: a record of plain numbers and pointers that are not followed; all zero is one, too.
    let first = unsafe { reply.as_ptr().cast::<ICMP_ECHO_REPLY>().read() };
    // Another router's word that this one is out of reach is a reply as well.
    count > 0 && first.Status == SUCCESS && first.Address == u32::from_ne_bytes(router.octets())
}

/// Opens what echo requests are sent with, and closes it.
///
/// # Errors
/// Windows refuses.
pub fn can_echo() -> Result<()> {
    // SAFETY: takes nothing; what is opened is closed at once, and nobody else has it.
    unsafe { IcmpCloseHandle(IcmpCreateFile()?) }
}
