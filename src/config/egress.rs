//! Where plugins may go besides the public internet: `loopback`, single addresses, and networks.
//!
//! Up: the setting `egress.allow`. Down: [`metagov_sdk::Egress`].

use metagov_sdk::{Egress, egress::Network};
use serde::Deserialize;

/// The word for the machine itself; for `metagov dev` only.
const LOOPBACK: &str = "loopback";

/// Where plugins may go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressSettings {
    /// `loopback`, addresses and networks, besides the public internet.
    pub allow: Vec<Allowed>,
}

/// One entry of `egress.allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Allowed {
    /// The machine itself, whatever its addresses.
    Loopback,
    /// An address, or a network as `10.0.0.0/8`.
    Network(Network),
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == LOOPBACK {
            return Ok(Self::Loopback);
        }
        let wrong = || format!("each must be `{LOOPBACK}`, an address, or a network as 10.1.0.0/16");
        text.parse().map(Self::Network).map_err(|_| wrong())
    }
}

impl EgressSettings {
    /// What plugins are held to.
    #[must_use]
    pub fn policy(&self) -> Egress {
        let networks = self.allow.iter().flat_map(|allowed| match allowed {
            Allowed::Loopback => Network::LOOPBACK.to_vec(),
            Allowed::Network(network) => vec![*network],
        });
        Egress::public_and(networks)
    }

    /// Whether it names something that only a development machine may leave to a word.
    #[must_use]
    pub fn has_loopback(&self) -> bool {
        self.allow.contains(&Allowed::Loopback)
    }
}
