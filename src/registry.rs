//! From a plugin's name to what it can do.
//!
//! Built once at start and never changed; looking a plugin up costs one hash. It knows neither communities nor
//! configs. Up: [`crate::plugins`], the list. Down: `src/worker`, which calls what it finds.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use metagov_sdk::{
    Plugin, PluginDefinition, RegistrationError,
    contract::{InstanceRecord, Name, Problem, ProblemKind},
    schema::{MASK, nearest},
};
use serde_json::Value;
use thiserror::Error;

use crate::store::Instance;

/// The plugins of this build do not fit together; the program must not start.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// One of them is not well-formed.
    #[error(transparent)]
    Plugin(#[from] RegistrationError),
    /// Two of them have the same name.
    #[error("two plugins are named '{plugin}'; names must be unique")]
    Duplicate {
        /// The name.
        plugin: Name,
    },
}

/// Every plugin of this build by name.
#[derive(Debug)]
pub struct Registry {
    plugins: HashMap<Name, Arc<PluginDefinition>>,
    names: Vec<Name>,
}

/// A registry in the making.
#[derive(Debug, Default)]
pub struct Builder {
    plugins: BTreeMap<Name, Arc<PluginDefinition>>,
}

impl Builder {
    /// Adds a plugin.
    ///
    /// # Errors
    /// [`RegistryError`] where the plugin is not well-formed, or one of this name was added before.
    pub fn add<P: Plugin>(self) -> Result<Self, RegistryError> {
        self.add_definition(PluginDefinition::of::<P>()?)
    }

    /// Adds a plugin that has been defined already.
    ///
    /// # Errors
    /// [`RegistryError`] where one of this name was added before.
    pub fn add_definition(mut self, definition: PluginDefinition) -> Result<Self, RegistryError> {
        let name = definition.name().clone();
        if self.plugins.insert(name.clone(), Arc::new(definition)).is_some() {
            return Err(RegistryError::Duplicate { plugin: name });
        }
        Ok(self)
    }

    /// The registry.
    #[must_use]
    pub fn build(self) -> Registry {
        let names = self.plugins.keys().cloned().collect();
        Registry { plugins: self.plugins.into_iter().collect(), names }
    }
}

impl Registry {
    /// An empty registry to add plugins to.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The plugin of this name, if this build has it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<PluginDefinition>> {
        self.plugins.get(name)
    }

    /// Every plugin's name in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.iter()
    }

    /// The plugin's definition, or the problem that names the nearest one.
    ///
    /// # Errors
    /// `unknown-plugin`.
    pub fn find(&self, name: &Name) -> Result<&Arc<PluginDefinition>, Problem> {
        self.get(name.as_str())
            .ok_or_else(|| unknown(ProblemKind::UnknownPlugin, "plugin", name, self.names.iter().map(Name::as_str)))
    }
}

impl Registry {
    /// The schemas of every plugin by name, as they are published.
    #[must_use]
    pub fn schemas(&self) -> Vec<(String, Value)> {
        let plugins = self.names.iter().filter_map(|name| self.get(name.as_str()));
        plugins.flat_map(|plugin| plugin.manifest().schemas()).collect()
    }

    /// A plugin instance as drivers and people see it: secrets masked. Where this build does not have the plugin, nobody
    /// can tell what of its config is secret, so all of it is masked.
    #[must_use]
    pub fn show(&self, instance: &Instance) -> InstanceRecord {
        let plugin = self.get(instance.plugin.as_str());
        InstanceRecord {
            id: instance.id,
            name: instance.plugin.clone(),
            community: instance.community.clone(),
            community_platform_id: instance.platform_id.clone(),
            config: plugin.map_or_else(|| MASK.into(), |plugin| instance.config.masked(plugin)),
            created_at: instance.created_at,
            updated_at: instance.updated_at,
        }
    }
}

/// The problem of an action that a plugin does not have, with what was meant.
#[must_use]
pub fn unknown_action(plugin: &PluginDefinition, name: &Name) -> Problem {
    if plugin.process(name.as_str()).is_some() {
        let detail = format!(
            "'{name}' of '{0}' is a governance process, not an action; process.{0}.{name}.start starts it",
            plugin.name()
        );
        return Problem::new(ProblemKind::UnknownAction, detail);
    }
    unknown(ProblemKind::UnknownAction, "action", name, plugin.action_names())
}

/// The problem of a process that a plugin does not have, with what was meant.
#[must_use]
pub fn unknown_process(plugin: &PluginDefinition, name: &Name) -> Problem {
    if plugin.action(name.as_str()).is_some() {
        let detail = format!(
            "'{name}' of '{0}' is an action, not a governance process; action.{0}.{name} calls it",
            plugin.name()
        );
        return Problem::new(ProblemKind::UnknownProcess, detail);
    }
    unknown(ProblemKind::UnknownProcess, "governance process", name, plugin.process_names())
}

/// The problem of a name that is not known, with the nearest one that is.
#[must_use]
fn unknown<'a>(kind: ProblemKind, what: &str, name: &Name, known: impl Iterator<Item = &'a str>) -> Problem {
    let known: Vec<_> = known.collect();
    let hint = match nearest(name.as_str(), known.iter().copied()) {
        None if known.is_empty() => "there is none here".to_owned(),
        Some(meant) => format!("did you mean '{meant}'?"),
        None => format!("known: {}", known.join(", ")),
    };
    Problem::new(kind, format!("there is no {what} '{name}'; {hint}"))
}

#[cfg(test)]
mod tests {
    use metagov_example_plugin::ExamplePlugin;
    use metagov_randomness::Randomness;

    use super::*;

    #[test]
    fn a_plugin_that_is_registered_twice_is_an_error_at_start_that_names_it() {
        let once = Registry::builder().add::<Randomness>().and_then(Builder::add::<ExamplePlugin>);
        let twice = once.expect("two plugins with names of their own").add::<Randomness>();
        let error = twice.expect_err("the second one is refused");
        assert!(matches!(&error, RegistryError::Duplicate { plugin } if plugin.as_str() == "randomness"), "{error:?}");
        assert_eq!(error.to_string(), "two plugins are named 'randomness'; names must be unique");
    }
}
