//! The table `row_leases`: which worker may change a row that several workers contend for, and until when.

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
                    .table("row_leases")
                    .col(text("community"))
                    .col(uuid("row_id"))
                    .col(uuid("holder"))
                    .col(timestamp_with_time_zone("until"))
                    .primary_key(Index::create().col("community").col("row_id"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("row_leases").to_owned()).await
    }
}
