//! Every exchange, queue, binding and argument, with its reason: pure data, one place.
//!
//! `metagov topology show` prints it, `topology apply` and each session declare it on RabbitMQ, and the in-process bus
//! routes by it. Nothing here talks to a broker. Up: section 1 of the wire contract. Down: [`super::rabbitmq`] and
//! [`super::in_process`].

mod names;

use metagov_sdk::contract::Name;
use serde::Serialize;

pub use names::{Names, Queue};

use super::{DelayStep, dead_letter::FIRST_DEATH_REASON};

/// What stands on the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Exchanges, all durable.
    pub exchanges: Vec<ExchangeDeclaration>,
    /// Queues, all durable.
    pub queues: Vec<QueueDeclaration>,
    /// Which queue gets what.
    pub bindings: Vec<Binding>,
    /// Which exchange passes everything on to which other.
    pub forwards: Vec<Forward>,
    /// Bindings of earlier versions: taken away once everything else is declared.
    pub retired: Vec<Binding>,
}

/// One exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExchangeDeclaration {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// What it is for.
    pub reason: &'static str,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeKind {
    /// By patterns of words: `*` is one word, `#` any number of them.
    Topic,
    /// To every bound queue.
    Fanout,
    /// By the values of headers, which the bindings name.
    Headers,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueDeclaration {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// What it is for.
    pub reason: &'static str,
}

impl QueueDeclaration {
    /// The text value of an argument.
    pub(super) fn text(&self, argument: &str) -> Option<&str> {
        self.arguments.iter().find(|known| known.name == argument).and_then(|found| match &found.value {
            ArgumentValue::Text(text) => Some(text.as_str()),
            ArgumentValue::Number(_) => None,
        })
    }

    /// The number value of an argument.
    pub(super) fn number(&self, argument: &str) -> Option<u32> {
        self.arguments.iter().find(|known| known.name == argument).and_then(|found| match found.value {
            ArgumentValue::Number(number) => Some(number),
            ArgumentValue::Text(_) => None,
        })
    }
}

/// One argument of a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Argument {
    /// RabbitMQ's name for it.
    pub name: &'static str,
    /// Its value.
    pub value: ArgumentValue,
    /// Why it is set so.
    pub reason: &'static str,
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ArgumentValue {
    /// A word or a name.
    Text(String),
    /// A count or milliseconds.
    Number(u32),
}

/// A queue wants what an exchange gets under a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// From.
    pub exchange: String,
    /// To.
    pub queue: String,
    /// The routing keys; empty where the exchange does not look at them.
    pub pattern: String,
    /// The headers, where the exchange looks at those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<Argument>,
}

/// An exchange passes on to another whatever it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// What for.
    pub reason: &'static str,
}

impl Topology {
    /// What stands under this prefix for these plugins. Without plugins: what all of them share.
    #[must_use]
    pub fn new(prefix: &str, plugins: &[Name], delivery_limit: u32) -> Self {
        let names = Names::new(prefix);
        let mut topology = Self {
            exchanges: exchanges(&names),
            queues: Vec::new(),
            bindings: Vec::new(),
            forwards: vec![Forward {
                from: names.dead(),
                to: names.expired(),
                reason: "arguments of a queue are fixed once it exists, so all dead letters still go to one exchange; \
                         what expired is told from the rest behind it",
            }],
            retired: vec![binding(&names.dead(), &names.dead(), String::new())],
        };
        let consumed = |queue: &Queue, reason| QueueDeclaration {
            name: names.queue(queue),
            arguments: consumed_arguments(&names, delivery_limit),
            reason,
        };

        topology.add(
            consumed(&Queue::Unrouted, "commands that no other queue wants: they are answered, not lost"),
            &names.unrouted(),
            &[String::new()],
        );
        topology.add(
            consumed(&Queue::Core, "communities and their plugins"),
            &names.commands(),
            &["community.*".to_owned(), "plugin.*.*".to_owned()],
        );
        for plugin in plugins {
            topology.add(
                consumed(
                    &Queue::Plugin(plugin.clone()),
                    "what people wait for; one queue each, so that one slow platform does not hold up another",
                ),
                &names.commands(),
                &[format!("action.{plugin}.*"), format!("process.{plugin}.*.*"), format!("webhook.{plugin}")],
            );
            topology.add(
                consumed(&Queue::Poll(plugin.clone()), "background work: a burst of polls never delays an action"),
                &names.commands(),
                &[format!("poll.{plugin}.*"), format!("tick.{plugin}")],
            );
        }
        for step in DelayStep::ALL {
            topology.add(delay_queue(&names, step), &names.delay(step), &[String::new()]);
        }
        topology.add(
            consumed(&Queue::Expired, "commands whose expiration was over in their queue: they are answered, not lost"),
            &names.expired(),
            &[],
        );
        topology.bindings.push(Binding {
            arguments: died_of("expired"),
            ..binding(&names.expired(), &names.expired(), String::new())
        });
        topology.add(dead_queue(&names), &names.kept(), &[String::new()]);
        topology
    }

    fn add(&mut self, queue: QueueDeclaration, exchange: &str, patterns: &[String]) {
        self.bindings.extend(patterns.iter().map(|pattern| binding(exchange, &queue.name, pattern.clone())));
        self.queues.push(queue);
    }
}

