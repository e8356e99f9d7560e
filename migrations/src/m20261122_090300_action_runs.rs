//! The table `action_runs`: what was run, for whom, how often it was tried and how it ended.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, text, text_null, timestamp_with_time_zone, uuid, uuid_null},
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("action_runs")
                    .col(uuid("id").primary_key())
                    .col(text("community"))
                    .col(text_null("message_id"))
                    .col(text("plugin"))
                    .col(text("action"))
                    .col(text("effect"))
                    .col(text("status"))
                    .col(big_integer("attempts"))
                    .col(uuid_null("event_id"))
                    .col(text_null("initiator"))
                    .col(timestamp_with_time_zone("created_at").default(Expr::current_timestamp()))
                    .col(timestamp_with_time_zone("updated_at").default(Expr::current_timestamp()))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("action_runs_message")
                    .table("action_runs")
                    .col("community")
                    .col("message_id")
                    .unique()
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("action_runs").to_owned()).await
    }
}
