//! What can cross the wire: parameters, outputs, outcomes, configs.
//!
//! One bound in place of five, and the object that has no members. Up: the traits that authors implement. Down:
//! [`crate::schema::Schema`], which is made from these types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Data that crosses the wire. Implemented for every type that can.
pub trait Payload: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static> Payload for T {}

/// An object without members: the config of a plugin that needs none, the parameters of a process that takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}
