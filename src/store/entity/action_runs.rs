//! The table `action_runs`: what was run, and how it ended.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "action_runs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub community: String,
    pub message_id: Option<String>,
    pub plugin: String,
    pub action: String,
    pub effect: String,
    pub status: String,
    pub attempts: i64,
    pub event_id: Option<Uuid>,
    /// JSON.
    pub initiator: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
