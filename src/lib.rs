//! Metagov connects online communities to the platforms where they talk, pay and vote.

pub mod bus;
pub mod cli;
pub mod config;
pub mod plugins;
pub mod registry;
pub mod shutdown;
pub mod store;
pub mod telemetry;
