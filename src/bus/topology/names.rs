//! The queues that are consumed, and what everything is called under a prefix.
//!
//! Up: [`super::Topology`]. Down: every place that names an exchange or a queue.

use metagov_sdk::contract::Name;

use crate::bus::DelayStep;

/// The queues that are consumed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Queue {
    /// What people wait for: actions, processes and webhooks of one plugin.
    Plugin(Name),
    /// The background work of one plugin: polls and ticks.
    Poll(Name),
    /// Communities, and which plugins are enabled in them.
    Core,
    /// Commands that nobody wants, to be answered with `command.rejected`.
    Unrouted,
    /// Commands whose `expiration` was over in their queue, to be answered with `command.rejected`.
    Expired,
}

impl Queue {
    /// What kind of queue it is, as the label of the figures.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Plugin(_) => "plugin",
            Self::Poll(_) => "poll",
            Self::Core => "core",
            Self::Unrouted => "unrouted",
            Self::Expired => "expired",
        }
    }
}

/// The names that a prefix gives to everything; tests use one prefix each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// The names under this prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange of commands.
    #[must_use]
    pub fn commands(&self) -> String {
        format!("{}.commands", self.prefix)
    }

    /// The exchange of events.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// Exchange and queue of commands that nobody wants.
    #[must_use]
    pub fn unrouted(&self) -> String {
        format!("{}.unrouted", self.prefix)
    }

    /// Exchange of everything that dies, and queue of the dead letters.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// Exchange that looks at why something died, and queue of the commands that expired.
    #[must_use]
    pub fn expired(&self) -> String {
        format!("{}.expired", self.prefix)
    }

    /// Exchange of what died of anything else.
    #[must_use]
    pub fn kept(&self) -> String {
        format!("{}.kept", self.prefix)
    }

    /// Exchange and queue of a delay step.
    #[must_use]
    pub fn delay(&self, step: DelayStep) -> String {
        format!("{}.delay.{}", self.prefix, step.name())
    }

    /// A consumed queue.
    #[must_use]
    pub fn queue(&self, queue: &Queue) -> String {
        match queue {
            Queue::Plugin(plugin) => format!("{}.plugin.{plugin}", self.prefix),
            Queue::Poll(plugin) => format!("{}.poll.{plugin}", self.prefix),
            Queue::Core => format!("{}.core", self.prefix),
            Queue::Unrouted => self.unrouted(),
            Queue::Expired => self.expired(),
        }
    }

    /// The queue of a subscription. Neither one of the server's `amq.gen-` names nor one of the service's own: replies
    /// are sent to no such queue.
    pub(in crate::bus) fn subscription(&self) -> String {
        format!("{}-subscription.{}", self.prefix, uuid::Uuid::new_v4())
    }
}
