//! Registration: what a plugin offers, checked when the service starts.
//!
//! A mistake is a [`RegistrationError`] at start, never a surprise at the first call. It registers the parts of one
//! plugin; which plugins there are is the list in `src/plugins.rs`. Up: [`crate::PluginDefinition::of`]. Down:
//! [`Schema`].

use std::{collections::BTreeMap, marker::PhantomData};

use schemars::JsonSchema;
use thiserror::Error;

use crate::{
    Action, ActionDefinition, Plugin, PluginEvent, Process, ProcessDefinition,
    contract::{InvalidName, Name},
    schema::{InvalidSchema, Schema, Unknown},
};

/// Takes the names of a plugin's actions, processes and events: `plugin.action::<A>().process::<B>().event::<C>();`.
#[derive(Debug)]
pub struct Registrar<P> {
    actions: BTreeMap<Name, ActionDefinition>,
    processes: BTreeMap<Name, ProcessDefinition>,
    events: BTreeMap<&'static str, Schema>,
    first_error: Option<RegistrationError>,
    plugin: PhantomData<fn() -> P>,
}

/// Why a plugin cannot be registered. The plugin's author has to mend it; there is nothing an operator can do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistrationError {
    /// A name that cannot stand in a routing key.
    #[error("plugin '{plugin}': the name '{name}' of {what} is not valid: {source}")]
    InvalidName {
        /// The plugin.
        plugin: &'static str,
        /// What has the name: `the plugin`, `an action`, `a process`.
        what: &'static str,
        /// The name.
        name: &'static str,
        /// What it has to look like.
        source: InvalidName,
    },
    /// Two parts of one kind with one name.
    #[error("plugin '{plugin}': {what} '{name}' is registered twice; give one of them another name")]
    Duplicate {
        /// The plugin.
        plugin: &'static str,
        /// What is there twice: `action`, `process`, `event`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A type whose JSON Schema does not compile.
    #[error("plugin '{plugin}': the schema of {what} cannot be used: {source}")]
    InvalidSchema {
        /// The plugin.
        plugin: &'static str,
        /// What the type is for.
        what: String,
        /// What is wrong with it.
        source: InvalidSchema,
    },
    /// Config and parameters are objects on the wire.
    #[error(
        "plugin '{plugin}': the schema of {what} is of type {found}, where the wire has an object; use a struct with \
         named fields, or `Empty` where there is nothing to say"
    )]
    NotAnObject {
        /// The plugin.
        plugin: &'static str,
        /// What the type is for.
        what: String,
        /// What it is instead.
        found: String,
    },
}

/// A plugin's parts, all checked.
pub(crate) struct Registered {
    pub(crate) name: Name,
    pub(crate) config: Schema,
    pub(crate) actions: BTreeMap<Name, ActionDefinition>,
    pub(crate) processes: BTreeMap<Name, ProcessDefinition>,
    pub(crate) events: BTreeMap<&'static str, Schema>,
}

impl<P: Plugin> Registrar<P> {
    /// Runs the plugin's `register` and gives its first mistake, or everything that it registered.
    pub(crate) fn collect() -> Result<Registered, RegistrationError> {
        let name = name::<P>("the plugin", P::NAME)?;
        let config = object_schema::<P, P::Config>(|| "the config".to_owned())?;
        let mut registrar = Self {
            actions: BTreeMap::new(),
            processes: BTreeMap::new(),
            events: BTreeMap::new(),
            first_error: None,
            plugin: PhantomData,
        };
        P::register(&mut registrar);
        match registrar.first_error {
            Some(error) => Err(error),
            None => Ok(Registered {
                name,
                config,
                actions: registrar.actions,
                processes: registrar.processes,
                events: registrar.events,
            }),
        }
    }

    /// Registers an action.
    pub fn action<A: Action<P>>(&mut self) -> &mut Self {
        let added = name::<P>("an action", A::NAME)
            .and_then(|name| ActionDefinition::of::<P, A>(name.clone()).map(|action| (name, action)))
            .and_then(|(name, action)| add::<P, _, _>(&mut self.actions, name, action, "action", A::NAME));
        self.note(added)
    }

    /// Registers a governance process.
    pub fn process<S: Process<P>>(&mut self) -> &mut Self {
        let added = name::<P>("a process", S::NAME)
            .and_then(|name| ProcessDefinition::of::<P, S>(name.clone()).map(|process| (name, process)))
            .and_then(|(name, process)| add::<P, _, _>(&mut self.processes, name, process, "process", S::NAME));
        self.note(added)
    }

    /// Registers an event of the platform, so that it may be emitted and stands in the manifest.
    pub fn event<E: PluginEvent>(&mut self) -> &mut Self {
        let added = answer_schema::<P, E>(|| format!("event '{}'", E::TYPE))
            .and_then(|schema| add::<P, _, _>(&mut self.events, E::TYPE, schema, "event", E::TYPE));
        self.note(added)
    }

    fn note(&mut self, added: Result<(), RegistrationError>) -> &mut Self {
        if let Err(error) = added {
            self.first_error.get_or_insert(error);
        }
        self
    }
}

fn add<P: Plugin, K: Ord, V>(
    to: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    what: &'static str,
    name: &'static str,
) -> Result<(), RegistrationError> {
    match to.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(RegistrationError::Duplicate { plugin: P::NAME, what, name }),
    }
}

fn name<P: Plugin>(what: &'static str, name: &'static str) -> Result<Name, RegistrationError> {
    Name::new(name).map_err(|source| RegistrationError::InvalidName { plugin: P::NAME, what, name, source })
}

/// The schema of what comes in: an object, unknown members refused.
pub(crate) fn object_schema<P: Plugin, T: JsonSchema>(what: impl Fn() -> String) -> Result<Schema, RegistrationError> {
    let schema = Schema::of::<T>(Unknown::Refused).map_err(|source| RegistrationError::InvalidSchema {
        plugin: P::NAME,
        what: what(),
        source,
    })?;
    match schema.document().get("type") {
        // An enum of objects says so in its variants.
        None => Ok(schema),
        Some(kind) if kind == "object" => Ok(schema),
        Some(found) => Err(RegistrationError::NotAnObject { plugin: P::NAME, what: what(), found: found.to_string() }),
    }
}

/// The schema of what goes out, exactly as the type declares it.
pub(crate) fn answer_schema<P: Plugin, T: JsonSchema>(what: impl Fn() -> String) -> Result<Schema, RegistrationError> {
    Schema::of::<T>(Unknown::AsDeclared).map_err(|source| RegistrationError::InvalidSchema {
        plugin: P::NAME,
        what: what(),
        source,
    })
}
