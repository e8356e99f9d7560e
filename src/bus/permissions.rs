//! Who may do what on the broker, and no more: the service's users and the drivers that are bound, as pure data.
//!
//! Written as the definitions that `rabbitmqctl import_definitions` takes. The broker keeps drivers to their own queues
//! and to the events of their communities; a command's routing key does not name its community, so what a driver may
//! command is kept by the service. No passwords stand here. Up: the settings of `[tenancy]`. Down: `metagov topology
//! export`.
//!
//! <https://www.rabbitmq.com/docs/access-control>

use metagov_sdk::contract::CommunitySlug;
use serde::Serialize;

use super::topology::Names;
use crate::config::{Communities, ServiceRole, Tenancy};

/// Nothing at all.
const NOTHING: &str = "^$";

/// The commands that drivers send; the others are the gateway's and the scheduler's.
const DRIVERS_COMMANDS: &str = r"^(community|plugin|action|process)\.";

/// Users with their permissions, as RabbitMQ imports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definitions {
    /// Users, none of whom can log in before its password is set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// What each may do with exchanges and queues.
    pub permissions: Vec<Permission>,
    /// Under which routing keys each may publish and bind.
    pub topic_permissions: Vec<TopicPermission>,
}

/// A user of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Empty: nobody logs in by it.
    pub password_hash: &'static str,
    /// How the password is hashed.
    pub hashing_algorithm: &'static str,
    /// None: no right to manage the broker, and none to publish with another user's name.
    pub tags: [&'static str; 0],
}

/// What a user may do, each a regular expression over names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// Who.
    pub user: String,
    /// Where.
    pub vhost: String,
    /// What it may declare and delete.
    pub configure: String,
    /// Where it may publish, and which queues it may bind.
    pub write: String,
    /// What it may consume, and which exchanges it may bind to.
    pub read: String,
}

/// Under which routing keys a user may publish and bind, each a regular expression over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicPermission {
    /// Who.
    pub user: String,
    /// Where.
    pub vhost: String,
    /// On which topic exchange.
    pub exchange: String,
    /// For publishing.
    pub write: String,
    /// For binding.
    pub read: String,
}

impl Definitions {
    /// The users of the service under this prefix, and every driver that is bound.
    #[must_use]
    pub fn new(prefix: &str, vhost: &str, tenancy: &Tenancy) -> Self {
        let mut definitions = Self { users: Vec::new(), permissions: Vec::new(), topic_permissions: Vec::new() };
        for role in ServiceRole::ALL {
            definitions.add_user(&role.user(prefix));
            definitions.permissions.push(of_role(role, prefix, vhost));
        }
        let names = Names::new(prefix);
        for (user, communities) in tenancy.bound() {
            definitions.add_user(&user);
            let own = format!(r"{user}\..*");
            definitions.permissions.push(Permission {
                vhost: vhost.to_owned(),
                configure: format!("^{own}$"),
                write: format!(r"^({own}|{prefix}\.commands)$"),
                read: format!(r"^({own}|{prefix}\.events)$"),
                user: user.clone(),
            });
            let topic = |exchange, write: &str, read: String| TopicPermission {
                user: user.clone(),
                vhost: vhost.to_owned(),
                exchange,
                write: write.to_owned(),
                read,
            };
            definitions.topic_permissions.extend([
                topic(names.commands(), DRIVERS_COMMANDS, NOTHING.to_owned()),
                topic(names.events(), NOTHING, keys_of(&communities)),
            ]);
        }
        definitions
    }

    fn add_user(&mut self, name: &str) {
        self.users.push(User {
            name: name.to_owned(),
            password_hash: "",
            hashing_algorithm: "rabbit_password_hashing_sha256",
            tags: [],
        });
    }
}

/// The routing keys of these communities' events. The dot ends the slug: `acme` is not the beginning of `acme-2`.
fn keys_of(communities: &Communities) -> String {
    match communities {
        Communities::All => "^".to_owned(),
        Communities::These(slugs) => {
            let slugs: Vec<&str> = slugs.iter().map(CommunitySlug::as_str).collect();
            format!(r"^({})\.", slugs.join("|"))
        }
    }
}

