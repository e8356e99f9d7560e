#![doc = include_str!("../README.md")]
//!
//! # The floors
//!
//! Code uses lower floors only, and neighbours on floors 2 and 4 do not know each other; `tests/floors.rs` keeps it so.
//!
//! ```text
//! floor 6   main, cli                           the command line
//! floor 5   app                                 wires everything once, owns shutdown
//! floor 4   worker  scheduler                   the loops; blind to each other
//! floor 3   host  registry  plugins             what a plugin may touch; name -> handler; the list
//! floor 2   bus  store                          broker; database; blind to each other
//! floor 1   plugins/<name>  migrations  config  failpoint  telemetry  shutdown
//! floor 0   plugins/sdk                         wire contract, plugin traits, errors, test kit
//! ```

pub mod app;
pub mod bus;
pub mod cli;
pub mod config;
pub mod failpoint;
pub mod host;
pub mod plugins;
pub mod registry;
pub mod scheduler;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod worker;
