#![doc = include_str!("../README.md")]

// The attribute writes `::metagov_sdk::…`, which has to hold in this crate's own tests as well.
extern crate self as metagov_sdk;

pub mod action;
pub mod call;
pub mod contract;
pub mod cx;
pub mod definition;
pub mod egress;
pub mod environment;
pub mod error;
pub mod event;
pub mod http;
pub mod manifest;
pub mod payload;
pub mod plugin;
pub mod process;
pub mod registrar;
pub mod schema;
pub mod secret;
pub mod steps;
#[cfg(feature = "testing")]
pub mod testing;
pub mod webhook;

pub use metagov_sdk_macros::action;
// For the code that the attribute writes, and for authors who want the same versions.
pub use {chrono, rand, schemars, serde, serde_json, tracing, uuid};

pub use crate::{
    action::{Action, Effect},
    call::{Call, Effects, Finished, Handling, Snapshot, StartedProcess, SteppedProcess},
    cx::Cx,
    definition::{ActionDefinition, LoadedConfig, PluginDefinition, ProcessDefinition},
    egress::Egress,
    environment::{Clock, Entropy, Environment, SystemClock, SystemEntropy},
    error::{Error, OrRetry, Result},
    event::PluginEvent,
    http::{HttpClient, HttpError},
    manifest::Manifest,
    payload::{Empty, Payload},
    plugin::{Concerns, Plugin},
    process::{Process, Progress, Started},
    registrar::{Registrar, RegistrationError},
    secret::Secret,
    steps::{Keeping, MemorySteps, StepKeeper, Steps},
    webhook::Webhook,
};

/// Everything a plugin's file needs: `use metagov_sdk::prelude::*;`.
pub mod prelude {
    pub use std::time::Duration;

    pub use rand::{Rng as _, seq::IndexedRandom as _, seq::SliceRandom as _};
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::{Value, json};
    pub use tracing;

    pub use crate::{
        Action, Concerns, Cx, Effect, Empty, Error, OrRetry as _, Plugin, PluginEvent, Process, Progress, Registrar,
        Result, Secret, Started, Webhook, action,
        contract::{Initiator, Timestamp},
        ensure,
    };
}
