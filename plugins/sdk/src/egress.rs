//! Where plugins may connect to: the internet, not the service's own network.
//!
//! A community writes the address of its platform into a config, so an address is a stranger's input; see
//! <https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html>. Checked
//! twice: literal addresses before a request, because no resolver is asked about those, and every address that a name
//! resolves to, at the moment of connecting, so that a name cannot change in between. Up: [`crate::HttpClient`]. Down:
//! the operating system's resolver.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

/// Which addresses may be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Egress {
    /// Addresses of the public internet.
    PublicOnly,
    /// These and the machine's own, for tests against a server in the same process.
    PublicAndLoopback,
    /// These and what the operator allows.
    PublicAnd(Arc<[Network]>),
}

/// A network, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many bits at the beginning are the network's.
    bits: u8,
}

impl Network {
    /// The machine itself.
    pub const LOOPBACK: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 },
        Self { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 },
    ];

    /// Whether the address is one of it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits() ^ address.to_bits()).leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits() ^ address.to_bits()).leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

/// A text that is neither an address nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be an address, or a network as 10.1.0.0/16")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), |bits| bits.parse().map_err(|_| NoNetwork))?;
        if bits <= all { Ok(Self { address, bits }) } else { Err(NoNetwork) }
    }
}

/// The name or address lies where plugins may not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the address is not on the public internet, and plugins may reach nothing else but what the setting egress.allow lists; \
     `metagov dev` with METAGOV__EGRESS__ALLOW=loopback lets them reach this machine"
)]
pub struct NotPublic;

impl Egress {
    /// The public internet and these.
    pub fn public_and(networks: impl IntoIterator<Item = Network>) -> Self {
        let networks: Arc<[Network]> = networks.into_iter().collect();
        if networks.is_empty() { Self::PublicOnly } else { Self::PublicAnd(networks) }
    }

    /// Whether this address may be connected to.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        match self {
            Self::PublicOnly => is_public(address),
            Self::PublicAndLoopback => is_public(address) || address.to_canonical().is_loopback(),
            Self::PublicAnd(networks) => is_public(address) || networks.iter().any(|network| network.contains(address)),
        }
    }

    /// Whether the host of a URL may be connected to, as far as that can be told without resolving it.
    pub(crate) fn check_literal(&self, host: &str) -> Result<(), NotPublic> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) if !self.allows(address) => Err(NotPublic),
            _ => Ok(()),
        }
    }
}

/// Addresses, some time.
pub(crate) type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Asks for the addresses of a name.
#[derive(Clone)]
pub(crate) struct Lookup(Arc<dyn Fn(String) -> Found + Send + Sync>);

impl Lookup {
    /// The operating system's.
    pub(crate) fn system() -> Self {
        Self::new(|name| async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    }

    pub(crate) fn new<F>(ask: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(ask(name))))
    }

    /// The addresses of a name, whatever they are.
    pub(crate) fn ask(&self, name: &str) -> Found {
        (self.0)(name.to_owned())
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lookup").finish_non_exhaustive()
    }
}

/// Resolves names and leaves out the addresses that are not allowed. Asked for each connection, and what it answers is
/// what is connected to: a name that answers otherwise the next time gains nothing.
#[derive(Debug)]
pub(crate) struct FilteringResolver {
    pub(crate) egress: Egress,
    pub(crate) lookup: Lookup,
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, found) = (self.egress.clone(), self.lookup.ask(name.as_str()));
        Box::pin(async move {
            let mut allowed = found.await?;
            allowed.retain(|address| egress.allows(address.ip()));
            if allowed.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is globally reachable, after the special-purpose registries of IANA (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared by carriers (RFC 6598), protocol assignments (RFC 6890), 6to4 relays (RFC 7526), benchmarks (RFC 2544).
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let segments = address.segments();
    // NAT64 (RFC 6052) carries an IPv4 address in its last 32 bits.
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let embedded = (u32::from(segments[6]) << 16) | u32::from(segments[7]);
        return is_public_v4(Ipv4Addr::from(embedded));
    }
    match (segments[0], segments[1]) {
        // Protocol assignments and Teredo, documentation, 6to4, documentation again.
        (0x2001, ..0x200 | 0xdb8) | (0x2002, _) | (0x3fff, ..0x1000) => false,
        // Global unicast is 2000::/3.
        (first, _) => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_may_be_reached() {
        for public in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"] {
            assert!(Egress::PublicOnly.allows(public.parse().expect("an address")), "{public}");
        }
        for inside in [
            "127.0.0.1",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "fec0::1",
        ] {
            assert!(!Egress::PublicOnly.allows(inside.parse().expect("an address")), "{inside}");
        }
    }

    #[test]
    fn tests_may_reach_the_machine_itself_and_nothing_else_inside() {
        let allows = |text: &str| Egress::PublicAndLoopback.allows(text.parse().expect("an address"));
        assert!(allows("127.0.0.1") && allows("::1"));
        assert!(!allows("10.0.0.1") && !allows("169.254.169.254"));
    }

    #[test]
    fn what_the_operator_lists_may_be_reached_and_nothing_beside_it() {
        let networks = ["10.1.0.0/16", "192.168.7.9", "fd00::/8"].map(|text| text.parse().expect("a network"));
        let egress = Egress::public_and(networks);
        for (address, may) in [
            ("10.1.255.255", true),
            ("::ffff:10.1.0.1", true),
            ("192.168.7.9", true),
            ("fd12::1", true),
            ("1.1.1.1", true),
            ("10.2.0.0", false),
            ("192.168.7.8", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
        ] {
            assert_eq!(egress.allows(address.parse().expect("an address")), may, "{address}");
        }
        let local = Egress::public_and(Network::LOOPBACK);
        let allows = |text: &str| local.allows(text.parse().expect("an address"));
        assert!(allows("127.0.0.1") && allows("127.9.9.9") && allows("::1") && !allows("10.0.0.1"));
        assert_eq!(Egress::public_and([]), Egress::PublicOnly);
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/x"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_the_inside_is_refused() {
        let name = "localhost".parse().expect("a name");
        let resolver = FilteringResolver { egress: Egress::PublicOnly, lookup: Lookup::system() };
        assert!(resolver.resolve(name).await.is_err());
    }
}
