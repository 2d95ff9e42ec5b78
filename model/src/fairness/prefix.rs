//! Who a stranger is: a block of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A block of addresses that counts as one stranger: a single IPv4 address, or an IPv6 network of 64, 56 or 48 bits.
///
/// An IPv6 host can use every address of its /64, so a single address means nothing. Providers give a customer a /56 or
/// a /48 (RFC 6177), so the owner of many /64s may still be one stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// The smallest block of an address: the IPv4 address itself (also in its IPv6 form `::ffff:…`), or the IPv6 /64.
    pub fn of(address: IpAddr) -> Prefix {
        match address.to_canonical() {
            IpAddr::V4(address) => Prefix { address: address.into(), bits: 32 },
            IpAddr::V6(address) => Prefix { address: first(address, 64), bits: 64 },
        }
    }

    /// The next larger block around this one; none around an IPv4 address or a /48.
    pub fn wider(self) -> Option<Prefix> {
        let IpAddr::V6(address) = self.address else { return None };
        let bits = self.bits.checked_sub(8).filter(|bits| *bits >= 48)?;
        Some(Prefix { address: first(address, bits), bits })
    }

    /// The blocks around an address, the smallest one first.
    pub fn all(address: IpAddr) -> impl Iterator<Item = Prefix> {
        std::iter::successors(Some(Prefix::of(address)), |prefix| prefix.wider())
    }

    /// The largest block around an address.
    pub fn widest(address: IpAddr) -> Prefix {
        match Prefix::of(address) {
            Prefix { address: IpAddr::V6(address), .. } => Prefix { address: first(address, 48), bits: 48 },
            prefix => prefix,
        }
    }

    /// How many times the share of a single stranger this block gets: 1, 2 for a /56, 4 for a /48. Most blocks belong
    /// to one customer, but in some of them there are several.
    pub fn weight(self) -> u64 {
        match (self.address, self.bits) {
            (IpAddr::V6(_), 56) => 2,
            (IpAddr::V6(_), 48) => 4,
            _ => 1,
        }
    }
}

/// The first address of the block of this size around an address.
fn first(address: Ipv6Addr, bits: u8) -> IpAddr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask).into()
}

/// `192.0.2.1`, `2001:db8::/64`.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/{}", self.bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(address: &str) -> Vec<String> {
        Prefix::all(address.parse().unwrap()).map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn an_ipv4_address_is_one_stranger_in_either_form() {
        assert_eq!(all("192.0.2.1"), ["192.0.2.1"]);
        assert_eq!(all("::ffff:192.0.2.1"), ["192.0.2.1"]);
    }

    #[test]
    fn an_ipv6_address_stands_for_its_networks() {
        let networks = ["2001:db8:1:abcd::/64", "2001:db8:1:ab00::/56", "2001:db8:1::/48"];
        assert_eq!(all("2001:db8:1:abcd:1:2:3:4"), networks);
        let weights: Vec<u64> =
            Prefix::all("2001:db8:1:abcd::1".parse().unwrap()).map(|prefix| prefix.weight()).collect();
        assert_eq!(weights, [1, 2, 4]);
        for address in ["192.0.2.1", "2001:db8:1:abcd::1", "::1"] {
            let address = address.parse().unwrap();
            assert_eq!(Some(Prefix::widest(address)), Prefix::all(address).last());
        }
    }
}
