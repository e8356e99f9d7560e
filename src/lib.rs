//! Metagov: connects communities to the platforms where they talk, pay and vote.

pub mod config;
pub mod shutdown;
pub mod telemetry;
