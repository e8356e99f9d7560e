//! Connects communities to the platforms where they talk, pay and vote.

pub mod bus;
