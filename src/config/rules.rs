//! What a value of the right kind must still be: ranges, words, URLs.
//!
//! One table, checked for each layer on its own, so that a fault names the layer that made it even where a later layer
//! sets the key again. Up: [`super::layers`]. Down: [`super::fault`].

use std::collections::BTreeSet;

use config::{Value, ValueKind};

use super::{PluginConcurrency, fault::Fault, layers::Layer};
use crate::telemetry;

/// What a value must be, over and above its kind.
enum Rule {
    Range(i64, i64),
    OneOf(&'static [&'static str]),
    /// One of these schemes, or this whole word if there is one.
    Url(&'static [&'static str], Option<&'static str>),
    NotEmpty,
    /// A word that is safe in the names of exchanges and queues.
    Prefix,
    Filter,
    /// Each a plugin with its number of handlers, no plugin twice.
    PluginConcurrencies,
}

use Rule::{Filter, NotEmpty, OneOf, PluginConcurrencies, Prefix, Range, Url};

const DAY: i64 = 86_400;

const RULES: &[(&str, Rule)] = &[
    ("data_dir", NotEmpty),
    ("broker.url", Url(&["amqp://", "amqps://"], Some("memory"))),
    ("broker.prefix", Prefix),
    ("broker.heartbeat_seconds", Range(1, 3600)),
    ("broker.delivery_limit", Range(1, 1_000_000)),
    ("database.url", Url(&["sqlite:", "postgres://", "postgresql://"], None)),
    ("database.max_connections", Range(1, 1000)),
    // The prefetch of AMQP is 16 bits wide, and 0 would mean no limit.
    ("worker.concurrency", Range(1, 65_535)),
    ("worker.plugin_concurrency", PluginConcurrencies),
    ("worker.community_share", Range(1, 100)),
    ("worker.community_rate", Range(0, 1_000_000)),
    ("worker.deadline_seconds", Range(1, DAY)),
    ("worker.max_attempts", Range(1, 1000)),
    ("worker.batch", Range(1, 1000)),
    ("worker.batches_in_flight", Range(1, 64)),
    ("worker.max_body_bytes", Range(1024, 16 * 1024 * 1024)),
    ("worker.drain_seconds", Range(0, DAY)),
    ("scheduler.batch", Range(1, 100_000)),
    ("log.format", OneOf(&["human", "json"])),
    ("log.filter", Filter),
];

pub(super) fn check(layer: &Layer, faults: &mut Vec<Fault>) {
    for (key, rule) in RULES {
        let Some(value) = layer.values.get(*key) else { continue };
        if let Err(reason) = rule.holds(value) {
            faults.push(Fault::at(value.origin().unwrap_or_default(), key, reason));
        }
    }
}

impl Rule {
    fn holds(&self, value: &Value) -> Result<(), String> {
        let text = if let ValueKind::String(text) = &value.kind { text.as_str() } else { "" };
        match self {
            Range(low, high) => match value.kind {
                ValueKind::I64(number) if (*low..=*high).contains(&number) => Ok(()),
                _ => Err(format!("must be between {low} and {high}")),
            },
            OneOf(words) if words.contains(&text) => Ok(()),
            OneOf(words) => Err(format!("must be one of: {}", words.join(", "))),
            Url(_, Some(word)) if text == *word => Ok(()),
            Url(schemes, _) if schemes.iter().any(|scheme| text.starts_with(scheme)) => Ok(()),
            Url(schemes, word) => {
                let word = word.map_or_else(String::new, |word| format!("be `{word}`, or "));
                Err(format!("must {word}start with {}", schemes.join(" or ")))
            }
            NotEmpty if text.is_empty() => Err("must not be empty".to_owned()),
            Prefix if !is_prefix(text) => Err("must be 1 to 40 of a-z, A-Z, 0-9, - and _".to_owned()),
            Filter => telemetry::parse_filter(text).map(|_| ()).map_err(|error| error.to_string()),
            PluginConcurrencies => plugin_concurrencies(value),
            NotEmpty | Prefix => Ok(()),
        }
    }
}

fn plugin_concurrencies(value: &Value) -> Result<(), String> {
    let ValueKind::Array(items) = &value.kind else { return Ok(()) };
    let mut plugins = BTreeSet::new();
    for item in items {
        let PluginConcurrency { plugin, .. } = item.to_string().try_into().map_err(str::to_owned)?;
        if !plugins.insert(plugin) {
            return Err("names a plugin twice".to_owned());
        }
    }
    Ok(())
}

fn is_prefix(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Kind;

    #[test]
    fn every_number_has_a_range_and_every_default_keeps_its_rule() {
        let defaults = Layer::defaults();
        for (key, kind) in defaults.kinds() {
            let has_rule = RULES.iter().any(|(ruled, _)| *ruled == key);
            assert!(has_rule || matches!(kind, Kind::Switch | Kind::List), "{key} has no rule");
        }
        let mut faults = Vec::new();
        check(&defaults, &mut faults);
        assert_eq!(faults, []);
    }
}
