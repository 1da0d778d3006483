//! Which addresses may be connected to.
//!
//! Public ones may. Those that mean something inside of a network only if an administrator listed them,
//! and those that no gate can be behind never: the metadata services of clouds give away credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Listing it changes nothing.
    #[error("{0} is never connected to: it is no host's, or a cloud's metadata service")]
    Never(IpAddr),
    /// It is not public and not listed.
    #[error("{0} is not a public address, and no allowed network holds it")]
    NotListed(IpAddr),
    /// Over plain HTTP also public addresses have to be listed.
    #[error("{0} would be asked over plain HTTP, and no allowed network holds it")]
    Plain(IpAddr),
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No network at all.
    #[error("{text:?} is not a network like `10.20.0.0/16` or `fd12:3456::/48`")]
    Unreadable {
        /// The refused text.
        text: String,
    },
    /// Bits are set behind the prefix.
    #[error("{text:?} has bits behind its prefix; it lies in {network}")]
    HostBits {
        /// The refused text.
        text: String,
        /// What was probably meant.
        network: String,
    },
    /// Somebody listed half of the world.
    #[error("{text:?} is too wide: at least /8 for IPv4 and /16 for IPv6")]
    TooWide {
        /// The refused text.
        text: String,
    },
}

impl Network {
    /// Reads `10.20.0.0/16`. An address alone is a network of one.
    pub fn parse(text: &str) -> Result<Network, NetworkError> {
        let unreadable = || NetworkError::Unreadable { text: text.to_owned() };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| unreadable())?;
        let (width, narrowest) = if base.is_ipv4() { (32, 8) } else { (128, 16) };
        let bits = match bits {
            None => width,
            Some(bits) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= width).ok_or_else(unreadable)?
            }
            Some(_) => return Err(unreadable()),
        };
        if bits < narrowest {
            return Err(NetworkError::TooWide { text: text.to_owned() });
        }
        let network = Network { base: masked(base, bits), bits };
        if network.base != base {
            let network = format!("{}/{bits}", network.base);
            return Err(NetworkError::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }

    /// Whether `address` lies in it.
    pub fn holds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.base.is_ipv4() && masked(address, self.bits) == self.base
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// What an administrator allowed beside public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    networks: Vec<Network>,
    must_be_listed: bool,
}

impl Allowed {
    /// These networks, and every public address.
    pub fn networks(networks: Vec<Network>) -> Allowed {
        Allowed { networks, must_be_listed: false }
    }

    /// These networks and nothing else: for plain HTTP.
    pub fn only(networks: Vec<Network>) -> Allowed {
        Allowed { networks, must_be_listed: true }
    }

    /// Whether `address` may be connected to.
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        // `::ffff:10.0.0.1` is 10.0.0.1 to every socket.
        let address = address.to_canonical();
        let inner = embedded(address);
        let reached = [Some(address), inner.map(IpAddr::V4)];
        if reached.into_iter().flatten().any(is_nobodys) {
            return Err(Forbidden::Never(address));
        }
        // What a translator makes of an address is where it leads.
        let judged = inner.filter(|_| is_nat64(address)).map_or(address, IpAddr::V4);
        let is_listed = self.networks.iter().any(|network| network.holds(judged));
        let is_open = match inner {
            // Networks without IPv4 reach the rest of the world through such addresses.
            Some(inner) if is_nat64(address) => is_public(inner.into()),
            // Other ways to write an IPv4 address into an IPv6 one lead nowhere a gate is.
            Some(_) => false,
            None => is_public(address),
        };
        match (is_listed, self.must_be_listed, is_open) {
            (true, ..) | (false, false, true) => Ok(()),
            (false, true, true) => Err(Forbidden::Plain(address)),
            (false, _, false) => Err(Forbidden::NotListed(address)),
        }
    }
}

