//! The table `uncertain_runs`: runs of which nobody knows how they ended, with what it takes to run them again and what
//! an operator decided. A table beside `action_runs`, so that the many runs that end well carry nothing of it.
//!
//! Runs that ended so before this step are taken over without their command; those cannot be run again.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, text, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null, uuid},
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("uncertain_runs")
                    .col(uuid("id").primary_key())
                    .col(text("community"))
                    .col(text_null("message_id"))
                    .col(text("plugin"))
                    .col(text("action"))
                    .col(big_integer("attempts"))
                    .col(text_null("correlation_id"))
                    .col(text_null("command"))
                    .col(timestamp_with_time_zone("created_at").default(Expr::current_timestamp()))
                    .col(text_null("decision"))
                    .col(text_null("decided_by"))
                    .col(timestamp_with_time_zone_null("decided_at"))
                    .col(text_null("note"))
                    .col(text_null("output"))
                    .col(timestamp_with_time_zone_null("resolved_at"))
                    .to_owned(),
            )
            .await?;
        let connection = manager.get_connection();
        connection
            .execute_unprepared(
                "INSERT INTO uncertain_runs (id, community, message_id, plugin, action, attempts, created_at) \
                 SELECT id, community, message_id, plugin, action, attempts, updated_at FROM action_runs \
                 WHERE status = 'uncertain'",
            )
            .await?;
        connection
            .execute_unprepared(
                "CREATE INDEX uncertain_runs_open ON uncertain_runs (created_at) WHERE resolved_at IS NULL",
            )
            .await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("uncertain_runs").to_owned()).await
    }
}
