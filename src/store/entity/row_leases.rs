//! The table `row_leases`: which worker may change a row that several workers contend for.

use sea_orm::entity::prelude::*;

/// A row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "row_leases")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub community: String,
    /// The process or the plugin instance.
    #[sea_orm(primary_key, auto_increment = false)]
    pub row_id: Uuid,
    /// The worker.
    pub holder: Uuid,
    pub until: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