fn of_role(role: ServiceRole, prefix: &str, vhost: &str) -> Permission {
    let nothing = || NOTHING.to_owned();
    let (configure, write, read) = match role {
        // Replies go through the default exchange, which counts as `amq.default`.
        ServiceRole::Worker => (
            nothing(),
            format!(r"^({prefix}\.(events|dead|delay\.[^.]+)|amq\.default)$"),
            format!(r"^{prefix}\.(core|unrouted|expired|(plugin|poll)\.[^.]+)$"),
        ),
        ServiceRole::Scheduler => (nothing(), format!(r"^{prefix}\.commands$"), nothing()),
        ServiceRole::Gateway => (
            format!(r"^{prefix}-subscription\."),
            format!(r"^({prefix}\.commands$|{prefix}-subscription\.)"),
            format!(r"^({prefix}\.events$|{prefix}-subscription\.)"),
        ),
        // `events replay --to-queue` goes through the default exchange too.
        ServiceRole::Admin => (
            format!(r"^{prefix}(-subscription)?\."),
            format!(r"^({prefix}(-subscription)?\.|amq\.default$)"),
            format!(r"^{prefix}(-subscription)?\."),
        ),
    };
    Permission { user: role.user(prefix), vhost: vhost.to_owned(), configure, write, read }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;
    use crate::config::Binding;

    fn tenancy(users: &[(String, String)]) -> Tenancy {
        let binding = |(user, slug): &(String, String)| Binding {
            user: user.clone(),
            community: Some(CommunitySlug::new(slug).expect("a slug")),
        };
        Tenancy { required: true, users: users.iter().map(binding).collect(), service_users: Vec::new() }
    }

    /// RabbitMQ looks for the expression anywhere in the name, as this does.
    fn matches(expression: &str, text: &str) -> bool {
        Regex::new(expression).expect("an expression").is_match(text)
    }

    /// Slugs that begin alike, which is where a boundary is missed.
    fn slug() -> impl Strategy<Value = String> {
        prop_oneof!["(acme|acme-2|a|ac)(-[a-z0-9]{0,3})?", "[a-z0-9][a-z0-9-]{0,35}"]
    }

    fn user() -> impl Strategy<Value = String> {
        prop_oneof!["(bot|bot-|bot_|b)[a-z-]{0,2}", "[A-Za-z0-9_-]{1,64}"]
    }

    proptest! {
        #[test]
        fn no_permission_of_one_driver_reaches_another_ones(
            (a, b) in (user(), user()),
            (of_a, of_b) in (prop::collection::btree_set(slug(), 1..4), slug()),
            rest in "[a-z.*#-]{0,20}",
        ) {
            prop_assume!(a != b && !of_a.contains(&of_b));
            let users: Vec<_> =
                of_a.iter().map(|slug| (a.clone(), slug.clone())).chain([(b.clone(), of_b.clone())]).collect();
            let definitions = Definitions::new("metagov", "/", &tenancy(&users));
            let topics = definitions.topic_permissions.iter().filter(|topic| topic.user == a);
            for topic in topics.filter(|topic| topic.exchange == "metagov.events") {
                for key in [format!("{of_b}.{rest}"), format!("#.{rest}"), "#".to_owned(), format!("*.{rest}"), of_b.clone()] {
                    prop_assert!(!matches(&topic.read, &key), "{} reads {key}", topic.read);
                }
                for slug in &of_a {
                    let key = format!("{slug}.{rest}");
                    prop_assert!(matches(&topic.read, &key));
                    prop_assert!(!matches(&topic.write, &key));
                }
            }
            let permission = definitions.permissions.iter().find(|permission| permission.user == a).expect("it has one");
            for name in [format!("{b}.{rest}"), "metagov.core".to_owned(), "metagov.dead".to_owned(), "amq.default".to_owned(), b] {
                for expression in [&permission.configure, &permission.write, &permission.read] {
                    prop_assert!(!matches(expression, &name), "{expression} reaches {name}");
                }
            }
            let own = format!("{a}.{rest}");
            prop_assert!(matches(&permission.configure, &own));
        }
    }

    #[test]
    fn what_is_exported_is_as_reviewed() {
        let users = [("bot", "acme"), ("bot", "acme-2")].map(|(user, slug)| (user.to_owned(), slug.to_owned()));
        insta::assert_json_snapshot!(Definitions::new("metagov", "/", &tenancy(&users)));
    }
}
