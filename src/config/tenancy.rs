//! Which AMQP user may speak for which communities.
//!
//! Written as a list of bindings, `user=community` each, so that a file and a variable say it in the same way. Here it is
//! only read; what is refused by it is for `src/worker`, what the broker is told of it for `src/bus`. Up:
//! [`super::layers`]. Down: [`Tenancy`].

use std::collections::{BTreeMap, BTreeSet};

use metagov_sdk::contract::CommunitySlug;
use serde::Deserialize;

/// Who may speak for which communities.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenancy {
    /// Whether a command that does not say who sent it is refused.
    pub required: bool,
    /// Which user of the broker is bound to which community.
    pub users: Vec<Binding>,
    /// Further users of the service's own, besides those that `metagov topology export` writes.
    pub service_users: Vec<String>,
}

/// One user of the broker and one community, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Binding {
    /// The user, as the broker knows it.
    pub user: String,
    /// `None` for every community.
    pub community: Option<CommunitySlug>,
}

/// The communities that a user is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Communities {
    /// Every one, also those that are yet to come.
    All,
    /// These.
    These(BTreeSet<CommunitySlug>),
}

impl TryFrom<String> for Binding {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            "each must be USER=COMMUNITY or USER=*; a user is 1 to 64 of a-z, A-Z, 0-9, - and _, a community is its slug"
                .to_owned()
        };
        let (user, community) = text.split_once('=').ok_or_else(wrong)?;
        if !is_user(user) {
            return Err(wrong());
        }
        let community = match community {
            "*" => None,
            slug => Some(CommunitySlug::new(slug).map_err(|_| wrong())?),
        };
        Ok(Self { user: user.to_owned(), community })
    }
}

/// A word that is safe in the names of queues and in regular expressions. Without dots: the queues of a user begin with
/// its name and a dot, and so no user's queues begin as another's do.
pub(super) fn is_user(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Tenancy {
    /// Whether anybody is bound to anything; otherwise whoever reaches the broker may speak for everybody.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.required || !self.users.is_empty()
    }

    /// The users that are bound, with all that each is bound to.
    #[must_use]
    pub fn bound(&self) -> BTreeMap<String, Communities> {
        let mut bound = BTreeMap::new();
        for Binding { user, community } in &self.users {
            let communities = bound.entry(user.clone()).or_insert_with(|| Communities::These(BTreeSet::new()));
            match (communities, community) {
                (Communities::These(these), Some(community)) => {
                    these.insert(community.clone());
                }
                (all, None) => *all = Communities::All,
                (Communities::All, Some(_)) => {}
            }
        }
        bound
    }

    /// The service's own users: those of `metagov topology export`, and those that are set.
    #[must_use]
    pub fn service_users(&self, prefix: &str) -> BTreeSet<String> {
        let exported = ServiceRole::ALL.map(|role| role.user(prefix));
        self.service_users.iter().cloned().chain(exported).collect()
    }

    /// The first user that must not be bound: its queues would be the service's, or its word.
    pub(super) fn reserved_user(&self, prefix: &str) -> Option<&str> {
        let ours = self.service_users(prefix);
        let queues = ["amq".to_owned(), prefix.to_owned(), format!("{prefix}-subscription")];
        self.users
            .iter()
            .map(|binding| &binding.user)
            .find(|user| ours.contains(*user) || queues.contains(user))
            .map(String::as_str)
    }
}

/// What part of the service a user of the broker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceRole {
    /// Takes commands, publishes events.
    Worker,
    /// Publishes what is due.
    Scheduler,
    /// Publishes what comes over HTTP.
    Gateway,
    /// Declares, looks, retries and replays.
    Admin,
}

impl ServiceRole {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Worker, Self::Scheduler, Self::Gateway, Self::Admin];

    /// The user that `metagov topology export` gives it.
    #[must_use]
    pub fn user(self, prefix: &str) -> String {
        let role = match self {
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
            Self::Gateway => "gateway",
            Self::Admin => "admin",
        };
        format!("{prefix}-{role}")
    }
}
