//! The small subnet of the proxy's network: chosen here, because an engine's own pools hold about
//! thirty networks and no more.

use std::net::{IpAddr, Ipv4Addr};

use forge_core::egress::AddressRange;

/// Ranges of private addresses at ends where few networks are, 512 subnets in each.
const BLOCKS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 231, 240, 0),
    Ipv4Addr::new(172, 29, 240, 0),
    Ipv4Addr::new(192, 168, 240, 0),
];
/// Room for the engine's end, the proxy, and the two addresses no machine has.
const PREFIX: u8 = 29;
const SIZE: u32 = 1 << (32 - PREFIX as u32);
const PER_BLOCK: usize = 512;

/// Subnets that overlap none of `taken`, beginning anywhere: two processes that choose at once
/// rarely choose the same.
pub(super) fn free(taken: &[AddressRange], seed: u32) -> impl Iterator<Item = AddressRange> {
    let count = BLOCKS.len() * PER_BLOCK;
    let start = usize::try_from(seed).unwrap_or(0) % count;
    (0..count)
        .map(move |step| nth((start + step) % count))
        .filter(move |subnet| !taken.iter().any(|range| overlap(range, subnet)))
}

/// Neighbours in the order are in different blocks, so that one block that is in use somewhere
/// unseen does not use up all attempts.
fn nth(index: usize) -> AddressRange {
    let block = BLOCKS[index % BLOCKS.len()];
    // Below 512.
    let number = u32::try_from(index / BLOCKS.len()).unwrap_or(0);
    let address = Ipv4Addr::from(u32::from(block) + number * SIZE);
    AddressRange {
        address: IpAddr::V4(address),
        prefix: PREFIX,
    }
}

fn overlap(one: &AddressRange, other: &AddressRange) -> bool {
    one.contains(other.address) || other.contains(one.address)
}

/// The ranges that this machine has routes to, from the text of `/proc/net/route`, without the
/// default route.
pub(super) fn routes(table: &str) -> Vec<AddressRange> {
    table.lines().skip(1).filter_map(route).collect()
}

fn route(line: &str) -> Option<AddressRange> {
    let mut fields = line.split_ascii_whitespace();
    // In the byte order of the machine's network, read as a number of this processor.
    let number = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.swap_bytes());
    let destination = number(fields.nth(1)?)?;
    let mask = number(fields.nth(5)?)?;
    (mask != 0).then(|| AddressRange {
        address: IpAddr::V4(Ipv4Addr::from(destination)),
        prefix: u8::try_from(mask.leading_ones()).unwrap_or(32),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn every_subnet_comes_once_whatever_the_start() {
        for seed in [0, 7, u32::MAX] {
            let all: Vec<AddressRange> = free(&[], seed).collect();
            let distinct: BTreeSet<_> = all.iter().copied().collect();
            assert_eq!((all.len(), distinct.len()), (1536, 1536));
        }
    }

    #[test]
    fn what_overlaps_a_range_in_use_is_left_out_from_both_sides() {
        let taken = [
            range("10.0.0.0/8"),
            range("192.168.240.9/32"),
            range("fd00::/8"),
        ];
        let left: Vec<AddressRange> = free(&taken, 1).collect();
        assert!(left.iter().all(|subnet| !overlap(subnet, &taken[0])));
        assert!(!left.contains(&range("192.168.240.8/29")));
        assert!(left.contains(&range("192.168.240.16/29")));
        assert_eq!(left.len(), 1023);
        assert_eq!(free(&[range("0.0.0.0/0")], 1).count(), 0);
    }

    #[test]
    fn the_routing_table_is_read_without_its_default_route() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                     nonsense\n";
        if cfg!(target_endian = "little") {
            assert_eq!(routes(table), [range("172.17.0.0/16")]);
        }
    }
}
