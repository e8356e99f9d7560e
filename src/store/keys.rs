//! Many rows by their keys, in one statement.
//!
//! Rows of a community are keyed by the community and something within it. Up: the files that read or change many
//! rows at once. Down: conditions that both databases answer from the primary key.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, Condition, DbBackend, Value,
    sea_query::{Expr, ExprTrait, extension::postgres::PgFunc},
};
use uuid::Uuid;

/// At most so many rows or keys in one statement: SQLite binds 32766 values and PostgreSQL 65535, our widest row has
/// 23, and SQLite nests expressions 1000 deep.
pub(super) const CHUNK: usize = 500;

/// The rows with these pairs of community and key.
pub(super) fn any_of<'k, C: ColumnTrait, K: Into<Value> + Ord + Clone>(
    community: C,
    key: C,
    pairs: impl IntoIterator<Item = (&'k str, K)>,
) -> Condition {
    let mut by_community: BTreeMap<&str, Vec<K>> = BTreeMap::new();
    for (community, key) in pairs {
        by_community.entry(community).or_default().push(key);
    }
    by_community
        .into_iter()
        .fold(Condition::any(), |any, (slug, keys)| any.add(community.eq(slug).and(key.is_in(keys))))
}

/// The rows with these ids; on PostgreSQL one statement for any number of them, so that it stays prepared.
pub(super) fn one_of<C: ColumnTrait>(backend: DbBackend, column: C, ids: &[Uuid]) -> Expr {
    match backend {
        DbBackend::Postgres => Expr::col(column).eq(Expr::from(PgFunc::any(ids.to_vec()))),
        _ => column.is_in(ids.iter().copied()),
    }
}
