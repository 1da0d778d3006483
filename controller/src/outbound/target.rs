//! Addresses as administrators write them: `https://HOST[:PORT][/PATH]` and nothing else.
//!
//! Stricter than the standard on purpose. What browsers and resolvers read differently (numbers of all
//! kinds as an IPv4 address, users, escapes, zones) is no address here, so nobody can disagree about
//! the host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Longest address.
const MAX: usize = 512;

/// How to speak to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `https://`
    Https,
    /// `http://`
    Http,
}

/// The host, in the one way it can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name to look up, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => out.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(out, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
        }
    }
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How to speak.
    pub scheme: Scheme,
    /// With whom.
    pub host: Host,
    /// At which port.
    pub port: u16,
    /// Below which path; empty, or it begins with a slash and does not end with one.
    pub path: String,
}

/// Why a text is no address. None of these repeats the text: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Another scheme.
    #[error("the address must begin with `https://`")]
    Scheme,
    /// A user or a password.
    #[error("the address holds a user or password; put credentials into a Secret")]
    Credentials,
    /// A query or a fragment.
    #[error("the address must have no query and no fragment; put credentials into a Secret")]
    Query,
    /// The host.
    #[error("the host is neither a DNS name nor an address such as `192.0.2.7` or `[2001:db8::7]`")]
    Host,
    /// The port.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// The path.
    #[error("the path may hold letters, digits and `-._~/` and must not climb")]
    Path,
    /// Longer than anybody needs.
    #[error("the address is longer than 512 characters")]
    TooLong,
}

impl Target {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        if text.len() > MAX {
            return Err(TargetError::TooLong);
        }
        let (scheme, rest, standard) = if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest, 443)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (Scheme::Http, rest, 80)
        } else {
            return Err(TargetError::Scheme);
        };
        // Anywhere: what is a user to one reader is a path to another one.
        if rest.contains('@') {
            return Err(TargetError::Credentials);
        }
        if rest.contains(['?', '#']) {
            return Err(TargetError::Query);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = split_port(authority)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        let climbs = |part: &str| part == "." || part == "..";
        if !path.bytes().all(is_plain)
            || path.split('/').any(climbs)
            || path.contains("//")
            || path == "/"
        {
            return Err(TargetError::Path);
        }
        Ok(Target {
            scheme,
            host: parse_host(host)?,
            port: port.unwrap_or(standard),
            path: path.to_owned(),
        })
    }

    /// What stands in the request's header `Host`.
    pub fn authority(&self) -> String {
        match (self.scheme, self.port) {
            (Scheme::Https, 443) | (Scheme::Http, 80) => self.host.to_string(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), TargetError> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']').ok_or(TargetError::Host)? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    if rest.is_empty() {
        return Ok((host, None));
    }
    let digits = rest.strip_prefix(':').ok_or(TargetError::Host)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TargetError::Port);
    }
    let port = digits.parse().ok().filter(|port| *port != 0).ok_or(TargetError::Port)?;
    Ok((host, Some(port)))
}

fn parse_host(host: &str) -> Result<Host, TargetError> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(TargetError::Host)?;
        // The standard library reads no zone (`%eth0`), which would choose an interface.
        let address: Ipv6Addr = inner.parse().map_err(|_| TargetError::Host)?;
        return Ok(Host::Address(address.into()));
    }
    // Four decimal numbers without leading zeros.
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label that begins with a digit is a number to the resolver in one of its many
    // notations (2130706433, 0x7f000001, 017700000001, 127.1); no top-level domain does.
    let last_is_number =
        host.rsplit('.').next().is_none_or(|last| last.starts_with(|c: char| c.is_ascii_digit()));
    if host.len() > 253 || last_is_number || !host.split('.').all(is_label) {
        return Err(TargetError::Host);
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}
