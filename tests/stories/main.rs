//! Stories: commands in through a real broker, outcomes out as events, on both databases.
//!
//! Each story runs a whole service of its own (workers, scheduler, database, broker prefix) in this process and talks to
//! it as a driver does. `tests/run` starts the servers that they need.

mod support;

mod actions;
mod bad_input;
mod communities;
mod correlation;
mod crowds;
mod deliveries;
mod expiry;
mod hostile;
mod isolation;
mod placement;
mod poison;
mod pooler;
mod processes;
mod recognition;
mod refusals;
mod replay;
mod secrets;
mod steps;
mod uncertain;
mod webhooks;
