//! What a value of the right kind must still be: ranges, words, URLs.
//!
//! One table, checked for each layer on its own, so that a fault names the layer that made it even where a later layer
//! sets the key again. Up: [`super::layers`]. Down: [`super::fault`].

use std::{collections::BTreeSet, net::SocketAddr};

use config::{Value, ValueKind};

use super::{
    Allowed, PluginConcurrency,
    fault::Fault,
    layers::Layer,
    tenancy::{Binding, is_user},
};
use crate::{telemetry, vault::KeyEntry};

/// What a value must be, over and above its kind.
enum Rule {
    Range(i64, i64),
    OneOf(&'static [&'static str]),
    /// One of these schemes, or this whole word if there is one.
    Url(&'static [&'static str], Option<&'static str>),
    NotEmpty,
    /// The name of a file, which is looked for when it is used; or nothing.
    File,
    /// A word that is safe in the names of exchanges and queues.
    Prefix,
    /// Entries of a vault, each with an id of its own.
    Keys,
    /// IP address and port, or nothing.
    Address,
    Filter,
    /// A list of `user=community`.
    Bindings,
    /// A list of users of the broker.
    Users,
    /// Each `loopback`, an address or a network.
    Egress,
    /// Each a plugin with its number of handlers, no plugin twice.
    PluginConcurrencies,
}

use Rule::{
    Address, Bindings, Egress, File, Filter, Keys, NotEmpty, OneOf, PluginConcurrencies, Prefix, Range, Url, Users,
};

const DAY: i64 = 86_400;

const RULES: &[(&str, Rule)] = &[
    ("data_dir", NotEmpty),
    ("broker.url", Url(&["amqp://", "amqps://"], Some("memory"))),
    ("broker.prefix", Prefix),
    ("broker.heartbeat_seconds", Range(1, 3600)),
    ("broker.delivery_limit", Range(1, 1_000_000)),
    ("broker.tls_ca_pem", File),
    ("broker.tls_certificate_pem", File),
    ("broker.tls_key_pem", File),
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
    ("worker.prefetch_bytes", Range(1024 * 1024, 1024 * 1024 * 1024 * 1024)),
    ("worker.drain_seconds", Range(0, DAY)),
    ("scheduler.batch", Range(1, 100_000)),
    ("tenancy.users", Bindings),
    ("tenancy.service_users", Users),
    ("secrets.keys", Keys),
    ("egress.allow", Egress),
    ("health.address", Address),
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
            Keys => {
                let ValueKind::Array(entries) = &value.kind else { return Ok(()) };
                let texts = entries.iter().map(|entry| match &entry.kind {
                    ValueKind::String(text) => text.as_str(),
                    _ => "",
                });
                KeyEntry::parse_all(texts).map(|_| ()).map_err(|error| error.to_string())
            }
            Address if !text.is_empty() && text.parse::<SocketAddr>().is_err() => {
                Err("must be empty, or an IP address with a port, as 127.0.0.1:9090 or [::]:9090".to_owned())
            }
            Filter => telemetry::parse_filter(text).map(|_| ()).map_err(|error| error.to_string()),
            PluginConcurrencies => plugin_concurrencies(value),
            Egress => texts(value).try_for_each(|text| Allowed::try_from(text.to_owned()).map(|_| ())),
            Bindings => texts(value).try_for_each(|text| Binding::try_from(text.to_owned()).map(|_| ())),
            Users if !texts(value).all(is_user) => Err("each must be 1 to 64 of a-z, A-Z, 0-9, - and _".to_owned()),
            NotEmpty | File | Prefix | Users | Address => Ok(()),
        }
    }
}

/// The texts of a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let items = if let ValueKind::Array(items) = &value.kind { items.as_slice() } else { &[] };
    items.iter().filter_map(|item| if let ValueKind::String(text) = &item.kind { Some(text.as_str()) } else { None })
}

fn plugin_concurrencies(value: &Value) -> Result<(), String> {
    let mut plugins = BTreeSet::new();
    for item in texts(value) {
        let PluginConcurrency { plugin, .. } = item.to_owned().try_into().map_err(str::to_owned)?;
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
