//! Which addresses the server may send requests to. A URL can be made to lead to services that trust everyone in their
//! network, such as a database or the metadata of a cloud machine; only the operator may permit that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uproar_http::addresses::Network;

/// How an address may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The operator has named it.
    Allowed,
    /// It is an address of the public internet.
    Public,
    /// It is private, or has a special meaning.
    Forbidden,
}

pub(super) fn access(address: IpAddr, allowed: &[Network]) -> Access {
    let address = address.to_canonical();
    if allowed.iter().any(|network| network.contains(address)) {
        return Access::Allowed;
    }
    let is_public = match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    };
    if is_public { Access::Public } else { Access::Forbidden }
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match a {
        // This network; private; loopback; multicast, reserved and broadcast.
        0 | 10 | 127 | 224.. => true,
        // Shared by the customers of a provider.
        100 => (64..128).contains(&b),
        // Link-local. Clouds serve the metadata of machines there.
        169 => b == 254,
        172 => (16..32).contains(&b),
        // Protocol assignments, documentation, the relays of 6to4, private.
        192 => matches!((b, c), (0, 0) | (0, 2) | (88, 99)) || b == 168,
        // Benchmarks, documentation.
        198 => matches!(b, 18 | 19) || (b, c) == (51, 100),
        203 => (b, c) == (0, 113),
        _ => false,
    };
    !is_special
}

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>
fn is_public_v6(address: Ipv6Addr) -> bool {
    let words = address.segments();
    // NAT64: where a network has IPv6 only, such an address stands for the IPv4 address at its end.
    if words[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(Ipv4Addr::from_bits(u32::from(words[6]) << 16 | u32::from(words[7])));
    }
    let is_special = match words[0] {
        // Protocol assignments such as Teredo, which contains an IPv4 address; documentation.
        0x2001 => words[1] < 0x200 || words[1] == 0xdb8,
        // 6to4, which contains an IPv4 address.
        0x2002 => true,
        // Documentation.
        0x3fff => words[1] < 0x1000,
        // All others that are assigned for global use are in 2000::/3.
        word => word & 0xe000 != 0x2000,
    };
    !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access_to(address: &str, allowed: &[&str]) -> Access {
        let allowed: Vec<Network> = allowed.iter().map(|network| network.parse().unwrap()).collect();
        access(address.parse().unwrap(), &allowed)
    }

    #[test]
    fn private_and_special_addresses_are_forbidden() {
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert_eq!(access_to(address, &[]), Access::Forbidden, "{address}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.1.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(access_to(address, &[]), Access::Public, "{address}");
        }
    }

    #[test]
    fn the_operator_can_allow_any_network() {
        let allowed = ["127.0.0.0/8", "fd00::/8"];
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert_eq!(access_to(address, &allowed), Access::Allowed, "{address}");
        }
        for address in ["10.0.0.1", "::1", "fc00::1"] {
            assert_eq!(access_to(address, &allowed), Access::Forbidden, "{address}");
        }
        assert_eq!(access_to("1.1.1.1", &allowed), Access::Public);
    }
}
