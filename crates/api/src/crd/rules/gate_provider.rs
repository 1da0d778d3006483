//! Rules of GateProvider.

use super::{Rule, SHORT_NAME, rule};

const UP_TO_TEN_SECONDS: &str =
    "!self.contains('d') && duration(self) > duration('0s') && duration(self) <= duration('10s')";

pub(super) const RULES: &[Rule] = &[
    rule(
        "",
        SHORT_NAME,
        "metadata.name: must have at most 63 characters, because every sentence about a gate names it",
    ),
    rule(
        "spec.url",
        "self.matches('^https?://[^@?#/]+(/[^@?#]*)?$')",
        "spec.url: must look like `https://HOST[:PORT][/PATH]`, without user, query and fragment; credentials belong into a Secret",
    ),
    rule(
        "spec",
        "self.url.startsWith('https://') || (self.allowHttp && has(self.allowedNetworks) && size(self.allowedNetworks) > 0)",
        "spec.url: must begin with `https://`, unless `allowHttp` is true and `allowedNetworks` names where the host is",
    ),
    rule(
        "spec.allowedNetworks",
        "self.all(network, isCIDR(network) ? cidr(network).prefixLength() >= (cidr(network).ip().family() == 4 ? 8 : 16) : isIP(network))",
        "spec.allowedNetworks: every entry must be a network such as `10.20.0.0/16`, at least /8 for IPv4 and /16 for IPv6, or an address",
    ),
    rule(
        "spec.timeout",
        UP_TO_TEN_SECONDS,
        "spec.timeout: must be longer than zero and at most `10s`",
    ),
    rule(
        "spec.auth",
        "!self.secret.startsWith('wardring-')",
        "spec.auth.secret: must not be one of Wardring's own; make a Secret for this provider",
    ),
    rule(
        "spec",
        "!has(self.auth) || self.url.startsWith('https://')",
        "spec.auth: needs an address that begins with `https://`; over plain HTTP everybody on the way would read it",
    ),
];
