//! Refusals: the end of a webhook that its plugin, or nobody, takes.
//!
//! It makes no event, for strangers must not fill a driver's queue. It is counted, logged, acknowledged, and answered at
//! `reply_to`, which no stranger can set. Nothing is remembered of it, so its next delivery counts. A command that is no
//! well-formed webhook, names a plugin that does not exist, or came too late, is its sender's fault and rejected like every
//! other.
//!
//! Called by [`super::rejection`]. Calls the publisher, for the reply.

use metagov_sdk::contract::{Problem, ProblemKind};

use super::{answer::to_reply, envelope::Envelope, settle::Settler, verdict::Ending};
use crate::telemetry::measures;

impl Settler {
    /// Whether this rejection is the refusal of a webhook.
    pub(super) fn is_refusal(&self, envelope: &Envelope, problem: &Problem) -> bool {
        let is_known = |plugin| self.handlers.registry.get(plugin).is_some();
        envelope.is_webhook()
            && problem.kind != ProblemKind::Expired
            && envelope.plugin.as_ref().is_some_and(|plugin| is_known(plugin.as_str()))
    }

    /// Refuses a webhook: it is as if it had never come.
    pub(super) async fn refuse(&self, envelope: &Envelope, problem: Box<Problem>) -> Ending {
        let plugin = envelope.plugin.as_ref().map_or_else(String::new, ToString::to_string);
        metrics::counter!(measures::WEBHOOKS_REFUSED, "plugin" => plugin, "reason" => problem.kind.slug()).increment(1);
        let answer = envelope.rejection((*problem).clone(), self.handlers.now());
        let reply: Vec<_> = to_reply(&answer, envelope).into_iter().collect();
        if reply.is_empty() || self.publish(reply).await { Ending::Rejected(problem) } else { Ending::Unfinished }
    }
}