fn binding(exchange: &str, queue: &str, pattern: String) -> Binding {
    Binding { exchange: exchange.to_owned(), queue: queue.to_owned(), pattern, arguments: Vec::new() }
}

/// Matches what died for the first time of this. Headers whose names begin with `x-` count by this kind of match only.
///
/// <https://www.rabbitmq.com/docs/dlx#effects>, <https://www.rabbitmq.com/docs/exchanges#headers>
fn died_of(reason: &str) -> Vec<Argument> {
    vec![
        text("x-match", "all-with-x".to_owned(), "the broker's own headers count too"),
        text(FIRST_DEATH_REASON, reason.to_owned(), "why the broker took it from its queue"),
    ]
}

fn exchanges(names: &Names) -> Vec<ExchangeDeclaration> {
    let plain = |name, kind, reason| ExchangeDeclaration { name, kind, arguments: Vec::new(), reason };
    let mut exchanges = vec![
        plain(names.unrouted(), ExchangeKind::Fanout, "takes the commands that no queue wants"),
        ExchangeDeclaration {
            arguments: vec![text("alternate-exchange", names.unrouted(), "no command ends in silence")],
            ..plain(names.commands(), ExchangeKind::Topic, "drivers, gateway and scheduler publish commands here")
        },
        plain(names.events(), ExchangeKind::Topic, "outcomes and platform events; each driver binds queues of its own"),
        plain(names.dead(), ExchangeKind::Fanout, "takes what cannot be handled, and what has expired"),
        plain(names.kept(), ExchangeKind::Fanout, "takes what did not expire"),
        ExchangeDeclaration {
            arguments: vec![text("alternate-exchange", names.kept(), "whatever did not expire is a dead letter")],
            ..plain(names.expired(), ExchangeKind::Headers, "looks at why a message died")
        },
    ];
    exchanges.extend(DelayStep::ALL.map(|step| {
        let reason = "one exchange for each step: the message keeps its own routing key on the way";
        plain(names.delay(step), ExchangeKind::Fanout, reason)
    }));
    exchanges
}

fn consumed_arguments(names: &Names, delivery_limit: u32) -> Vec<Argument> {
    let mut arguments = vec![
        quorum(),
        number(
            "x-delivery-limit",
            delivery_limit,
            "backstop against a message that crashes its worker; far above 1, for a crash counts against every \
             message that the worker had fetched",
        ),
    ];
    arguments.extend(dead_lettering(names.dead(), "where such a message goes"));
    arguments
}

fn delay_queue(names: &Names, step: DelayStep) -> QueueDeclaration {
    let longest = u32::try_from(step.longest().as_millis()).unwrap_or(u32::MAX);
    let mut arguments = vec![
        quorum(),
        number(
            "x-message-ttl",
            longest,
            "the longest wait; each copy brings its own, a little shorter, as its expiration",
        ),
    ];
    arguments.extend(dead_lettering(names.commands(), "back to the queue that it came from, by its own routing key"));
    QueueDeclaration {
        name: names.delay(step),
        arguments,
        reason: "one queue for each step: only the head of a queue expires, so a long wait would hold up a short one",
    }
}

fn dead_queue(names: &Names) -> QueueDeclaration {
    QueueDeclaration {
        name: names.dead(),
        arguments: vec![
            quorum(),
            number(
                "x-delivery-limit",
                1_000_000,
                "looking at a dead letter counts as a delivery, and RabbitMQ 4 would drop it after 20 looks",
            ),
        ],
        reason: "messages that cannot be handled, until somebody decides",
    }
}

/// Dead-lettering that survives a crash of the broker in the middle of it.
///
/// <https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>
fn dead_lettering(exchange: String, reason: &'static str) -> [Argument; 3] {
    [
        text("x-dead-letter-exchange", exchange, reason),
        text(
            "x-dead-letter-strategy",
            "at-least-once".to_owned(),
            "the default, at-most-once, loses the message when the broker dies in between",
        ),
        text("x-overflow", "reject-publish".to_owned(), "at-least-once dead-lettering asks for it"),
    ]
}

fn quorum() -> Argument {
    text(
        "x-queue-type",
        "quorum".to_owned(),
        "replicated, counts deliveries, dead-letters at least once, and is no slower",
    )
}

fn text(name: &'static str, value: String, reason: &'static str) -> Argument {
    Argument { name, value: ArgumentValue::Text(value), reason }
}

fn number(name: &'static str, value: u32, reason: &'static str) -> Argument {
    Argument { name, value: ArgumentValue::Number(value), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topology_of_one_plugin_is_that_of_the_contract() {
        let plugin = Name::new("randomness").expect("a name");
        insta::assert_json_snapshot!(Topology::new("metagov", &[plugin], 20));
    }

    #[test]
    fn every_binding_joins_what_is_declared() {
        let plugins = [Name::new("a").expect("a name"), Name::new("b").expect("a name")];
        let topology = Topology::new("test", &plugins, 20);
        for binding in &topology.bindings {
            assert!(topology.exchanges.iter().any(|e| e.name == binding.exchange), "{binding:?}");
            assert!(topology.queues.iter().any(|q| q.name == binding.queue), "{binding:?}");
        }
        for Forward { from, to, .. } in &topology.forwards {
            assert!([from, to].iter().all(|end| topology.exchanges.iter().any(|e| e.name == **end)), "{from} -> {to}");
        }
    }
}
