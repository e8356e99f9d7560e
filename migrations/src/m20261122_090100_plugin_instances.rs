//! The table `plugin_instances`: plugins enabled in communities, with config, plugin state and the next tick.

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
                    .table("plugin_instances")
                    .col(uuid("id").primary_key())
                    .col(text("community"))
                    .col(text("plugin"))
                    .col(text_null("platform_id"))
                    .col(text("config"))
                    .col(text_null("state"))
                    .col(big_integer("version"))
                    .col(big_integer_null("tick_every_ms"))
                    .col(timestamp_with_time_zone_null("due_at"))
                    .col(timestamp_with_time_zone("created_at").default(Expr::current_timestamp()))
                    .col(timestamp_with_time_zone("updated_at").default(Expr::current_timestamp()))
                    .foreign_key(
                        ForeignKey::create()
                            .name("plugin_instances_community")
                            .from("plugin_instances", "community")
                            .to("communities", "slug"),
                    )
                    .to_owned(),
            )
            .await?;
        let connection = manager.get_connection();
        // One instance for each platform id, and one without: a null would differ from every other null.
        connection
            .execute_unprepared(
                "CREATE UNIQUE INDEX plugin_instances_key \
                 ON plugin_instances (community, plugin, coalesce(platform_id, ''))",
            )
            .await?;
        connection
            .execute_unprepared("CREATE INDEX plugin_instances_platform ON plugin_instances (plugin, platform_id)")
            .await?;
        connection
            .execute_unprepared(
                "CREATE INDEX plugin_instances_due ON plugin_instances (due_at) WHERE due_at IS NOT NULL",
            )
            .await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("plugin_instances").to_owned()).await
    }
}
