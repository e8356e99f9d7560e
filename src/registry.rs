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
    contract::{Name, Problem, ProblemKind},
    schema::nearest,
};

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
    /// [`RegistrationError`] where the plugin is not well-formed, or one of this name was added before.
    pub fn add<P: Plugin>(self) -> Result<Self, RegistrationError> {
        self.add_definition(PluginDefinition::of::<P>()?)
    }

    /// Adds a plugin that has been defined already.
    ///
    /// # Errors
    /// [`RegistrationError`] where one of this name was added before.
    pub fn add_definition(mut self, definition: PluginDefinition) -> Result<Self, RegistrationError> {
        let name = definition.name().clone();
        if self.plugins.insert(name.clone(), Arc::new(definition)).is_some() {
            return Err(RegistrationError::DuplicatePlugin { plugin: name.to_string() });
        }
        Ok(self)
    }

    /// The registry.
    ///
    /// # Errors
    /// None at present; the signature leaves room for checks across plugins.
    pub fn build(self) -> Result<Registry, RegistrationError> {
        let names = self.plugins.keys().cloned().collect();
        Ok(Registry { plugins: self.plugins.into_iter().collect(), names })
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
        self.get(name.as_str()).ok_or_else(|| {
            unknown(ProblemKind::UnknownPlugin, "plugin", name, self.names.iter().map(Name::as_str))
        })
    }
}

/// The problem of a name that is not known, with the nearest one that is.
#[must_use]
pub fn unknown<'a>(
    kind: ProblemKind,
    what: &str,
    name: &Name,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Problem {
    let hint = match nearest(name.as_str(), known.clone()) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Problem::new(kind, format!("there is no {what} '{name}'; {hint}"))
}
