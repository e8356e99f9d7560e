//! Whether an attempt follows one that died: `after_death` in the table `inbox`.
//!
//! Null for a first attempt, and for what a version before has begun.

use sea_orm_migration::{prelude::*, schema::boolean_null};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("inbox").add_column(boolean_null("after_death")).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("inbox").drop_column("after_death").to_owned()).await
    }
}
