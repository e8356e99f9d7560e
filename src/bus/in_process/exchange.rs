//! Exchanges and bindings in memory: which queues a message is for.
//!
//! Reads [`Topology`] and nothing else; it never holds a message. Up: [`super::InProcess`], which publishes. Down:
//! [`super::queue`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{MemoryQueue, topic};
use crate::bus::{
    Message,
    topology::{Argument, ArgumentValue, Binding, ExchangeDeclaration, ExchangeKind, Forward, Topology},
};

/// What has been declared.
#[derive(Debug, Default)]
pub(super) struct Broker {
    exchanges: HashMap<String, ExchangeDeclaration>,
    queues: HashMap<String, Arc<MemoryQueue>>,
    bindings: Vec<Binding>,
    forwards: Vec<Forward>,
}

impl Broker {
    /// Adds what is not there yet; never touches what is.
    pub(super) fn declare(&mut self, topology: Topology) {
        for exchange in topology.exchanges {
            self.exchanges.entry(exchange.name.clone()).or_insert(exchange);
        }
        for queue in &topology.queues {
            self.queues.entry(queue.name.clone()).or_insert_with(|| Arc::new(MemoryQueue::declared(queue)));
        }
        self.bind(topology.bindings);
        self.forwards = topology.forwards;
    }

    pub(super) fn bind(&mut self, bindings: impl IntoIterator<Item = Binding>) {
        for binding in bindings {
            if !self.bindings.contains(&binding) {
                self.bindings.push(binding);
            }
        }
    }

    pub(super) fn add_queue(&mut self, queue: Arc<MemoryQueue>) {
        self.queues.insert(queue.name().to_owned(), queue);
    }

    pub(super) fn remove_queue(&mut self, name: &str) {
        self.queues.remove(name);
        self.bindings.retain(|binding| binding.queue != name);
    }

    pub(super) fn queue(&self, name: &str) -> Option<Arc<MemoryQueue>> {
        self.queues.get(name).cloned()
    }

    /// The queues that want this message of this exchange, each once; those of the alternate exchange where none does.
    pub(super) fn route(&self, exchange: &str, message: &Message) -> Vec<Arc<MemoryQueue>> {
        let Some(declared) = self.exchanges.get(exchange) else { return Vec::new() };
        // By name: two patterns of one queue that both match make one copy.
        let mut wanting: BTreeMap<&str, &Arc<MemoryQueue>> = self
            .bindings
            .iter()
            .filter(|binding| binding.exchange == exchange)
            .filter(|binding| match declared.kind {
                ExchangeKind::Fanout => true,
                ExchangeKind::Topic => topic::matches(&binding.pattern, &message.routing_key),
                ExchangeKind::Headers => binding.arguments.iter().all(|argument| has(message, argument)),
            })
            .filter_map(|binding| Some((binding.queue.as_str(), self.queues.get(&binding.queue)?)))
            .collect();
        let passed_on: Vec<_> = self
            .forwards
            .iter()
            .filter(|forward| forward.from == exchange)
            .flat_map(|forward| self.route(&forward.to, message))
            .collect();
        wanting.extend(passed_on.iter().map(|queue| (queue.name(), queue)));
        if !wanting.is_empty() {
            return wanting.into_values().cloned().collect();
        }
        let alternate = declared.arguments.iter().find(|argument| argument.name == "alternate-exchange");
        match alternate.map(|argument| &argument.value) {
            Some(ArgumentValue::Text(alternate)) => self.route(alternate, message),
            Some(ArgumentValue::Number(_)) | None => Vec::new(),
        }
    }
}

/// Whether a message has a header that a binding asks for.
fn has(message: &Message, wanted: &Argument) -> bool {
    match &wanted.value {
        _ if wanted.name == "x-match" => true,
        ArgumentValue::Text(text) => message.properties.headers.get(wanted.name) == Some(text),
        ArgumentValue::Number(_) => false,
    }
}
