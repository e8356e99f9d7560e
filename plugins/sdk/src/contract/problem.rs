//! What went wrong, told the same way in event, reply, command line and log: RFC 9457 problem details.
//!
//! A problem is data, not a Rust error: handlers fail with `sdk::Error`, the store and the bus with errors of their
//! own, and the worker turns what a driver should know into a [`Problem`]. Up: whoever refuses or fails. Down:
//! [`super::event::EventBody`], which carries it.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What every problem type starts with.
const PREFIX: &str = "https://metagov.org/problems/";

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $slug:literal, $status:literal, $title:literal;)*) => {
        /// The kinds of problems, each with its slug, its HTTP status and its title.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $variant,)*
        }

        impl ProblemKind {
            /// Every kind there is, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The last part of the problem's `type`.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }

            /// The HTTP status that says the same.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// One line for people, the same for every problem of this kind.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

kinds! {
    /// The body is not JSON, or repeats a member, or is nested too deeply.
    InvalidJson = "invalid-json", 400, "The body is not valid JSON";
    /// The envelope around the parameters breaks its schema.
    InvalidCommand = "invalid-command", 422, "The command breaks its schema";
    /// An AMQP property of the command is not usable.
    InvalidProperty = "invalid-property", 400, "A message property is not usable";
    /// `reply_to` names a queue that may not be answered to.
    InvalidReplyTo = "invalid-reply-to", 400, "reply_to may not be used";
    /// The user who sent it is not bound to the community.
    Forbidden = "forbidden", 403, "The user may not speak for this community";
    /// No command has this routing key.
    UnknownCommand = "unknown-command", 404, "No command has this routing key";
    /// No plugin of this name runs here.
    UnknownPlugin = "unknown-plugin", 404, "There is no such plugin";
    /// The plugin has no action of this name.
    UnknownAction = "unknown-action", 404, "The plugin has no such action";
    /// The plugin has no process of this name.
    UnknownProcess = "unknown-process", 404, "The plugin has no such governance process";
    /// There is no community with this slug.
    UnknownCommunity = "unknown-community", 404, "There is no such community";
    /// The community exists, the plugin exists, but it is not enabled there.
    PluginNotEnabled = "plugin-not-enabled", 409, "The plugin is not enabled in this community";
    /// Several instances of the plugin are enabled and the command does not say which it means.
    AmbiguousInstance = "ambiguous-instance", 409, "Several instances of the plugin are enabled";
    /// The parameters break the schema of the action or process, or the plugin refused them.
    InvalidParameters = "invalid-parameters", 422, "The parameters are not acceptable";
    /// The config breaks the plugin's config schema, or the plugin refused it.
    InvalidConfig = "invalid-config", 422, "The config is not acceptable";
    /// The plugin answered with something that its own schema forbids.
    InvalidOutput = "invalid-output", 500, "The plugin's answer breaks its own schema";
    /// The body is larger than the limit.
    TooLarge = "too-large", 413, "The body is too large";
    /// Its `expiration` was over before it was handled.
    Expired = "expired", 410, "The command expired before it was handled";
    /// The same key was used before for something else.
    Conflict = "conflict", 409, "The key was used before for another command";
    /// No such process in this community.
    NotFound = "not-found", 404, "There is no such process in this community";
    /// The process cannot be closed by hand.
    NotClosable = "not-closable", 409, "The process cannot be closed by hand";
    /// The process has ended before.
    AlreadyCompleted = "already-completed", 409, "The process has ended";
    /// Another command has started a process with this id.
    AlreadyExists = "already-exists", 409, "There is a process with this id already";
    /// The webhook's signature does not hold.
    InvalidSignature = "invalid-signature", 401, "The webhook's signature does not hold";
    /// The platform answered with an error, or did not answer.
    PlatformError = "platform-error", 502, "The platform failed";
    /// The address of a platform lies where plugins may not go.
    EgressDenied = "egress-denied", 403, "The address may not be reached from here";
    /// The handler ran longer than its deadline.
    Timeout = "timeout", 504, "The handler ran out of time";
    /// The handler panicked.
    PluginPanicked = "plugin-panicked", 500, "The plugin crashed";
    /// Worker after worker died while it handled this.
    WorkerCrashed = "worker-crashed", 500, "Its workers died while they handled it";
    /// The plugin was disabled while the process was pending.
    PluginDisabled = "plugin-disabled", 410, "The plugin was disabled";
    /// The service itself could not carry the command out.
    InternalError = "internal-error", 500, "The service could not carry this out";
    /// The worker died after it may have acted, and the action is not safe to repeat.
    OutcomeUncertain = "outcome-uncertain", 500, "It is not known whether the action took place";
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl Serialize for ProblemKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{PREFIX}{}", self.slug()))
    }
}

impl<'de> Deserialize<'de> for ProblemKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix(PREFIX)
            .and_then(|slug| Self::ALL.iter().copied().find(|kind| kind.slug() == slug))
            .ok_or_else(|| serde::de::Error::custom("an unknown problem type"))
    }
}

impl JsonSchema for ProblemKind {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "ProblemKind".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Known values, not all that there ever will be: a driver that was generated from this must read later ones, too.
        let known: Vec<String> = Self::ALL.iter().map(|kind| format!("{PREFIX}{}", kind.slug())).collect();
        json_schema!({ "type": "string", "format": "uri", "examples": known })
    }
}

/// Problem details after RFC 9457. The detail never repeats a secret or a whole body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Which kind of problem this is, as a URI.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// One line for people, the same for every problem of this kind.
    pub title: String,
    /// The HTTP status that says the same.
    pub status: u16,
    /// What happened this time, and what to do about it.
    pub detail: String,
    /// Each violation, where several things are wrong at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Violation>,
}

/// One thing that is wrong in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// JSON Pointer (RFC 6901) to the place, from the root of the command's body.
    pub pointer: String,
    /// The JSON Schema keyword that does not hold, or `rejected` where a plugin refused.
    pub keyword: String,
    /// What is wrong there; never the value itself.
    pub message: String,
}

impl Problem {
    /// A problem of this kind with a detail for this occurrence.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, title: kind.title().to_owned(), status: kind.status(), detail: detail.into(), errors: Vec::new() }
    }

    /// The same with a list of violations.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<Violation>) -> Self {
        self.errors = errors;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)?;
        for error in &self.errors {
            let place = if error.pointer.is_empty() { "/" } else { &error.pointer };
            write!(f, "; {place}: {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_back_as_it_was_written() {
        let problem = Problem::new(ProblemKind::Conflict, "the key was used");
        let text = serde_json::to_string(&problem).expect("a problem is plain data");
        assert!(text.contains("https://metagov.org/problems/conflict"), "{text}");
        assert_eq!(serde_json::from_str::<Problem>(&text).expect("it is a problem"), problem);
    }
}
