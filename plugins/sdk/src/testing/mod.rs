//! The test kit: a plugin instance in one community, run by the very definitions that production runs.
//!
//! Time stands still until [`Tester::advance`], chance is seeded, events are recorded, and no service is needed. HTTP
//! reaches the machine itself, for a server within the test. What is not here is what the worker adds: deadlines,
//! retries, deduplication. Up: a plugin's tests. Down: [`PluginDefinition`].

mod process;
mod world;

use std::{
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::process::Record;
pub use self::{
    process::ProcessUnderTest,
    world::{FrozenClock, SeededEntropy},
};
use crate::{
    Action, Call, Clock as _, Concerns, Egress, Environment, Error, Finished, HttpClient, LoadedConfig, Manifest,
    MemorySteps, Plugin, PluginDefinition, Process, Result, Steps, Webhook,
    contract::{CommunitySlug, Initiator, PlatformEvent, Problem, ProblemKind, Timestamp, event::derive_uuid},
};

/// A plugin that is enabled in the community `test`. Clones are the same instance.
pub struct Tester<P> {
    inner: Arc<Inner>,
    plugin: PhantomData<fn() -> P>,
}

struct Inner {
    definition: PluginDefinition,
    clock: Arc<FrozenClock>,
    environment: Environment,
    instance: Mutex<Instance>,
}

/// What the database would hold.
struct Instance {
    config: LoadedConfig,
    state: Option<Arc<Value>>,
    initiator: Option<Initiator>,
    events: Vec<PlatformEvent>,
    processes: Vec<Record>,
    next_tick: Option<Timestamp>,
    calls: u64,
    attempt: u32,
    is_retry: bool,
    steps: Arc<MemorySteps>,
}

impl<P: Plugin> Tester<P> {
    /// Enables the plugin with this config: checks it and calls [`Plugin::enabled`].
    ///
    /// # Errors
    /// What a driver would be told: a config that breaks its schema, or what `enabled` answered.
    ///
    /// # Panics
    /// Where the plugin cannot be registered, or the config cannot be written as JSON.
    pub async fn enable(config: impl Serialize) -> Result<Self> {
        let definition = definition::<P>();
        let config = definition.load_config(json(&config), "/config").map_err(rejected)?;
        let clock = Arc::new(FrozenClock::default());
        let environment = Environment {
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::default()),
            http: HttpClient::new(Egress::PublicAndLoopback),
        };
        let instance = Instance {
            config,
            state: None,
            initiator: None,
            events: Vec::new(),
            processes: Vec::new(),
            next_tick: definition.tick_every().map(|every| clock.now() + every),
            calls: 0,
            attempt: 1,
            is_retry: false,
            steps: Arc::default(),
        };
        let inner = Inner { definition, clock, environment, instance: Mutex::new(instance) };
        let tester = Self { inner: Arc::new(inner), plugin: PhantomData };
        tester.settle(tester.inner.definition.enabled(tester.call()).await)?;
        Ok(tester)
    }

    /// The plugin's manifest, to be kept as a snapshot.
    ///
    /// # Panics
    /// Where the plugin cannot be registered.
    #[must_use]
    pub fn manifest() -> Manifest {
        definition::<P>().manifest().clone()
    }

    /// From now on, calls are made on behalf of this user.
    pub fn set_initiator(&self, initiator: Option<Initiator>) {
        self.instance().initiator = initiator;
    }

    /// The time of the test.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// What the plugin remembers; `None`: nothing yet.
    ///
    /// # Panics
    /// Where it is not a `T`.
    #[must_use]
    pub fn state<T: DeserializeOwned>(&self) -> Option<T> {
        self.instance().state.as_deref().map(typed)
    }

    /// The events of the platform that have been emitted so far.
    #[must_use]
    pub fn events(&self) -> Vec<PlatformEvent> {
        self.instance().events.clone()
    }

    /// The steps that the last command has finished, with their results.
    #[must_use]
    pub fn steps(&self) -> BTreeMap<String, Value> {
        self.instance().steps.finished()
    }

    /// Makes the next call another attempt at the last command, as after passing trouble or a crash: the same
    /// idempotency key, and its finished steps at hand. A crash is a call whose future was dropped before it ended.
    ///
    /// `tester.retry().start::<Vote>(…)` starts where the start before it stopped.
    #[must_use]
    pub fn retry(&self) -> &Self {
        self.instance().is_retry = true;
        self
    }

    /// Changes the config; state and processes stay.
    ///
    /// # Errors
    /// What a driver would be told; the old config stays.
    ///
    /// # Panics
    /// Where the config cannot be written as JSON.
    pub async fn change_config(&self, config: impl Serialize) -> Result<()> {
        let after = self.inner.definition.load_config(json(&config), "/config").map_err(rejected)?;
        let mut call = self.call();
        let before = std::mem::replace(&mut call.config, after.clone());
        self.settle(self.inner.definition.config_changed(call, before).await)?;
        self.instance().config = after;
        Ok(())
    }

    /// Disables the plugin: calls [`Plugin::disabled`], then ends what is open with the problem `plugin-disabled`.
    ///
    /// # Errors
    /// What `disabled` answered; the processes end nevertheless.
    pub async fn disable(&self) -> Result<()> {
        let result = self.settle(self.inner.definition.disabled(self.call()).await);
        let problem = Problem::new(ProblemKind::PluginDisabled, "the plugin was disabled while the process was open");
        let mut instance = self.instance();
        instance.next_tick = None;
        instance.processes.iter_mut().for_each(|record| record.fail(&problem));
        result
    }

    /// Calls [`Plugin::tick`] now.
    ///
    /// # Errors
    /// What `tick` answered.
    pub async fn tick(&self) -> Result<()> {
        self.settle(self.inner.definition.tick(self.call()).await)
    }

    /// Runs an action: `tester.run(RandomInt { low: Some(1), high: None })`. It crosses JSON and both schemas, as in
    /// production.
    ///
    /// # Errors
    /// What a driver would be told.
    ///
    /// # Panics
    /// Where the action is not registered.
    pub async fn run<A: Action<P>>(&self, action: A) -> Result<A::Output> {
        self.run_json(A::NAME, json(&action)).await.map(|output| typed(&output))
    }

    /// Runs an action by its name on the wire.
    ///
    /// # Errors
    /// What a driver would be told, violations of the schema included.
    ///
    /// # Panics
    /// Where no action has this name.
    pub async fn run_json(&self, name: &str, parameters: Value) -> Result<Value> {
        let action = self.inner.definition.action(name).expect("the action is registered");
        let parameters = action.check(parameters).map_err(rejected)?;
        self.settle(action.run(self.call(), parameters).await)
    }

    /// Starts a process: `tester.start::<Vote>(json!({"options": ["a", "b"]}))`.
    ///
    /// # Errors
    /// What a driver would be told; there is no process then.
    ///
    /// # Panics
    /// Where the process is not registered, or the parameters cannot be written as JSON.
    pub async fn start<S: Process<P>>(&self, parameters: impl Serialize) -> Result<ProcessUnderTest<P>> {
        self.start_json(S::NAME, json(&parameters)).await
    }

    /// Starts a process by its name on the wire.
    ///
    /// # Errors
    /// What a driver would be told; there is no process then.
    ///
    /// # Panics
    /// Where no process has this name.
    pub async fn start_json(&self, name: &str, parameters: Value) -> Result<ProcessUnderTest<P>> {
        let process = self.inner.definition.process(name).expect("the process is registered");
        let parameters = process.check(parameters).map_err(rejected)?;
        let started = self.settle(process.start(self.call(), parameters).await)?;
        let mut instance = self.instance();
        instance.processes.push(Record::new(process.name().clone(), started, self.now()));
        Ok(ProcessUnderTest { tester: self.clone(), index: instance.processes.len() - 1 })
    }

    /// Delivers a webhook: it is verified, the plugin receives it, then the open processes that it concerns.
    ///
    /// # Errors
    /// What verifying or receiving answered; then no process has seen it. An error of a process is kept in the process.
    pub async fn webhook(&self, hook: Webhook) -> Result<()> {
        let (definition, hook) = (&self.inner.definition, Arc::new(hook));
        self.settle(definition.verify_webhook(self.call(), hook.clone()).await)?;
        self.settle(definition.receive_webhook(self.call(), hook.clone()).await)?;
        let concerns = definition.concerns(&hook);
        let count = self.instance().processes.len();
        for index in 0..count {
            let process = ProcessUnderTest { tester: self.clone(), index };
            let concerned = match &concerns {
                Concerns::EveryProcess => true,
                Concerns::Process(key) => process.webhook_key().as_ref() == Some(key),
                Concerns::NoProcess => false,
            };
            if concerned && process.is_pending() {
                // What went wrong stands in the process.
                let _ = process.receive_webhook_shared(hook.clone()).await;
            }
        }
        Ok(())
    }

    /// Moves the clock. Whatever falls due on the way happens at its time and in its order: processes are polled and
    /// closed, and the plugin is ticked, as the scheduler would have it.
    ///
    /// # Panics
    /// Where a tick fails. Errors of processes are kept in the process.
    pub async fn advance(&self, by: Duration) {
        let until = self.now() + by;
        while let Some((at, due)) = self.next_due(until) {
            self.inner.clock.set(at.max(self.now()));
            match due {
                Due::Tick => {
                    let every = self.inner.definition.tick_every();
                    self.instance().next_tick = every.map(|every| self.now() + every);
                    self.tick().await.expect("the tick succeeds");
                }
                Due::Process(index) => ProcessUnderTest { tester: self.clone(), index }.handle_due().await,
            }
        }
        self.inner.clock.set(until);
    }

    fn next_due(&self, until: Timestamp) -> Option<(Timestamp, Due)> {
        let instance = self.instance();
        let processes = instance.processes.iter().enumerate();
        let processes = processes.filter_map(|(index, record)| Some((record.due_at?, Due::Process(index))));
        let tick = instance.next_tick.map(|at| (at, Due::Tick));
        processes.chain(tick).filter(|(at, _)| *at <= until).min_by_key(|(at, _)| *at)
    }

    /// A call as the worker would make it.
    fn call(&self) -> Call {
        let mut instance = self.instance();
        if std::mem::take(&mut instance.is_retry) {
            instance.attempt += 1;
        } else {
            instance.calls += 1;
            instance.attempt = 1;
            instance.steps = Arc::default();
        }
        let count = instance.calls.to_string();
        Call {
            community: CommunitySlug::new("test").expect("it is a slug"),
            community_platform_id: instance.config.platform_id.clone(),
            instance_id: derive_uuid(&["tester", P::NAME]),
            config: instance.config.clone(),
            state: instance.state.clone(),
            initiator: instance.initiator.clone(),
            idempotency_key: derive_uuid(&["tester", P::NAME, &count]),
            attempt: instance.attempt,
            may_keep_state: true,
            steps: Steps::kept(instance.steps.clone()),
            environment: self.inner.environment.clone(),
        }
    }

    /// Stores what a call did.
    fn settle<T>(&self, finished: Finished<T>) -> Result<T> {
        let mut instance = self.instance();
        if let Some(state) = finished.effects.state {
            instance.state = Some(Arc::new(state));
        }
        instance.events.extend(finished.effects.events);
        finished.result
    }

    fn instance(&self) -> MutexGuard<'_, Instance> {
        self.inner.instance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Due {
    Tick,
    Process(usize),
}

impl<P> Clone for Tester<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), plugin: PhantomData }
    }
}

impl<P> fmt::Debug for Tester<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tester").field("plugin", self.inner.definition.name()).finish_non_exhaustive()
    }
}

fn definition<P: Plugin>() -> PluginDefinition {
    PluginDefinition::of::<P>().unwrap_or_else(|error| panic!("the plugin cannot be registered: {error}"))
}

fn rejected(problem: Problem) -> Error {
    Error::Rejected(Box::new(problem))
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("it can be written as JSON")
}

fn typed<T: DeserializeOwned>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_else(|error| panic!("{value} is not what the test expects: {error}"))
}