/// Well-known addresses of metadata services that are not link-local, and those that are: they hand out
/// credentials to whoever asks from inside.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 252)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 23)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Unspecified (the own host, to some systems), multicast, broadcast, reserved, metadata.
fn is_nobodys(address: IpAddr) -> bool {
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(address) => matches!(address.octets()[0], 0 | 224..=255),
            IpAddr::V6(address) => address.is_unspecified() || address.is_multicast(),
        }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(
            address.octets(),
            [0 | 10 | 127 | 224..=255, ..]
                | [100, 64..=127, ..]
                | [169, 254, ..]
                | [172, 16..=31, ..]
                | [192, 168, ..]
                | [192, 0, 0 | 2, _]
                | [192, 88, 99, _]
                | [198, 18 | 19, ..]
                | [198, 51, 100, _]
                | [203, 0, 113, _]
        ),
        // Of all that is possible only 2000::/3 is given out as global, and not all of that.
        IpAddr::V6(address) => match address.segments() {
            [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
            [0x3fff, second, ..] => second >= 0x1000,
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

/// The IPv4 address inside of an IPv6 one that translates to it.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        // IPv4-compatible; `::1` is none.
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(of(g, h)),
        // Translated (SIIT).
        [0, 0, 0, 0, 0xffff, 0] => Some(of(g, h)),
        // NAT64, the well-known prefix and the local ones.
        [0x64, 0xff9b, ..] => Some(of(g, h)),
        // 6to4.
        [0x2002, high, low, ..] => Some(of(high, low)),
        // Teredo, whose client address is written inverted.
        [0x2001, 0, ..] => Some(of(!g, !h)),
        // ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe] => Some(of(g, h)),
        _ => None,
    }
}

fn is_nat64(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_reads_back_and_nothing_vague_is_one() {
        let network = Network::parse("10.20.0.0/16").unwrap();
        assert!(network.holds("10.20.255.1".parse().unwrap()));
        assert!(!network.holds("10.21.0.1".parse().unwrap()));
        assert!(!network.holds("::ffff:10.20.0.1".parse().unwrap()), "judged as IPv4 before");
        let one = Network::parse("fd12:3456::7").unwrap();
        assert!(one.holds("fd12:3456::7".parse().unwrap()));
        assert!(!one.holds("fd12:3456::8".parse().unwrap()));
        for text in ["", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "fe80::1%eth0/64"] {
            let refused = Network::parse(text);
            assert!(matches!(refused, Err(NetworkError::Unreadable { .. })), "{text}: {refused:?}");
        }
        assert!(matches!(Network::parse("10.1.0.0/8"), Err(NetworkError::HostBits { .. })));
        for text in ["0.0.0.0/0", "::/0", "8.0.0.0/7", "fd00::/8"] {
            assert!(matches!(Network::parse(text), Err(NetworkError::TooWide { .. })), "{text}");
        }
    }

    #[test]
    fn listing_opens_what_is_listed_and_never_a_metadata_service() {
        let listed = ["10.20.0.0/16", "169.254.0.0/16", "fd00:ec2::/32", "100.64.0.0/10"];
        let allowed =
            Allowed::networks(listed.iter().map(|text| Network::parse(text).unwrap()).collect());
        let judge = |text: &str| allowed.judge(text.parse().unwrap());
        for text in
            ["10.20.0.1", "::ffff:10.20.0.1", "64:ff9b::10.20.0.1", "169.254.1.1", "9.9.9.9"]
        {
            assert_eq!(judge(text), Ok(()), "{text}");
        }
        for text in ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"] {
            assert!(matches!(judge(text), Err(Forbidden::Never(_))), "{text}");
        }
        for text in ["fd00:ec2::254", "100.100.100.200", "0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            assert!(matches!(judge(text), Err(Forbidden::Never(_))), "{text}");
        }
        for text in ["10.21.0.1", "2002:0a14:0001::1", "::10.20.0.1", "127.0.0.1", "::1"] {
            assert!(matches!(judge(text), Err(Forbidden::NotListed(_))), "{text}");
        }
    }

    #[test]
    fn plain_http_goes_to_listed_networks_only() {
        let allowed = Allowed::only(vec![Network::parse("10.20.0.0/16").unwrap()]);
        assert_eq!(allowed.judge("10.20.0.1".parse().unwrap()), Ok(()));
        let public = allowed.judge("9.9.9.9".parse().unwrap());
        assert!(matches!(public, Err(Forbidden::Plain(_))), "{public:?}");
    }
}
