//! Commands about votes and about what a plugin remembers, as drivers, gateways and schedulers send them, and what became
//! of them.
//!
//! A webhook has no answer, whether it is taken or refused: its delivery in the inbox says that it was taken. Up: [`crate::mix`], [`crate::crowd`]. Down:
//! [`crate::vote`], which handles them.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    driver::Command,
    rig::{QUIET, Service, command},
    rows,
    vote::{Cast, KEY, Memory, SIGNATURE},
};

/// A plugin instance, by its community and by what tells it apart there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) community: &'static str,
    pub(crate) team: Option<&'static str>,
}

impl Place {
    fn with(self, members: &Value) -> Value {
        let mut body = json!({ "community": self.community, "community_platform_id": self.team });
        let all = body.as_object_mut().expect("it is one");
        all.extend(members.as_object().expect("it is one").clone());
        all.retain(|_, value| !value.is_null());
        body
    }

    /// Starts a vote; its parameters are those of [`crate::vote::Call`].
    pub(crate) fn start(self, process: Uuid, parameters: &Value) -> Command {
        command("process.puppet.vote.start", &self.with(&json!({ "process_id": process, "parameters": parameters })))
    }

    /// Closes a vote.
    pub(crate) fn close(self, process: Uuid) -> Command {
        command("process.puppet.vote.close", &json!({ "community": self.community, "process_id": process }))
    }

    /// Adds a number to what the plugin remembers.
    pub(crate) fn count(self, number: u64) -> Command {
        command("action.puppet.count", &self.with(&json!({ "parameters": { "number": number } })))
    }

    /// A webhook that casts a number in the vote of this key, or leaves it to the plugin itself.
    pub(crate) fn hook(self, key: Option<&str>, cast: &Cast) -> Command {
        let mut headers = vec![json!([SIGNATURE.0, SIGNATURE.1])];
        headers.extend(key.map(|key| json!([KEY, key])));
        let body = STANDARD.encode(serde_json::to_vec(cast).expect("it is plain data"));
        let request =
            json!({ "method": "POST", "path": "/hooks/puppet", "query": "", "headers": headers, "body_base64": body });
        let mut hook = command("webhook.puppet", &Value::Null);
        let received_at = "2026-11-29T12:00:00Z";
        let body = json!({ "delivery_id": hook.id, "received_at": received_at, "request": request });
        hook.body = self.with(&body).to_string().into_bytes();
        hook
    }

    /// What the plugin remembers here.
    pub(crate) async fn memory(self, service: &Service) -> Memory {
        let store = rows::store(&service.database_url, 1).await;
        let community = self.community.parse().expect("a slug");
        let instances = store.instances(&community).await.expect("the database answers");
        let here = instances.into_iter().find(|instance| instance.platform_id.as_deref() == self.team);
        let state = here.and_then(|instance| instance.state);
        state.map_or_else(Memory::default, |state| serde_json::from_value(state).expect("the puppet wrote it"))
    }
}

/// The same delivery once more, in a command of its own, as a platform does that was not sure.
pub(crate) fn again(hook: &Command) -> Command {
    let mut again = command("webhook.puppet", &Value::Null);
    again.body.clone_from(&hook.body);
    again
}

/// A delivery of this id that no platform has made, and that would count if it was believed.
pub(crate) fn forged(hook: &Command) -> Command {
    let mut forged = again(hook);
    let text = String::from_utf8(forged.body).expect("it is JSON");
    forged.body = text.replace(SIGNATURE.1, "guessed").into_bytes();
    forged
}

/// Webhooks that were taken.
pub(crate) async fn taken(service: &Service) -> usize {
    service.sql("SELECT COUNT(*) FROM inbox WHERE routing_key = 'webhook.puppet' AND status = 'finished'").await
}

/// Waits until so many webhooks are taken, or until nothing comes any more; how many were.
pub(crate) async fn all_taken(service: &Service, hooks: &[Command]) -> usize {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let taken = taken(service).await;
        if taken >= hooks.len() || since.elapsed() > QUIET {
            return taken;
        }
        if taken > last {
            (last, since) = (taken, Instant::now());
        }
        sleep(Duration::from_millis(250)).await;
    }
}
