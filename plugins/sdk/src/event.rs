//! Events of a platform, as a plugin tells them.
//!
//! Declared with [`crate::Registrar::event`], so that they stand in the manifest, and told with [`crate::Cx::emit`].
//! Outcomes of actions and processes are no events of this kind: the service tells those. Up: a webhook, a tick or any
//! other call. Down: [`crate::contract::PlatformEvent`].

use schemars::JsonSchema;
use serde::Serialize;

use crate::contract::Initiator;

/// Something that happens on the platform and that drivers can subscribe to. The implementing type is the event's data,
/// its doc comment is the description.
pub trait PluginEvent: Serialize + JsonSchema + Send + 'static {
    /// The platform's own word for it. In routing keys, what is not a letter, a digit, `_` or `-` becomes `_`.
    const TYPE: &'static str;

    /// Who did it, where the platform says so.
    fn initiator(&self) -> Option<Initiator> {
        None
    }
}
