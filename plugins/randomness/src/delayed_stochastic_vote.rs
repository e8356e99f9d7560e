//! The process `delayed-stochastic-vote`: a decision by lot, after a while.
//!
//! It waits for nobody: the service closes it when its time has come, or a driver does so earlier. Up:
//! [`crate::Randomness`]. Down: [`Cx::rng`].

use metagov_sdk::prelude::*;

use crate::Randomness;

/// What there is to choose from, and how long to wait.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Ballot {
    /// The options.
    #[schemars(length(min = 1))]
    pub options: Vec<String>,
    /// Minutes to wait before the draw, at most ten years; with 0 the next scan draws.
    #[schemars(range(max = 5_256_000))]
    pub delay: u32,
}

/// How the lot fell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drawn {
    /// The option that was drawn.
    pub winner: String,
}

/// What is remembered until the draw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DelayedStochasticVote {
    options: Vec<String>,
    closes_at: Timestamp,
}

impl Process<Randomness> for DelayedStochasticVote {
    const NAME: &'static str = "delayed-stochastic-vote";
    const DESCRIPTION: &'static str = "Draws one of the options by lot once the delay is over, or when it is closed.";
    type Parameters = Ballot;
    type Outcome = Drawn;

    async fn start(cx: &Cx<Randomness>, ballot: Ballot) -> Result<Started<Self>> {
        let closes_at = cx.now() + Duration::from_mins(ballot.delay.into());
        Ok(Started::new(Self { options: ballot.options, closes_at }))
    }

    async fn close(&mut self, cx: &Cx<Randomness>) -> Result<Progress<Drawn>> {
        let winner =
            self.options.choose(&mut cx.rng()).ok_or_else(|| Error::failed("there is nothing to draw from"))?;
        Ok(Progress::Completed(Drawn { winner: winner.clone() }))
    }

    fn closes_at(&self) -> Option<Timestamp> {
        Some(self.closes_at)
    }
}
