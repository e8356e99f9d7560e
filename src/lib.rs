//! Metagov connects online communities to the platforms where they talk, pay and vote.

pub mod store;
