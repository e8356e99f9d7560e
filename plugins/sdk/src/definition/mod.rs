//! A plugin without its types: what the service holds and calls.
//!
//! Built once, at start, from a [`Plugin`]; everything that can be wrong with a plugin is found then. The test kit calls
//! the very same code. It does not decide when a handler is called, nor what becomes of the result. Up: `src/registry`
//! and `src/host`. Down: the traits.

/// Opens a context, awaits the body in it, closes it. A macro, for a closure cannot promise that its future is `Send`.
macro_rules! handling {
    ($plugin:ty, $declared:expr, $call:expr, |$cx:ident| $body:expr) => {
        Box::pin(async move {
            let cx = match $crate::Cx::<$plugin>::open($call, $declared) {
                Ok(cx) => cx,
                Err(error) => return $crate::Finished { result: Err(error), effects: $crate::Effects::default() },
            };
            let $cx = &cx;
            let result: $crate::Result<_> = async { $body }.await;
            cx.close(result)
        })
    };
}

mod action;
mod config;
mod process;
mod told;

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

pub(crate) use self::told::Told;
pub use self::{action::ActionDefinition, config::LoadedConfig, process::ProcessDefinition};
use crate::{
    Call, Concerns, Error, Handling, Manifest, Plugin, Registrar, RegistrationError, Result, Webhook,
    contract::{Name, Problem, ProblemKind, Violation},
    registrar::Registered,
    schema::{Schema, integral, read, summary},
};

/// The types of the events that a plugin has registered.
pub(crate) type Declared = Arc<BTreeSet<&'static str>>;

/// What reading a config gives: the typed config, and the platform's id of the community.
type ReadConfig = fn(Value, &str) -> std::result::Result<(Arc<dyn Any + Send + Sync>, Option<String>), Violation>;

/// A plugin, ready to be called.
pub struct PluginDefinition {
    name: Name,
    manifest: Manifest,
    config: Schema,
    declared: Declared,
    actions: BTreeMap<Name, ActionDefinition>,
    processes: BTreeMap<Name, ProcessDefinition>,
    tick_every: Option<Duration>,
    read_config: ReadConfig,
    concerns: fn(&Webhook) -> Concerns,
    lifecycle: Lifecycle,
}

/// The handlers of the plugin itself, typed inside, untyped outside.
struct Lifecycle {
    enabled: fn(Declared, Call) -> Handling<()>,
    config_changed: fn(Declared, Call, LoadedConfig) -> Handling<()>,
    disabled: fn(Declared, Call) -> Handling<()>,
    tick: fn(Declared, Call) -> Handling<()>,
    verify_webhook: fn(Declared, Call, Arc<Webhook>) -> Handling<()>,
    receive_webhook: fn(Declared, Call, Arc<Webhook>) -> Handling<()>,
}

impl PluginDefinition {
    /// Builds the definition of a plugin: registers everything, compiles every schema.
    ///
    /// # Errors
    /// [`RegistrationError`] where two actions, processes or events share a name, where a name is not valid, or where a
    /// schema is not valid or not that of an object.
    pub fn of<P: Plugin>() -> Result<Self, RegistrationError> {
        let Registered { name, config, mut actions, mut processes, events } = Registrar::<P>::collect()?;
        let manifest = Manifest::new::<P>(&name, &config, &actions, &processes, &events);
        // Known only now that everything is registered.
        let declared: Declared = Arc::new(events.into_keys().collect());
        for action in actions.values_mut() {
            action.declare(&declared);
        }
        for process in processes.values_mut() {
            process.declare(&declared);
        }
        Ok(Self {
            manifest,
            config,
            declared,
            actions,
            processes,
            tick_every: P::tick_every().map(|every| every.max(BEAT)),
            read_config: |value, base| {
                let config: P::Config = read(value, base)?;
                let platform_id = P::community_platform_id(&config);
                Ok((Arc::new(config), platform_id))
            },
            concerns: P::concerns,
            lifecycle: Lifecycle {
                enabled: |declared, call| {
                    handling!(P, declared, call, |cx| P::enabled(cx).await.map_err(Error::about_config))
                },
                config_changed: |declared, call, before| {
                    handling!(P, declared, call, |cx| {
                        let typed = before.typed::<P::Config>()?;
                        P::config_changed(cx, &typed).await.map_err(|error| before.hide_in(error.about_config()))
                    })
                },
                disabled: |declared, call| handling!(P, declared, call, |cx| P::disabled(cx).await),
                tick: |declared, call| handling!(P, declared, call, |cx| P::tick(cx).await),
                verify_webhook: |declared, call, hook| {
                    handling!(P, declared, call, |cx| P::verify_webhook(cx, &hook).await)
                },
                receive_webhook: |declared, call, hook| {
                    handling!(P, declared, call, |cx| P::receive_webhook(cx, &hook).await)
                },
            },
            name,
        })
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What the plugin offers, for documentation and review.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads a config, once for each instance: fills in the defaults, checks it, gives it its type. Pointers of
    /// violations start with `base`.
    ///
    /// # Errors
    /// A problem `invalid-config` that names every violation and repeats no value.
    pub fn load_config(&self, mut config: Value, base: &str) -> Result<LoadedConfig, Problem> {
        check(&self.config, &mut config, base, ProblemKind::InvalidConfig, "the config")?;
        let (typed, platform_id) = (self.read_config)(config.clone(), base)
            .map_err(|refused| unreadable(refused, ProblemKind::InvalidConfig, "the config"))?;
        let secrets = self.config.secret_places(&config);
        Ok(LoadedConfig::new(config, platform_id, typed, &secrets))
    }

    /// The config with its secrets masked, for everybody to see.
    #[must_use]
    pub fn mask_config(&self, config: &Value) -> Value {
        self.config.mask(config)
    }

    /// Where a config holds secrets: JSON pointers, none of them within another.
    #[must_use]
    pub fn secret_places(&self, config: &Value) -> Vec<String> {
        self.config.secret_places(config)
    }

    /// The action of this name.
    #[must_use]
    pub fn action(&self, name: &str) -> Option<&ActionDefinition> {
        self.actions.get(name)
    }

    /// The process of this name.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<&ProcessDefinition> {
        self.processes.get(name)
    }

