//! The table `suspects`: deliveries that were in hand before and are in hand again, so that one that kills its worker
//! leaves a trace.

use sea_orm_migration::{
    prelude::*,
    schema::{text, timestamp_with_time_zone, uuid},
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("suspects")
                    .col(uuid("run").primary_key())
                    .col(uuid("command"))
                    .col(text("routing_key"))
                    .col(timestamp_with_time_zone("begun_at").default(Expr::current_timestamp()))
                    .to_owned(),
            )
            .await?;
        manager.create_index(Index::create().name("suspects_command").table("suspects").col("command").to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("suspects").to_owned()).await
    }
}
