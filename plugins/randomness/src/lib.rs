//! The plugin `randomness`: numbers and decisions by chance, with no platform behind it.
//!
//! The reference plugin of the original Metagov, and a second one to read after the example plugin: state, a pure
//! action, a process that the clock closes. Up: the list in `src/plugins.rs`. Down: [`metagov_sdk`].

mod delayed_stochastic_vote;
mod lucky_number;
mod random_int;

use metagov_sdk::prelude::*;

pub use self::{
    delayed_stochastic_vote::{Ballot, DelayedStochasticVote, Drawn},
    lucky_number::{LuckyNumber, SetLuckyNumber},
    random_int::{RandomInt, RandomNumber},
};

/// The plugin.
#[derive(Debug)]
pub struct Randomness;

/// The bounds that are used where a request names none.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The lowest number that is drawn.
    pub default_low: i64,
    /// The number below which is drawn; it is never drawn itself.
    pub default_high: i64,
}

impl Plugin for Randomness {
    const NAME: &'static str = "randomness";
    const DESCRIPTION: &'static str = "Draws numbers, and decides by lot.";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<SetLuckyNumber>().action::<RandomInt>().process::<DelayedStochasticVote>();
    }

    async fn enabled(cx: &Cx<Self>) -> Result<()> {
        check(cx.config())?;
        cx.set_state(&LuckyNumber::default())
    }

    async fn config_changed(cx: &Cx<Self>, _before: &Config) -> Result<()> {
        check(cx.config())
    }
}

fn check(config: &Config) -> Result<()> {
    let Config { default_low, default_high } = config;
    ensure!(default_low < default_high, "default_low ({default_low}) must be below default_high ({default_high})");
    Ok(())
}
