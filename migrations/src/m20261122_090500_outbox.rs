//! The table `outbox`: every event, byte for byte, and whether it was published.

use sea_orm_migration::{
    prelude::*,
    schema::{
        big_integer_null, boolean, integer, text, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null,
        uuid, uuid_null,
    },
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("outbox")
                    .col(uuid("id").primary_key())
                    .col(text("community"))
                    // The `message_id` of the command that wrote the event; a repeated command finds its events by it.
                    .col(text_null("inbox_key"))
                    // The place within the transaction: one transaction gives all its events the same time.
                    .col(integer("position"))
                    .col(text("plugin"))
                    .col(text("routing_key"))
                    .col(text("event_type"))
                    .col(text("body"))
                    .col(text_null("correlation_id"))
                    .col(text_null("traceparent"))
                    .col(text_null("causation_id"))
                    .col(uuid_null("process_id"))
                    .col(big_integer_null("sequence"))
                    .col(boolean("last"))
                    .col(boolean("unrouted").default(false))
                    .col(timestamp_with_time_zone_null("published_at"))
                    .col(timestamp_with_time_zone_null("claimed_until"))
                    .col(timestamp_with_time_zone("created_at").default(Expr::current_timestamp()))
                    .to_owned(),
            )
            .await?;
        let connection = manager.get_connection();
        connection
            .execute_unprepared("CREATE INDEX outbox_key ON outbox (community, inbox_key) WHERE inbox_key IS NOT NULL")
            .await?;
        connection.execute_unprepared("CREATE INDEX outbox_history ON outbox (community, created_at)").await?;
        connection
            .execute_unprepared("CREATE INDEX outbox_unpublished ON outbox (created_at) WHERE published_at IS NULL")
            .await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("outbox").to_owned()).await
    }
}
