//! The table `inbox`: the keys of commands that were seen, and the lease of those that are being attempted.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, binary, text, timestamp_with_time_zone, timestamp_with_time_zone_null},
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("inbox")
                    .col(text("community"))
                    .col(text("message_id"))
                    .col(binary("fingerprint"))
                    .col(text("routing_key"))
                    .col(text("status"))
                    .col(big_integer("fence"))
                    .col(big_integer("attempts"))
                    .col(timestamp_with_time_zone_null("lease_until"))
                    .col(timestamp_with_time_zone("created_at").default(Expr::current_timestamp()))
                    .primary_key(Index::create().col("community").col("message_id"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("inbox").to_owned()).await
    }
}
