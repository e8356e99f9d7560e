//! The table `steps`: results of the finished steps of commands that are still being handled.

use sea_orm_migration::{
    prelude::*,
    schema::{text, timestamp_with_time_zone},
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("steps")
                    .col(text("community"))
                    .col(text("message_id"))
                    .col(text("name"))
                    .col(text("result"))
                    .col(timestamp_with_time_zone("created_at").default(Expr::current_timestamp()))
                    .primary_key(Index::create().col("community").col("message_id").col("name"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("steps").to_owned()).await
    }
}
