//! The table `outbox`: every event, byte for byte.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub community: String,
    pub inbox_key: Option<String>,
    pub position: i32,
    pub plugin: String,
    pub routing_key: String,
    pub event_type: String,
    pub body: String,
    pub correlation_id: Option<String>,
    pub traceparent: Option<String>,
    pub causation_id: Option<String>,
    pub process_id: Option<Uuid>,
    pub sequence: Option<i64>,
    pub last: bool,
    pub unrouted: bool,
    pub published_at: Option<DateTimeUtc>,
    pub claimed_until: Option<DateTimeUtc>,
    pub refusals: i32,
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
