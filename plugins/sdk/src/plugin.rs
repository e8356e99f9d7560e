//! A plugin: what connects a community to one platform.
//!
//! [`Plugin`] names the config and registers actions, processes and events; everything else is optional and does
//! nothing by default. No value of the type is ever made: what a plugin remembers is its state, kept by the service.
//! Up: the list in `src/plugins.rs`. Down: [`crate::Action`] and [`crate::Process`].

use std::time::Duration;

use crate::{Cx, Payload, Registrar, Result, Webhook};

/// A plugin. See the crate's page for a whole one.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The name on the wire, `[a-z0-9][a-z0-9-]{0,62}`.
    const NAME: &'static str;

    /// What it is, for people; the doc comment of `Config` where this is empty.
    const DESCRIPTION: &'static str = "";

    /// What a community sets when it enables the plugin; [`crate::Empty`] where there is nothing to set.
    type Config: Payload;

    /// Names the actions, processes and events. Called once, at start.
    fn register(plugin: &mut Registrar<Self>);

    /// The platform's own id of the community (a Slack team, a GitHub organisation). It tells several instances in one
    /// community apart. `None` where there is only ever one.
    #[must_use]
    fn community_platform_id(config: &Self::Config) -> Option<String> {
        let _ = config;
        None
    }

    /// Once, when a community enables the plugin. A rejection refuses the config.
    fn enabled(cx: &Cx<Self>) -> impl Future<Output = Result<()>> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// The config was changed; state and open processes stay. A rejection keeps the old config.
    fn config_changed(cx: &Cx<Self>, before: &Self::Config) -> impl Future<Output = Result<()>> + Send {
        let _ = (cx, before);
        async { Ok(()) }
    }

    /// Once, when a community disables the plugin: the place to take back what `enabled` set up on the platform.
    fn disabled(cx: &Cx<Self>) -> impl Future<Output = Result<()>> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// Asks the platform for news, for platforms that do not push. Called at the pace of [`Plugin::tick_every`].
    fn tick(cx: &Cx<Self>) -> impl Future<Output = Result<()>> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// How often `tick` is called for each instance, once a second at most; `None`: never.
    #[must_use]
    fn tick_every() -> Option<Duration> {
        None
    }

    /// How often open processes are polled that do not say so themselves.
    #[must_use]
    fn poll_every() -> Duration {
        Duration::from_mins(1)
    }

    /// Whether a webhook really comes from the platform. Called before anything else sees it;
    /// [`crate::Error::invalid_signature`] refuses it.
    fn verify_webhook(cx: &Cx<Self>, hook: &Webhook) -> impl Future<Output = Result<()>> + Send {
        let _ = (cx, hook);
        async { Ok(()) }
    }

    /// A verified webhook, before the processes that it concerns see it: the place to emit events.
    fn receive_webhook(cx: &Cx<Self>, hook: &Webhook) -> impl Future<Output = Result<()>> + Send {
        let _ = (cx, hook);
        async { Ok(()) }
    }

    /// Which open processes a webhook is about, so that it does not wake them all.
    #[must_use]
    fn concerns(hook: &Webhook) -> Concerns {
        let _ = hook;
        Concerns::EveryProcess
    }
}

/// Which open processes of an instance a webhook is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerns {
    /// All of them; each looks for itself.
    EveryProcess,
    /// Those whose [`crate::Process::webhook_key`] is this.
    Process(String),
    /// None of them.
    NoProcess,
}
