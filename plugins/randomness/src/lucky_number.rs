//! The action `set-lucky-number`: the plugin's state, and how it is changed.
//!
//! Up: [`crate::Randomness`]. Down: [`Cx::set_state`].

use metagov_sdk::prelude::*;

use crate::Randomness;

/// What the plugin remembers for a community, and what the action answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LuckyNumber {
    /// The community's lucky number.
    pub lucky_number: i64,
}

/// Every community begins with 4.
impl Default for LuckyNumber {
    fn default() -> Self {
        Self { lucky_number: 4 }
    }
}

/// Sets the community's lucky number.
#[action(SetLuckyNumber, "set-lucky-number", effect = "idempotent")]
async fn set_lucky_number(
    cx: &Cx<Randomness>,
    /// The number that brings luck from now on.
    lucky_number: i64,
) -> Result<LuckyNumber> {
    let chosen = LuckyNumber { lucky_number };
    cx.set_state(&chosen)?;
    Ok(chosen)
}
