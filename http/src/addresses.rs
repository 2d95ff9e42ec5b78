//! The address of a request's client, including clients behind trusted proxies.

use http::HeaderMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::str::FromStr;

/// The length of the prefix of the IPv6 addresses that stand for IPv4 ones (`::ffff:0:0/96`).
const MAPPED_BITS: u32 = 96;

/// A block of addresses in CIDR form, `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// The length of the prefix.
    bits: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("'{0}' is neither an address nor a network; examples are 10.1.2.3, 10.0.0.0/8 and fd00::/8")]
    Form(String),
    #[error("'{0}' has bits after its prefix; the network is {1}, and the single address {2}")]
    Bits(String, Network, IpAddr),
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let error = || NetworkError::Form(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = match bits {
            // `parse` would accept a sign.
            Some(bits) if !bits.bytes().all(|byte| byte.is_ascii_digit()) => return Err(error()),
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= width).ok_or_else(error)?,
            None => width,
        };
        // Addresses are compared in canonical form.
        let (address, bits) = match (address.to_canonical(), bits.checked_sub(MAPPED_BITS)) {
            (canonical, Some(bits)) if canonical != address => (canonical, bits),
            _ => (address, bits),
        };
        let network = Network { address: masked(address, bits), bits };
        match network.address == address {
            true => Ok(network),
            false => Err(NetworkError::Bits(text.to_owned(), network, address)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

/// The address with only the first `bits` of its bits.
fn masked(address: IpAddr, bits: u32) -> IpAddr {
    // An empty prefix would shift by the full width, which `checked_shl` refuses.
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into(),
    }
}

/// The client's address: the peer's or, if the peer is a trusted proxy, the rightmost address that it reports and that
/// is not a trusted proxy. The client may have forged everything to the left of it.
///
/// The reports are those in `X-Forwarded-For` or, in a request without that header, in `Forwarded` (RFC 7239).
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_proxy = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if !is_proxy(client) {
        return client;
    }
    let mut reported: Vec<&str> = elements(headers, "x-forwarded-for").collect();
    if reported.is_empty() {
        reported = forwarded(headers, "for").collect();
    }
    for node in reported.into_iter().rev() {
        // No trusted proxy writes a node that is not an address, so the previous one is the last that can be trusted.
        let Some(address) = node_address(node) else { break };
        client = address.to_canonical();
        if !is_proxy(client) {
            break;
        }
    }
    client
}

