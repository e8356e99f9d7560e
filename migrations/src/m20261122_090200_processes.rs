//! The table `processes`: governance processes, with the plugin's state and the next due time.
//!
//! There is no foreign key to the instance: what has ended outlives it.

use sea_orm_migration::{
    prelude::*,
    schema::{
        big_integer, big_integer_null, text, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null, uuid,
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
                    .table("processes")
                    .col(text("community"))
                    .col(uuid("id"))
                    .col(text("plugin"))
                    .col(text("process"))
                    .col(uuid("instance_id"))
                    .col(text_null("platform_id"))
                    .col(text("status"))
                    .col(text_null("url"))
                    .col(text("parameters"))
                    .col(text("outcome"))
                    .col(text("errors"))
                    .col(text_null("problem"))
                    .col(text_null("initiator"))
                    .col(text_null("callback_url"))
                    .col(text("state"))
                    .col(big_integer("version"))
                    .col(big_integer_null("poll_every_ms"))
                    .col(text_null("webhook_key"))
                    .col(timestamp_with_time_zone_null("due_at"))
                    .col(timestamp_with_time_zone("created_at"))
                    .col(timestamp_with_time_zone("updated_at"))
                    .col(timestamp_with_time_zone_null("closes_at"))
                    .col(timestamp_with_time_zone_null("closed_at"))
                    // The id is the driver's choice: one community must not be able to take another's.
                    .primary_key(Index::create().col("community").col("id"))
                    .to_owned(),
            )
            .await?;
        let connection = manager.get_connection();
        // The scan of each second costs what is due, not what is open.
        connection
            .execute_unprepared("CREATE INDEX processes_due ON processes (due_at) WHERE status = 'pending'")
            .await?;
        connection
            .execute_unprepared(
                "CREATE INDEX processes_open ON processes (instance_id, webhook_key) \
                 WHERE status IN ('created', 'pending')",
            )
            .await?;
        connection.execute_unprepared("CREATE INDEX processes_newest ON processes (community, created_at)").await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("processes").to_owned()).await
    }
}
