//! What the driver recognises a process by: `correlation_id` in the table `processes`.
//!
//! Null where its start named nothing to recognise it by, and for what a version before has started.

use sea_orm_migration::{prelude::*, schema::text_null};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("processes").add_column(text_null("correlation_id")).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("processes").drop_column("correlation_id").to_owned()).await
    }
}
