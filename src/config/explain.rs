//! The settings as people may see them: every key, its value with secrets masked, and the layer that set it.
//!
//! It answers the question that is asked most, "where does this value come from?", and it is the only way in which
//! settings are ever printed. Up: the merged layers. Down: `metagov config show` and `metagov config explain`.

use std::collections::BTreeMap;

use config::{Source, Value, ValueKind};
use metagov_sdk::schema::MASK;
use serde::Serialize;

use super::layers::{DEFAULT, Layer};

/// One setting, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `worker.batch`
    pub key: String,
    /// The value that counts; what is secret in it is masked.
    pub value: serde_json::Value,
    /// `default`, `file …`, `variable …` or `flag …`.
    pub origin: String,
}

/// Values and their origins, in the order of `config.default.toml`'s keys.
#[derive(Debug, Clone)]
pub(super) struct Origins(BTreeMap<String, Setting>);

impl Origins {
    pub(super) fn of(merged: &config::Config) -> Self {
        let tree = merged.collect().unwrap_or_default();
        let find = |key: &str| match key.split_once('.') {
            None => tree.get(key),
            Some((section, key)) => match &tree.get(section)?.kind {
                ValueKind::Table(section) => section.get(key),
                _ => None,
            },
        };
        let shown = |key: String| {
            let value = find(&key)?;
            let origin = value.origin().unwrap_or(DEFAULT).to_owned();
            Some((key.clone(), Setting { value: shown(&key, value), key, origin }))
        };
        Self(Layer::defaults().values.into_keys().filter_map(shown).collect())
    }

    pub(super) fn settings(&self) -> Vec<Setting> {
        self.0.values().cloned().collect()
    }

    /// Shows a URL as it is used where that differs from how it was written.
    pub(super) fn set_url(&mut self, key: &str, url: &str) {
        if let Some(setting) = self.0.get_mut(key) {
            setting.value = mask_url(url).into();
        }
    }

    /// Which layer set this key.
    pub(super) fn of_key(&self, key: &str) -> &str {
        self.0.get(key).map_or(DEFAULT, |setting| &setting.origin)
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|setting| setting.origin != DEFAULT)
    }
}

fn shown(key: &str, value: &Value) -> serde_json::Value {
    match &value.kind {
        ValueKind::String(text) => secret_masked(key, text).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::Boolean(switch) => (*switch).into(),
        ValueKind::Array(items) => items.iter().map(|item| shown(key, item)).collect(),
        other => other.to_string().into(),
    }
}

fn secret_masked(key: &str, text: &str) -> String {
    if key.ends_with("url") {
        mask_url(text)
    } else if key == "secrets.keys" {
        // Which keys there are is no secret, and what an operator wants to know.
        text.split_once(':').map_or_else(|| MASK.to_owned(), |(id, _)| format!("{id}:{MASK}"))
    } else if ["password", "secret", "token", "_key"].iter().any(|ending| key.ends_with(ending)) {
        MASK.to_owned()
    } else {
        text.to_owned()
    }
}

/// A URL without its passwords: neither the one before the host nor those among its parameters.
///
/// Where the URL is written wrongly, rather too much is masked than too little.
#[must_use]
pub fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // The last `@`, for a password may hold an unescaped one.
    let rest = match rest.rsplit_once('@') {
        Some((login, address)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{address}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let Some((address, query)) = rest.split_once('?') else { return format!("{scheme}://{rest}") };
    let masked: Vec<String> = query.split('&').map(mask_parameter).collect();
    format!("{scheme}://{address}?{}", masked.join("&"))
}

fn mask_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if ["pass", "secret", "token"].iter().any(|word| name.to_lowercase().contains(word)) => {
            format!("{name}={MASK}")
        }
        _ => parameter.to_owned(),
    }
}
