//! The database schema of Metagov, as reversible steps: one file for each table or change.
//!
//! A step uses names as they were when it was written and never the entities of `src/store`, which move on. How to add
//! one is told in `migrations/README.md`. Up: `Store::migrate`, which runs [`Migrator`]. Down: the database, SQLite or
//! PostgreSQL, with the same steps on both.

use sea_orm_migration::prelude::*;

mod m20261122_090000_communities;
mod m20261122_090100_plugin_instances;
mod m20261122_090200_processes;
mod m20261122_090300_action_runs;
mod m20261122_090400_inbox;
mod m20261122_090500_outbox;
mod m20261123_090000_steps;
mod m20261123_090010_uncertain_runs;
mod m20261123_090100_suspects;
mod m20261125_090000_after_death;
mod m20261129_100000_refusals;
mod m20261129_210000_correlation;
mod m20261129_210500_row_leases;

/// Every step, the oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261122_090000_communities::Migration),
            Box::new(m20261122_090100_plugin_instances::Migration),
            Box::new(m20261122_090200_processes::Migration),
            Box::new(m20261122_090300_action_runs::Migration),
            Box::new(m20261122_090400_inbox::Migration),
            Box::new(m20261122_090500_outbox::Migration),
            Box::new(m20261123_090000_steps::Migration),
            Box::new(m20261123_090010_uncertain_runs::Migration),
            Box::new(m20261123_090100_suspects::Migration),
            Box::new(m20261125_090000_after_death::Migration),
            Box::new(m20261129_100000_refusals::Migration),
            Box::new(m20261129_210000_correlation::Migration),
            Box::new(m20261129_210500_row_leases::Migration),
        ]
    }
}
