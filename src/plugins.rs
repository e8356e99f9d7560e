//! The list: every plugin that this build contains.
//!
//! To add one, name its crate in `Cargo.toml` and its type here. Which of them a worker serves is configuration
//! (`worker.plugins`), not a matter of this list. Up: the plugin crates. Down: [`crate::registry`].

use crate::registry::{Registry, RegistryError};

/// Every plugin compiled in, each checked: names unique, schemas valid.
///
/// # Errors
/// [`RegistryError`] names the plugin and what is wrong with it; the program must not start then.
pub fn all() -> Result<Registry, RegistryError> {
    let registry =
        Registry::builder().add::<metagov_example_plugin::ExamplePlugin>()?.add::<metagov_randomness::Randomness>()?;
    Ok(registry.build())
}