    /// The names of all actions, in alphabetical order.
    pub fn action_names(&self) -> impl Iterator<Item = &str> {
        self.actions.keys().map(Name::as_str)
    }

    /// The names of all processes, in alphabetical order.
    pub fn process_names(&self) -> impl Iterator<Item = &str> {
        self.processes.keys().map(Name::as_str)
    }

    /// How often each instance is ticked; `None`: never.
    #[must_use]
    pub fn tick_every(&self) -> Option<Duration> {
        self.tick_every
    }

    /// Which open processes a webhook is about.
    #[must_use]
    pub fn concerns(&self, hook: &Webhook) -> Concerns {
        (self.concerns)(hook)
    }

    /// Calls [`Plugin::enabled`].
    #[must_use]
    pub fn enabled(&self, call: Call) -> Handling<()> {
        (self.lifecycle.enabled)(self.declared.clone(), call)
    }

    /// Calls [`Plugin::config_changed`]; `call.config` is the new config.
    #[must_use]
    pub fn config_changed(&self, call: Call, before: LoadedConfig) -> Handling<()> {
        (self.lifecycle.config_changed)(self.declared.clone(), call, before)
    }

    /// Calls [`Plugin::disabled`].
    #[must_use]
    pub fn disabled(&self, call: Call) -> Handling<()> {
        (self.lifecycle.disabled)(self.declared.clone(), call)
    }

    /// Calls [`Plugin::tick`].
    #[must_use]
    pub fn tick(&self, call: Call) -> Handling<()> {
        (self.lifecycle.tick)(self.declared.clone(), call)
    }

    /// Calls [`Plugin::verify_webhook`].
    #[must_use]
    pub fn verify_webhook(&self, call: Call, hook: Arc<Webhook>) -> Handling<()> {
        (self.lifecycle.verify_webhook)(self.declared.clone(), call, hook)
    }

    /// Calls [`Plugin::receive_webhook`].
    #[must_use]
    pub fn receive_webhook(&self, call: Call, hook: Arc<Webhook>) -> Handling<()> {
        (self.lifecycle.receive_webhook)(self.declared.clone(), call, hook)
    }
}

impl fmt::Debug for PluginDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginDefinition").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How often the scheduler looks for what is due; nothing comes due more often.
const BEAT: Duration = Duration::from_secs(1);

/// Settles what the numbers are and fills in defaults, then names everything that is wrong.
fn check(schema: &Schema, value: &mut Value, base: &str, kind: ProblemKind, what: &str) -> Result<(), Problem> {
    integral(value);
    schema.fill_defaults(value);
    let violations = schema.violations(value, base);
    if violations.is_empty() {
        return Ok(());
    }
    Err(Problem::new(kind, summary(what, &violations)).with_errors(violations))
}

/// The schema let something pass that the type refuses.
fn unreadable(refused: Violation, kind: ProblemKind, what: &str) -> Problem {
    let violations = vec![refused];
    Problem::new(kind, summary(what, &violations)).with_errors(violations)
}

/// An answer that breaks its own schema is the plugin's fault, and no driver shall have to cope with it.
fn check_answer(schema: &Schema, answer: &Value, what: &str) -> Result<()> {
    let violations = schema.violations(answer, "");
    if violations.is_empty() {
        return Ok(());
    }
    let detail = format!("the plugin breaks its own schema: {}", summary(what, &violations));
    Err(Error::Failed(Box::new(Problem::new(ProblemKind::InvalidOutput, detail).with_errors(violations))))
}
