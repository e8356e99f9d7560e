//! The table `uncertain_runs`: runs that an operator has to look at, and what was decided.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "uncertain_runs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub community: String,
    pub message_id: Option<String>,
    pub plugin: String,
    pub action: String,
    pub attempts: i64,
    pub correlation_id: Option<String>,
    /// The body of the command, JSON.
    pub command: Option<String>,
    pub created_at: DateTimeUtc,
    /// `done` or `run-again`.
    pub decision: Option<String>,
    pub decided_by: Option<String>,
    pub decided_at: Option<DateTimeUtc>,
    pub note: Option<String>,
    /// What the action answered, as far as the operator knows, JSON.
    pub output: Option<String>,
    /// When the decision was carried out; the run is open until then.
    pub resolved_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