/// Whether a trusted proxy reports that the client's request was encrypted. If several proxies report, one is enough,
/// because the consequences are only ever stricter.
pub fn is_via_https(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> bool {
    is_trusted(peer, trusted)
        && elements(headers, "x-forwarded-proto")
            .chain(forwarded(headers, "proto"))
            .any(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// Whether the peer belongs to a trusted network.
pub fn is_trusted(peer: IpAddr, trusted: &[Network]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|network| network.contains(peer))
}

/// Whether the peer speaks for another client like a proxy, but is not trusted.
pub fn is_from_untrusted_proxy(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> bool {
    ["x-forwarded-for", "x-forwarded-proto", "forwarded"].iter().any(|name| headers.contains_key(*name))
        && !is_trusted(peer, trusted)
}

/// The elements of a header's comma-separated lists. Some proxies leave empty ones.
fn elements<'h>(headers: &'h HeaderMap, name: &'static str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// The values of a parameter in the elements of `Forwarded`.
fn forwarded<'h>(headers: &'h HeaderMap, name: &'static str) -> impl Iterator<Item = &'h str> {
    elements(headers, "forwarded").flat_map(|element| element.split(';')).filter_map(move |pair| {
        let (known, value) = pair.split_once('=')?;
        known.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The address of a node as proxies write it: alone, with a port, in brackets, with a zone.
fn node_address(node: &str) -> Option<IpAddr> {
    let node = node.trim_matches('"');
    if let Some(bracketed) = node.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let is_port = rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        return (rest.is_empty() || is_port).then(|| without_zone(address).parse().ok()).flatten();
    }
    if let Ok(address) = without_zone(node).parse() {
        return Some(address);
    }
    node.parse::<SocketAddrV4>().ok().map(|address| IpAddr::V4(*address.ip()))
}

/// A link-local address names the interface that it is reached through, which says nothing here.
fn without_zone(address: &str) -> &str {
    address.split_once('%').map_or(address, |(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::1"),
            ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(ip(inside)), "{inside}");
            assert!(!network.contains(ip(outside)), "{outside}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("203.0.113.9")));
        assert!("::/0".parse::<Network>().unwrap().contains(ip("2001:db8::1")));
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "example.com"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Form(text.to_owned())));
        }
        for (text, network) in [
            ("10.0.0.5/8", "10.0.0.0/8"),
            ("10.0.0.5/0", "0.0.0.0/0"),
            ("fd00::1/8", "fd00::/8"),
            ("::ffff:10.0.0.5/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/90", "::ffc0:0:0/90"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("'{text}' has bits after its prefix; the network is {network}, ")),
                "{error}"
            );
        }
    }

    #[test]
    fn forwarded_addresses_count_only_if_the_peer_is_a_trusted_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let client = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            client_address(ip(peer), &headers, &trusted).to_string()
        };
        assert_eq!(client("203.0.113.1", &["198.51.100.1"]), "203.0.113.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, nonsense"]), "10.0.0.1");
    }

    #[test]
    fn every_form_of_an_address_that_proxies_write_is_read() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let client = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
            client_address(ip("10.0.0.1"), &headers, &trusted).to_string()
        };
        for (value, expected) in [
            ("203.0.113.7:51234", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:51234", "2001:db8::1"),
            ("\"[2001:db8::1]:51234\"", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("fe80::1%eth0", "fe80::1"),
            ("203.0.113.7,", "203.0.113.7"),
            (" 203.0.113.7 , , 10.0.0.2:80 ,", "203.0.113.7"),
            ("203.0.113.7, unknown", "10.0.0.1"),
            ("203.0.113.7, [2001:db8::1]x", "10.0.0.1"),
            ("203.0.113.7:port", "10.0.0.1"),
        ] {
            assert_eq!(client("x-forwarded-for", value), expected, "{value}");
        }
        for (value, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("For=\"203.0.113.7:51234\";proto=http;by=10.0.0.9", "203.0.113.7"),
            ("for=1.1.1.1, for=\"[2001:db8::1]:51234\", for=10.0.0.2", "2001:db8::1"),
            ("proto=https", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("for=_hidden, for=203.0.113.7", "203.0.113.7"),
        ] {
            assert_eq!(client("forwarded", value), expected, "{value}");
        }
        // A client behind a proxy that writes `X-Forwarded-For` can't speak for it in the other header.
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", "for=1.1.1.1".parse().unwrap());
        headers.insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
        assert_eq!(client_address(ip("10.0.0.1"), &headers, &trusted), ip("203.0.113.7"));
    }

    #[test]
    fn a_peer_that_speaks_for_others_without_being_trusted_is_noticed() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for name in ["x-forwarded-for", "x-forwarded-proto", "forwarded"] {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), "x".parse().unwrap())]);
            assert!(is_from_untrusted_proxy(ip("203.0.113.1"), &headers, &trusted), "{name}");
            assert!(!is_from_untrusted_proxy(ip("10.0.0.1"), &headers, &trusted), "{name}");
        }
        assert!(!is_from_untrusted_proxy(ip("203.0.113.1"), &HeaderMap::new(), &trusted));
    }

    #[test]
    fn only_a_trusted_proxy_can_report_https() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let via_https = |peer: &str, schemes: &[&str]| {
            let mut headers = HeaderMap::new();
            for scheme in schemes {
                headers.append("x-forwarded-proto", scheme.parse().unwrap());
            }
            is_via_https(ip(peer), &headers, &trusted)
        };
        assert!(via_https("10.0.0.1", &["https"]));
        assert!(via_https("::ffff:10.0.0.1", &["HTTPS, http"]));
        assert!(via_https("10.0.0.1", &["http", "https"]));
        assert!(!via_https("10.0.0.1", &["http"]));
        assert!(!via_https("10.0.0.1", &["httpsx"]));
        assert!(!via_https("10.0.0.1", &[]));
        assert!(!via_https("203.0.113.1", &["https"]));
        let forwarded = HeaderMap::from_iter([(http::header::FORWARDED, "for=1.1.1.1;proto=https".parse().unwrap())]);
        assert!(is_via_https(ip("10.0.0.1"), &forwarded, &trusted));
    }
}
