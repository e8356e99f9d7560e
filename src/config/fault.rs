//! What is wrong with the settings: where it stands, what it is about, and what to write instead.
//!
//! A fault names the kind of a value and never the value, which may be a secret in the wrong place. Up: [`super::layers`]
//! and [`super::rules`], which find faults. Down: `src/cli`, which prints them and refuses the start.

use std::fmt;

use thiserror::Error;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, variable or flag.
    pub origin: String,
    /// The key, `worker.batch`; `None` where the whole file is unreadable.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// The settings cannot be used; everything that is wrong with them, one fault for each line.
#[derive(Debug, Error)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// What the checks of each layer did not foresee; the text is the library's, without the value.
    pub(super) fn unexpected(error: config::ConfigError) -> Self {
        let (origin, key, reason) = match error {
            config::ConfigError::Type { origin, expected, key, .. } => (origin, key, format!("must be {expected}")),
            config::ConfigError::At { origin, key, .. } => (origin, key, "cannot be used".to_owned()),
            _ => (None, None, "cannot be used".to_owned()),
        };
        let origin = origin.unwrap_or_else(|| "the settings".to_owned());
        Self { faults: vec![Fault { origin, key, reason }] }
    }
}

/// ", did you mean 'x'?" where one of the candidates is near.
pub(super) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    metagov_sdk::schema::nearest(word, candidates).map_or_else(
        || "; `metagov config defaults` lists every key".to_owned(),
        |meant| format!("; did you mean '{meant}'?"),
    )
}
