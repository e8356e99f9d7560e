//! The action `random-int`: a number within bounds.
//!
//! Up: [`crate::Randomness`]. Down: [`Cx::rng`].

use metagov_sdk::prelude::*;

use crate::{LuckyNumber, Randomness};

/// The number that was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RandomNumber {
    /// The number.
    pub value: i64,
}

/// Draws an integer, each with the same chance.
#[action(RandomInt, "random-int", effect = "pure")]
async fn random_int(
    cx: &Cx<Randomness>,
    /// The lowest number that is drawn; the config's `default_low` where absent.
    low: Option<i64>,
    /// The number below which is drawn; the config's `default_high` where absent.
    high: Option<i64>,
) -> Result<RandomNumber> {
    let low = low.unwrap_or(cx.config().default_low);
    let high = high.unwrap_or(cx.config().default_high);
    ensure!(low < high, "low ({low}) must be below high ({high})");
    let value = cx.rng().random_range(low..high);
    if cx.state()? == Some(LuckyNumber { lucky_number: value }) {
        tracing::info!(community = %cx.community(), "the lucky number was drawn");
    }
    Ok(RandomNumber { value })
}
