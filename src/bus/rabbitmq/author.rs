//! Who published a command, as far as the broker vouches for it, over all the copies that the service makes of it.
//!
//! The broker refuses a message whose `user_id` is not the user of its connection, so what carries one of the service's
//! own users was published by the service. That is all that is trusted: such a copy says in a header whose command it is
//! a copy of, and the header of anybody else is not read. A signature would prove the same with a key to be kept and
//! rotated. Events and replies are not signed: a driver may dead-letter them from its own queue into the exchange of
//! commands, where they would then speak with the service's voice. Up: [`super::wire`]. Down: the property `user_id` of
//! [`Properties`], which is then the author and nobody else.
//!
//! <https://www.rabbitmq.com/docs/validated-user-id>

use std::collections::BTreeSet;

use lapin::{
    BasicProperties,
    types::{AMQPValue, ShortString},
};

use crate::bus::{Destination, Outgoing, Properties};

/// Header of a copy: the user who published the command that it is a copy of; empty where nobody can be vouched for.
const AUTHOR_HEADER: &str = "x-metagov-user";

/// Who counts as the service itself. Without tenancy nothing is signed and nothing is read.
#[derive(Debug)]
pub(super) struct Authors(Option<Service>);

#[derive(Debug)]
struct Service {
    /// The user of our own connections.
    own: String,
    users: BTreeSet<String>,
}

impl Authors {
    /// Without users of the service, nothing is signed.
    pub(super) fn new(own: &str, users: &BTreeSet<String>) -> Self {
        Self((!users.is_empty()).then(|| Service { own: own.to_owned(), users: users.clone() }))
    }

    /// Makes `user_id` of a received message its author. A header that says so is taken out whoever wrote it, and counts
    /// where the service did.
    pub(super) fn read(&self, properties: &mut Properties) {
        let Some(service) = &self.0 else { return };
        let Some(said) = properties.headers.remove(AUTHOR_HEADER) else { return };
        if properties.user_id.as_ref().is_some_and(|user| service.users.contains(user)) {
            properties.user_id = Some(said).filter(|user| !user.is_empty());
        }
    }

    /// Signs what goes to where commands are: with our own user, which the broker checks, and with the author where it
    /// is a copy. Delays and dead letters always are.
    pub(super) fn sign(&self, outgoing: &Outgoing, basic: BasicProperties) -> BasicProperties {
        let Some(service) = &self.0 else { return basic };
        let is_copy = match outgoing.to {
            Destination::Commands => outgoing.message.properties.user_id.is_some(),
            Destination::Delay(_) | Destination::Dead => true,
            Destination::Events | Destination::Reply { .. } => return basic,
        };
        let Ok(own) = ShortString::try_new(service.own.as_str()) else { return basic };
        let mut headers = basic.headers().clone().unwrap_or_default();
        if is_copy {
            // Whatever has not come by `read` is read here: no driver's header is ever signed.
            let mut properties = outgoing.message.properties.clone();
            self.read(&mut properties);
            let author = properties.user_id.unwrap_or_default();
            headers.insert(AUTHOR_HEADER.into(), AMQPValue::LongString(author.into()));
        }
        let basic = basic.with_user_id(own);
        if headers.inner().is_empty() { basic } else { basic.with_headers(headers) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bus::{DelayStep, Message};

    fn authors() -> Authors {
        Authors::new("worker", &["worker", "admin"].map(str::to_owned).into())
    }

    fn properties(user: Option<&str>, said: Option<&str>) -> Properties {
        let headers = said.map(|said| (AUTHOR_HEADER.to_owned(), said.to_owned())).into_iter().collect();
        Properties { user_id: user.map(str::to_owned), headers, ..Properties::default() }
    }

    /// What the broker hands out of what we publish.
    fn signed(authors: &Authors, to: Destination, properties: Properties) -> Properties {
        let message = Message { routing_key: "a".to_owned(), body: Bytes::new(), properties };
        let basic = authors.sign(&Outgoing { to, message }, BasicProperties::default());
        let said = basic.headers().as_ref().and_then(|headers| match headers.inner().get(AUTHOR_HEADER) {
            Some(AMQPValue::LongString(said)) => Some(said.to_string()),
            _ => None,
        });
        self::properties(basic.user_id().as_ref().map(ShortString::as_str), said.as_deref())
    }

    #[test]
    fn a_copy_keeps_its_author_however_often_it_is_copied() {
        for author in [Some("driver"), Some("admin"), None] {
            let mut read = properties(author, Some("forged"));
            if author == Some("admin") {
                read.headers.clear();
            }
            for to in [Destination::Delay(DelayStep::OneSecond), Destination::Dead] {
                authors().read(&mut read);
                assert_eq!(read, properties(author, None));
                read = signed(&authors(), to, read);
                assert_eq!(read.user_id.as_deref(), Some("worker"));
            }
            authors().read(&mut read);
            assert_eq!(read.user_id.as_deref(), author);
        }
    }

    #[test]
    fn no_driver_can_say_that_it_is_somebody_else() {
        for user in [Some("driver"), None] {
            let mut read = properties(user, Some("admin"));
            authors().read(&mut read);
            assert_eq!(read.user_id.as_deref(), user);
            // Not even where somebody copies what was never read.
            let mut copy = signed(&authors(), Destination::Dead, properties(user, Some("admin")));
            authors().read(&mut copy);
            assert_eq!(copy.user_id.as_deref(), user);
        }
    }

    #[test]
    fn only_what_goes_to_where_commands_are_is_signed_and_nothing_without_tenancy() {
        for to in [Destination::Events, Destination::Reply { queue: "driver.replies".to_owned() }] {
            assert_eq!(signed(&authors(), to, properties(None, None)).user_id, None);
        }
        let own = signed(&authors(), Destination::Commands, properties(None, None));
        assert_eq!(own, properties(Some("worker"), None));
        let nobody = Authors::new("worker", &BTreeSet::new());
        assert_eq!(signed(&nobody, Destination::Dead, properties(Some("driver"), None)), Properties::default());
    }
}
