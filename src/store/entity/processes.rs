//! The table `processes`: governance processes.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "processes")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub community: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub plugin: String,
    pub process: String,
    pub instance_id: Uuid,
    pub platform_id: Option<String>,
    pub status: String,
    pub url: Option<String>,
    /// JSON.
    pub parameters: String,
    /// JSON.
    pub outcome: String,
    /// JSON, a list of problems.
    pub errors: String,
    /// JSON, a problem.
    pub problem: Option<String>,
    /// JSON.
    pub initiator: Option<String>,
    pub callback_url: Option<String>,
    /// JSON.
    pub state: String,
    pub version: i64,
    pub poll_every_ms: Option<i64>,
    pub webhook_key: Option<String>,
    pub correlation_id: Option<String>,
    pub due_at: Option<DateTimeUtc>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    pub closes_at: Option<DateTimeUtc>,
    pub closed_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
