//! Deliveries of webhooks: what one is recognised by.
//!
//! A platform that is not sure whether it was heard delivers once more. So a webhook is recognised by its plugin instance and
//! its delivery: the platform's own id of it, else a hash of the body. The `message_id` of the command that brings it is no
//! key, only the cause of its events: one delivery under two of them counts once, and two deliveries under one both count,
//! for no vote may be lost because of how its command was labelled.
//!
//! Only what was taken is remembered ([`super::refusal`]): nobody can spend the id of a delivery before its platform uses it.
//!
//! Called by [`super::envelope`] and [`super::webhook`]. Calls nothing.

use metagov_sdk::{
    Webhook,
    contract::{Command, MessageId, Problem, ProblemKind},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What is wrong with a command that is to bring a webhook, whatever the webhook says.
pub(super) fn flaw(command: &Command) -> Option<Problem> {
    let Command::Webhook(_, body) = command else { return None };
    if body.community.is_none() && body.community_platform_id.is_none() {
        let detail = "a webhook must name its community or its community_platform_id";
        return Some(Problem::new(ProblemKind::InvalidCommand, detail));
    }
    Webhook::from_command(body).err()
}

/// The key of a delivery to a plugin instance.
pub(super) fn key_of(instance: Uuid, hook: &Webhook) -> MessageId {
    let namespace = |what: &str| Uuid::new_v5(&instance, what.as_bytes());
    let key = match hook.delivery_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Uuid::new_v5(&namespace("delivery"), id.as_bytes()),
        // Without a body the whole message is in the query.
        None if hook.body.is_empty() => Uuid::new_v5(&namespace("query"), hook.query.as_bytes()),
        None => Uuid::new_v5(&namespace("body"), &Sha256::digest(&hook.body)),
    };
    MessageId::new(&key.to_string()).expect("a UUID is a key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(delivery_id: Option<&str>, query: &str, body: &str) -> Webhook {
        Webhook {
            method: "POST".into(),
            path: "/".into(),
            query: query.into(),
            headers: Vec::new(),
            body: body.into(),
            received_at: chrono::Utc::now(),
            delivery_id: delivery_id.map(str::to_owned),
        }
    }

    #[test]
    fn a_delivery_is_its_platforms_id_else_its_body_else_its_query_at_one_instance() {
        let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let key = |id: Option<&str>, query: &str, body: &str| key_of(one, &hook(id, query, body));
        assert_eq!(key(Some("7"), "", "a"), key(Some("7"), "b", "c"), "a platform may sign it once more");
        assert_ne!(key(Some("7"), "", "a"), key(Some("8"), "", "a"));
        assert_eq!(key(None, "at=1", "a"), key(None, "at=2", "a"));
        assert_eq!(key(Some(""), "", "a"), key(None, "", "a"), "an empty id says nothing");
        assert_ne!(key(None, "", "a"), key(None, "", "b"));
        assert_ne!(key(None, "vote=1", ""), key(None, "vote=2", ""));
        let all = [key(Some("a"), "a", "a"), key(None, "a", "a"), key(None, "a", "")];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "an id is no body, and a body no query");
        assert_ne!(key(Some("7"), "", "a"), key_of(other, &hook(Some("7"), "", "a")));
    }
}
