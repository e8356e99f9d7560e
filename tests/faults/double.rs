//! The puppet's double: another plugin with the same deeds, for scenarios where each has workers of its own.
//!
//! Only processes that are told so have it, for each plugin costs every worker two more queues. Up: a command. Down:
//! [`crate::puppet`].

use metagov_sdk::prelude::*;

use crate::puppet::{Acted, Config, Deed, Script, act};

/// Gives the processes of a service the double, whatever its value.
pub(crate) const DOUBLE: &str = "FAULTS_DOUBLE";

/// Does as it is told, too.
pub(crate) struct Double;

impl Plugin for Double {
    const NAME: &'static str = "double";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<Idempotent>();
    }
}

/// Has the same effect however often it runs.
#[action(Idempotent, "idempotent", effect = "idempotent")]
async fn idempotent(cx: &Cx<Double>, deeds: Vec<Deed>, calls: bool) -> Result<Acted> {
    act(cx, &Script { deeds, calls }).await
}
