//! The table `inbox`: keys of commands, and the leases of attempts.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "inbox")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub community: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub message_id: String,
    pub fingerprint: Vec<u8>,
    pub routing_key: String,
    /// `running` or `finished`.
    pub status: String,
    pub fence: i64,
    pub attempts: i64,
    /// While running: when the lease ends; `None` where it was given back for a retry.
    pub lease_until: Option<DateTimeUtc>,
    /// Whether the attempt before this one died; `None` for a first one.
    pub after_death: Option<bool>,
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
