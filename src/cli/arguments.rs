//! Arguments that several commands share, and how their texts are read.
//!
//! Up: clap. Down: the commands.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use metagov_sdk::contract::{CommunitySlug, Initiator, MessageId, Name};
use serde_json::{Map, Value};

use super::parameters;
use crate::registry::{Registry, unknown_action, unknown_process};

/// `PLUGIN.ACTION` or `PLUGIN.PROCESS`.
#[derive(Debug, Clone)]
pub(super) struct Qualified {
    pub(super) plugin: Name,
    pub(super) name: Name,
}

impl FromStr for Qualified {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (plugin, name) = text.split_once('.').ok_or("must be PLUGIN.NAME, such as randomness.random-int")?;
        let name_of = |word: &str| Name::new(word).map_err(|error| error.to_string());
        Ok(Self { plugin: name_of(plugin)?, name: name_of(name)? })
    }
}

impl Qualified {
    /// The schema of the action's parameters, or the problem that names the nearest action.
    pub(super) fn action_parameters<'a>(&self, registry: &'a Registry) -> anyhow::Result<&'a Value> {
        let plugin = registry.find(&self.plugin)?;
        let action = plugin.manifest().actions.get(&self.name);
        Ok(&action.ok_or_else(|| unknown_action(plugin, &self.name))?.parameters)
    }

    /// The schema of the process's parameters, or the problem that names the nearest process.
    pub(super) fn process_parameters<'a>(&self, registry: &'a Registry) -> anyhow::Result<&'a Value> {
        let plugin = registry.find(&self.plugin)?;
        let process = plugin.manifest().processes.get(&self.name);
        Ok(&process.ok_or_else(|| unknown_process(plugin, &self.name))?.parameters)
    }
}

/// What every command to a plugin says.
#[derive(Debug, Args)]
pub(super) struct Call {
    /// The community that it happens in
    #[arg(long, short, value_name = "SLUG")]
    pub(super) community: CommunitySlug,
    /// Which instance of the plugin, where several are enabled: the platform's own id of the community
    #[arg(long, value_name = "ID")]
    pub(super) community_platform_id: Option<String>,
    #[doc = "One parameter; may be repeated"]
    #[arg(long = "param", short, value_name = "KEY=VALUE", long_help = format!("One parameter; may be repeated. {}", parameters::HOW))]
    pub(super) param: Vec<String>,
    /// A JSON file with the parameters, `-` for stdin; `--param` counts over it
    #[arg(long, value_name = "FILE")]
    pub(super) params: Option<PathBuf>,
    /// Who asks, in the words of an identity provider
    #[arg(long, value_name = "PROVIDER:USER", value_parser = initiator)]
    pub(super) initiator: Option<Initiator>,
    /// The idempotency key; the same key with the same command has no second effect [default: a fresh UUID]
    #[arg(long, value_name = "ID")]
    pub(super) message_id: Option<MessageId>,
}

impl Call {
    /// The parameters, read as the schema says.
    pub(super) fn parameters(&self, schema: &Value) -> anyhow::Result<Map<String, Value>> {
        parameters::assemble(Some(schema), self.params.as_deref(), &self.param)
    }
}

/// How long to wait for an outcome.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Patience {
    /// How long to wait for the outcome, such as 500ms, 60s, 5m or 2h
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(super) timeout: Duration,
}

/// Reads `500ms`, `60s`, `5m`, `2h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number with a unit: 500ms, 60s, 5m or 2h".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or_else(wrong);
    match &text[digits..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => Err(wrong()),
    }
}

/// How much of a list is shown at once.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Page {
    /// At most so many; where there are more, a line on stderr says how to get them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) limit: u64,
}

impl Page {
    /// What is read: one more, to know whether there are more.
    pub(super) const fn to_read(self) -> u64 {
        self.limit + 1
    }
}

fn initiator(text: &str) -> Result<Initiator, String> {
    match text.split_once(':') {
        Some((provider, user)) if !provider.is_empty() && !user.is_empty() => {
            Ok(Initiator { user_id: user.to_owned(), provider: provider.to_owned(), more: Map::new() })
        }
        _ => Err("must be PROVIDER:USER, such as slack:U024BE7LH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        for bad in ["", "60", "s", "1.5s", "-1s", "1 s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_initiator_names_provider_and_user() {
        let found = initiator("slack:U1:x").expect("usable");
        assert_eq!((found.provider.as_str(), found.user_id.as_str()), ("slack", "U1:x"));
        assert!(initiator("slack").is_err() && initiator(":x").is_err() && initiator("x:").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in any::<String>()) {
            let _ = (duration(&text), initiator(&text), text.parse::<Qualified>());
        }
    }
}
