//! The tables as SeaORM sees them. These types do not leave the store.
//!
//! One file for each table, following the newest migration. Up: the query files beside. Down: `migrations`.
#![expect(unreachable_pub, reason = "SeaORM's derives make public items, and the module is private")]

pub mod action_runs;
pub mod communities;
pub mod inbox;
pub mod outbox;
pub mod plugin_instances;
pub mod processes;
pub mod row_leases;
pub mod steps;
pub mod suspects;
pub mod uncertain_runs;
