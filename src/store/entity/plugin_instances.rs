//! The table `plugin_instances`: plugins enabled in communities.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "plugin_instances")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub community: String,
    pub plugin: String,
    pub platform_id: Option<String>,
    /// JSON, secrets sealed.
    pub config: String,
    /// JSON.
    pub state: Option<String>,
    pub version: i64,
    pub tick_every_ms: Option<i64>,
    pub due_at: Option<DateTimeUtc>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
