//! placeholder
pub mod contract;
pub mod schema;
