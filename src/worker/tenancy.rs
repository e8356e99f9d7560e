//! Who may command what: the user that the broker vouches for, against the communities that it is bound to.
//!
//! With nobody bound and nothing required, whoever reaches the broker speaks for every community. A refusal never names
//! the community it was about to anybody else: it is told under `_`, and to the sender's own `reply_to`. Up:
//! [`super::envelope`], which asks. Down: the settings of `[tenancy]`.

use std::collections::{BTreeMap, BTreeSet};

use metagov_sdk::contract::{CommunitySlug, Problem, ProblemKind};

use crate::config::{self, Communities};

/// Which user may command which community, and where its answers may go.
#[derive(Debug, Clone, Default)]
pub struct Tenancy {
    required: bool,
    bound: BTreeMap<String, Communities>,
    service: BTreeSet<String>,
}

impl Tenancy {
    /// The settings, with the service's own users: they speak for everybody. The default binds nobody.
    #[must_use]
    pub fn new(settings: &config::Tenancy, service_users: BTreeSet<String>) -> Self {
        Self { required: settings.required, bound: settings.bound(), service: service_users }
    }

    /// Why this user may not send this command; `None` where it may. What is unreadable names no community, and is
    /// refused for what it is.
    #[must_use]
    pub(super) fn refusal(
        &self,
        user: Option<&str>,
        community: Option<&CommunitySlug>,
        is_readable: bool,
    ) -> Option<Problem> {
        let forbidden = |detail: &str| Some(Problem::new(ProblemKind::Forbidden, detail));
        let Some(user) = user else {
            let detail = "the property user_id is missing; set it to the user that you connect to the broker as";
            return if self.required { forbidden(detail) } else { None };
        };
        let Communities::These(these) = self.driver(user)? else { return None };
        if these.is_empty() {
            return forbidden("the user of the property user_id is bound to no community; tenancy.users binds it");
        }
        match community {
            Some(community) if !these.contains(community) => forbidden(
                "the user of the property user_id is not bound to the community that the command names; tenancy.users \
                 binds it",
            ),
            None if is_readable => forbidden(
                "the command concerns every community; name one that the user of the property user_id is bound to",
            ),
            _ => None,
        }
    }

    /// Whether this user's answers may go to this queue: to one of its own, by its name, or by direct reply-to, which
    /// nobody else can listen on.
    #[must_use]
    pub(super) fn may_be_answered_at(&self, user: Option<&str>, queue: &str) -> bool {
        let Some(user) = user.filter(|user| self.driver(user).is_some()) else { return true };
        queue.starts_with("amq.rabbitmq.reply-to") || queue.strip_prefix(user).is_some_and(|rest| rest.starts_with('.'))
    }

    /// What a user is held to: not the service itself, and nobody where nobody is bound.
    fn driver(&self, user: &str) -> Option<&Communities> {
        static NONE: Communities = Communities::These(BTreeSet::new());
        let is_on = self.required || !self.bound.is_empty();
        (is_on && !self.service.contains(user)).then(|| self.bound.get(user).unwrap_or(&NONE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Binding;

    fn tenancy(required: bool, users: &[&str]) -> Tenancy {
        let users = users.iter().map(|text| Binding::try_from((*text).to_owned()).expect("a binding")).collect();
        let settings = config::Tenancy { required, users, service_users: Vec::new() };
        Tenancy::new(&settings, settings.service_users("m"))
    }

    fn may(tenancy: &Tenancy, user: Option<&str>, community: Option<&str>) -> bool {
        let community = community.map(|slug| CommunitySlug::new(slug).expect("a slug"));
        let refused: Option<Problem> = tenancy.refusal(user, community.as_ref(), true);
        refused.is_none()
    }

    #[test]
    fn with_nobody_bound_everybody_speaks_for_everybody() {
        let open = tenancy(false, &[]);
        for user in [None, Some("anybody"), Some("m-worker")] {
            assert!(may(&open, user, Some("acme")) && may(&open, user, None));
            assert!(open.may_be_answered_at(user, "any-queue"));
        }
    }

    #[test]
    fn a_user_speaks_for_the_communities_that_it_is_bound_to_and_no_others() {
        let tenancy = tenancy(false, &["a=acme", "ab=acme-2", "ab=acme-3", "ops=*"]);
        assert!(may(&tenancy, Some("a"), Some("acme")));
        assert!(!may(&tenancy, Some("a"), Some("acme-2")) && !may(&tenancy, Some("ab"), Some("acme")));
        assert!(may(&tenancy, Some("ab"), Some("acme-2")) && may(&tenancy, Some("ab"), Some("acme-3")));
        assert!(!may(&tenancy, Some("a"), None), "a webhook for every community");
        assert!(may(&tenancy, Some("ops"), None) && may(&tenancy, Some("ops"), Some("acme")));
        assert!(!may(&tenancy, Some("stranger"), Some("acme")));
        assert!(may(&tenancy, Some("m-scheduler"), Some("acme")) && may(&tenancy, Some("m-gateway"), None));
        assert!(may(&tenancy, None, Some("acme")), "nobody has to say who they are");
    }

    #[test]
    fn where_it_is_required_nobody_speaks_without_a_name() {
        let tenancy = tenancy(true, &[]);
        assert!(!may(&tenancy, None, Some("acme")) && !may(&tenancy, Some("a"), Some("acme")));
        assert!(may(&tenancy, Some("m-worker"), Some("acme")));
        assert!(tenancy.refusal(None, None, false).is_some(), "not even what cannot be read");
    }

    #[test]
    fn answers_go_to_queues_of_the_users_own() {
        let tenancy = tenancy(false, &["a=acme", "a-b=other"]);
        for (queue, may) in [
            ("a.replies", true),
            ("amq.rabbitmq.reply-to", true),
            ("amq.rabbitmq.reply-to.g1h2", true),
            ("a", false),
            ("a-b.replies", false),
            ("replies", false),
        ] {
            assert_eq!(tenancy.may_be_answered_at(Some("a"), queue), may, "{queue}");
        }
        assert!(tenancy.may_be_answered_at(Some("m-gateway"), "replies"));
    }
}
