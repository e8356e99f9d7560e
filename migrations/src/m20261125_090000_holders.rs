//! Who holds the lease of an attempt: `holder` and `after_death` in the table `inbox`.
//!
//! Both are null for what was begun by a version before.

use sea_orm_migration::{
    prelude::*,
    schema::{boolean_null, uuid_null},
};

#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite takes one column at a time.
        manager.alter_table(Table::alter().table("inbox").add_column(uuid_null("holder")).to_owned()).await?;
        manager.alter_table(Table::alter().table("inbox").add_column(boolean_null("after_death")).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("inbox").drop_column("after_death").to_owned()).await?;
        manager.alter_table(Table::alter().table("inbox").drop_column("holder").to_owned()).await
    }
}
