//! Routing keys: which command a key names, and how the key of an event is put together.
//!
//! Every word of a key is checked or made safe here, so that no text from a driver or a platform can reach another
//! binding. Queues and exchanges are the business of `src/bus/topology.rs`. Up: the broker's routing key. Down:
//! [`super::Command::decode`].

use std::fmt;

use super::Name;

/// What a command's routing key asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CommandKey {
    /// `community.apply`
    CommunityApply,
    /// `community.delete`
    CommunityDelete,
    /// `plugin.<plugin>.enable`
    PluginEnable(Name),
    /// `plugin.<plugin>.disable`
    PluginDisable(Name),
    /// `action.<plugin>.<action>`
    Action(Name, Name),
    /// `process.<plugin>.<process>.start`
    ProcessStart(Name, Name),
    /// `process.<plugin>.<process>.close`
    ProcessClose(Name, Name),
    /// `webhook.<plugin>`
    Webhook(Name),
    /// `poll.<plugin>.<process>`
    Poll(Name, Name),
    /// `tick.<plugin>`
    Tick(Name),
}

impl CommandKey {
    /// Reads a routing key. `None` where no command has it.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let name = |word: &str| Name::new(word).ok();
        let mut words = key.split('.');
        let mut next = || words.next();
        let parsed = match (next()?, next(), next(), next(), next()) {
            ("community", Some("apply"), None, ..) => Self::CommunityApply,
            ("community", Some("delete"), None, ..) => Self::CommunityDelete,
            ("plugin", Some(p), Some("enable"), None, _) => Self::PluginEnable(name(p)?),
            ("plugin", Some(p), Some("disable"), None, _) => Self::PluginDisable(name(p)?),
            ("action", Some(p), Some(a), None, _) => Self::Action(name(p)?, name(a)?),
            ("process", Some(p), Some(q), Some("start"), None) => Self::ProcessStart(name(p)?, name(q)?),
            ("process", Some(p), Some(q), Some("close"), None) => Self::ProcessClose(name(p)?, name(q)?),
            ("webhook", Some(p), None, ..) => Self::Webhook(name(p)?),
            ("poll", Some(p), Some(q), None, _) => Self::Poll(name(p)?, name(q)?),
            ("tick", Some(p), None, ..) => Self::Tick(name(p)?),
            _ => return None,
        };
        Some(parsed)
    }

    /// The plugin that the key names, if it names one.
    #[must_use]
    pub fn plugin(&self) -> Option<&Name> {
        match self {
            Self::CommunityApply | Self::CommunityDelete => None,
            Self::PluginEnable(plugin)
            | Self::PluginDisable(plugin)
            | Self::Action(plugin, _)
            | Self::ProcessStart(plugin, _)
            | Self::ProcessClose(plugin, _)
            | Self::Webhook(plugin)
            | Self::Poll(plugin, _)
            | Self::Tick(plugin) => Some(plugin),
        }
    }
}

impl fmt::Display for CommandKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommunityApply => f.write_str("community.apply"),
            Self::CommunityDelete => f.write_str("community.delete"),
            Self::PluginEnable(plugin) => write!(f, "plugin.{plugin}.enable"),
            Self::PluginDisable(plugin) => write!(f, "plugin.{plugin}.disable"),
            Self::Action(plugin, action) => write!(f, "action.{plugin}.{action}"),
            Self::ProcessStart(plugin, process) => write!(f, "process.{plugin}.{process}.start"),
            Self::ProcessClose(plugin, process) => write!(f, "process.{plugin}.{process}.close"),
            Self::Webhook(plugin) => write!(f, "webhook.{plugin}"),
            Self::Poll(plugin, process) => write!(f, "poll.{plugin}.{process}"),
            Self::Tick(plugin) => write!(f, "tick.{plugin}"),
        }
    }
}

/// Makes a word that comes from a platform safe in a routing key: every character outside `[A-Za-z0-9_-]` becomes `_`,
/// and it is cut at 64. An empty word becomes `_`, for a routing key has no empty words.
#[must_use]
pub fn safe_word(word: &str) -> String {
    let safe: String = word
        .chars()
        .take(64)
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' })
        .collect();
    if safe.is_empty() { "_".to_owned() } else { safe }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_key_of_the_contract_reads_back_as_it_is_written() {
        for key in [
            "community.apply",
            "community.delete",
            "plugin.slack.enable",
            "plugin.slack.disable",
            "action.slack.post-message",
            "process.slack.emoji-vote.start",
            "process.slack.emoji-vote.close",
            "webhook.slack",
            "poll.slack.emoji-vote",
            "tick.slack",
        ] {
            assert_eq!(CommandKey::parse(key).expect("it is in the contract").to_string(), key);
        }
    }

    #[test]
    fn other_keys_name_no_command() {
        for key in ["", ".", "community", "community.apply.x", "action.slack", "action..x", "action.#.*", "action.A.b"]
        {
            assert_eq!(CommandKey::parse(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_exact(key in "\\PC{0,80}") {
            if let Some(parsed) = CommandKey::parse(&key) {
                prop_assert_eq!(parsed.to_string(), key);
            }
        }

        #[test]
        fn a_safe_word_is_one_routing_key_word(word in any::<String>()) {
            let safe = safe_word(&word);
            prop_assert!((1..=64).contains(&safe.len()));
            prop_assert!(safe.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
        }
    }
}
