//! The context of a handler: everything it may use, and nothing else.
//!
//! Config, community, initiator, the plugin's state, time, randomness, HTTP, the idempotency key, and a way to tell
//! events. No broker and no database: what a handler wants stored it returns, sets or emits. Up: [`Call`]. Down:
//! [`Effects`].

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Call, Effects, Error, Finished, HttpClient, Plugin, PluginEvent, Result,
    contract::{CommunitySlug, Initiator, PlatformEvent, Timestamp},
    definition::Told,
    steps,
};

/// The context of one call of a handler of plugin `P`.
pub struct Cx<P: Plugin> {
    call: Call,
    config: Arc<P::Config>,
    http: HttpClient,
    declared: Arc<BTreeSet<&'static str>>,
    so_far: Mutex<SoFar>,
}

/// What the call has done so far.
#[derive(Default)]
struct SoFar {
    generator: Option<ChaCha20Rng>,
    effects: Effects,
    steps: BTreeSet<String>,
    nothing_to_poll: bool,
}

impl<P: Plugin> Cx<P> {
    /// Opens the context of a call; `declared` are the events of the plugin's manifest.
    pub(crate) fn open(call: Call, declared: Arc<BTreeSet<&'static str>>) -> Result<Self> {
        let config = call.config.typed::<P::Config>()?;
        let http = call.environment.http.lent_to(P::NAME);
        Ok(Self { call, config, http, declared, so_far: Mutex::default() })
    }

    /// Closes the context. What was set and emitted counts only where the call succeeded: a failed call has done
    /// nothing, so that trying again cannot do it twice.
    pub(crate) fn close<T: Told>(self, result: Result<T>) -> Finished<T> {
        let (config, so_far) = (&self.call.config, self.so_far.into_inner().unwrap_or_else(PoisonError::into_inner));
        match result {
            Ok(mut answer) => {
                let mut effects = so_far.effects;
                answer.hide(config);
                effects.events.iter_mut().for_each(|event| event.data.hide(config));
                Finished { result: Ok(answer), effects }
            }
            Err(error) => Finished { result: Err(config.hide_in(error)), effects: Effects::default() },
        }
    }

    /// The instance's config.
    #[must_use]
    pub fn config(&self) -> &P::Config {
        &self.config
    }

    /// The community on whose behalf this is.
    #[must_use]
    pub fn community(&self) -> &CommunitySlug {
        &self.call.community
    }

    /// The platform's own id of the community, where the plugin has one.
    #[must_use]
    pub fn community_platform_id(&self) -> Option<&str> {
        self.call.community_platform_id.as_deref().or(self.call.config.platform_id.as_deref())
    }

    /// The plugin instance.
    #[must_use]
    pub fn instance_id(&self) -> Uuid {
        self.call.instance_id
    }

    /// Who asked, where the driver said so.
    #[must_use]
    pub fn initiator(&self) -> Option<&Initiator> {
        self.call.initiator.as_ref()
    }

    /// The same for every attempt at the same command: what a platform that takes idempotency keys is given.
    #[must_use]
    pub fn idempotency_key(&self) -> Uuid {
        self.call.idempotency_key
    }

    /// The idempotency key of one step: the same for every attempt at it, and another for each step of the command. A
    /// command that calls its platform twice gives each call its own.
    #[must_use]
    pub fn step_key(&self, name: &str) -> Uuid {
        Uuid::new_v5(&self.call.idempotency_key, name.as_bytes())
    }

    /// Does this part of the handler once, however often the handler is called for the command: an `Ok` is kept before
    /// this returns, and the next attempt is given it without running `work`. An error is not kept.
    ///
    /// Kept in `keyed`, `idempotent` and `unsafe` actions and where a process is started or closed, if the command has
    /// a `message_id` to keep it with; elsewhere `work` simply runs. The results go when the command is finished; where
    /// the clock closes a process, when that has ended.
    ///
    /// # Errors
    /// What `work` answers. [`Error::Failed`] in a `pure` action; for a name that is not `[a-z0-9][a-z0-9-]{0,62}` or
    /// was used before in this call; and where the result cannot be read back as `T`. Where another worker has taken
    /// over the command meanwhile, whatever the handler answers is dropped.
    pub async fn step<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        steps::claim(name, &mut self.so_far().steps)?;
        self.call.steps.run(name, work).await
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// The time. Handlers take it from here, so that tests can set it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.call.environment.clock.now()
    }

    /// A random number generator of its own: `cx.rng().random_range(1..=6)`. Fit for secrets and for draws by lot.
    #[must_use]
    pub fn rng(&self) -> ChaCha20Rng {
        let mut so_far = self.so_far();
        let generator = so_far.generator.get_or_insert_with(|| self.call.environment.entropy.generator());
        ChaCha20Rng::from_rng(generator)
    }

    /// HTTP with time-outs and without a way into the service's own network. A host that fails this plugin again and
    /// again is left alone for half a minute, and calls to it end at once as passing trouble.
    #[must_use]
    pub fn http(&self) -> &HttpClient {
        &self.http
    }

    /// What the plugin remembers for this instance, including what this call has set; `None`: nothing yet.
    ///
    /// # Errors
    /// [`Error::Failed`] where what is stored cannot be read as `T`: an older version of the plugin wrote it.
    pub fn state<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let so_far = self.so_far();
        let Some(state) = so_far.effects.state.as_ref().or(self.call.state.as_deref()) else { return Ok(None) };
        T::deserialize(state).map(Some).map_err(|error| {
            Error::failed(format!(
                "the stored state of the plugin cannot be read by this version of it: {}",
                crate::schema::of_reader(&error)
            ))
        })
    }

    /// Remembers something for this instance, in place of what was there. Stored when the call succeeds; where another
    /// call has changed it meanwhile, this one runs again on the fresh state.
    ///
    /// # Errors
    /// [`Error::Failed`] in a `pure` or `unsafe` action, and where `state` cannot be written as JSON.
    pub fn set_state<T: Serialize>(&self, state: &T) -> Result<()> {
        if !self.call.may_keep_state {
            return Err(Error::failed(
                "this call may not keep plugin state, for it cannot be run again where two changes meet; \
                 declare the action as idempotent or keyed, or keep the state elsewhere",
            ));
        }
        let value: Value = serde_json::to_value(state)?;
        self.so_far().effects.state = Some(value);
        Ok(())
    }

    /// Tells drivers that something happened on the platform. Published once the call has succeeded.
    ///
    /// # Errors
    /// [`Error::Failed`] where the event was not registered, and where it cannot be written as JSON.
    pub fn emit<E: PluginEvent>(&self, event: &E) -> Result<()> {
        if !self.declared.contains(E::TYPE) {
            let message = "is not registered: add `plugin.event::<…>()` to `register`";
            return Err(Error::failed(format!("the event '{}' {message}", E::TYPE)));
        }
        let event = PlatformEvent {
            event_type: E::TYPE.to_owned(),
            data: serde_json::to_value(event)?,
            initiator: event.initiator(),
        };
        self.so_far().effects.events.push(event);
        Ok(())
    }

    /// Called by the default of [`crate::Process::poll`] alone.
    pub(crate) fn note_nothing_to_poll(&self) {
        self.so_far().nothing_to_poll = true;
    }

    /// Whether the process that was polled has no `poll` of its own.
    pub(crate) fn nothing_to_poll(&self) -> bool {
        self.so_far().nothing_to_poll
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Plugin> fmt::Debug for Cx<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("plugin", &P::NAME)
            .field("community", &self.call.community)
            .field("instance_id", &self.call.instance_id)
            .finish_non_exhaustive()
    }
}
