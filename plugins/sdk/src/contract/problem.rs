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
            /// One that a later version has added; never made here, only read.
            Unknown,
        }

        impl ProblemKind {
            /// Every kind that this version knows, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The last part of the problem's `type`.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* Self::Unknown => "unknown" }
            }

            /// The HTTP status that says the same.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* Self::Unknown => 500 }
            }

            /// One line for people, the same for every problem of this kind.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* Self::Unknown => "Something went wrong" }
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

impl ProblemKind {
    /// The `type` of problems of this kind.
    fn uri(self) -> String {
        format!("{PREFIX}{}", self.slug())
    }

    fn of(uri: &str) -> Self {
        let slug = uri.strip_prefix(PREFIX);
        Self::ALL.iter().copied().find(|kind| Some(kind.slug()) == slug).unwrap_or(Self::Unknown)
    }
}

/// Known values, not all that there ever will be: a driver that was generated from this must read later ones, too.
fn known_uris(_: &mut SchemaGenerator) -> Schema {
    let known: Vec<String> = ProblemKind::ALL.iter().map(|kind| kind.uri()).collect();
    json_schema!({ "type": "string", "format": "uri", "examples": known })
}

/// Problem details after RFC 9457. The detail never repeats a secret or a whole body. A problem of a kind that only a later
/// version knows is read, shown and written on as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Problem {
    /// Which kind of problem this is.
    pub kind: ProblemKind,
    /// One line for people, the same for every problem of this kind.
    pub title: String,
    /// The HTTP status that says the same.
    pub status: u16,
    /// What happened this time, and what to do about it.
    pub detail: String,
    /// Each violation, where several things are wrong at once.
    pub errors: Vec<Violation>,
    /// The `type` that was read where the kind is [`ProblemKind::Unknown`].
    unknown: Option<String>,
}

/// Problem details after RFC 9457. The detail never repeats a secret or a whole body.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
struct Written {
    /// Which kind of problem this is, as a URI.
    #[schemars(schema_with = "known_uris")]
    r#type: String,
    /// One line for people, the same for every problem of this kind.
    title: String,
    /// The HTTP status that says the same.
    status: u16,
    /// What happened this time, and what to do about it.
    detail: String,
    /// Each violation, where several things are wrong at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Violation>,
}

impl From<Written> for Problem {
    fn from(Written { r#type, title, status, detail, errors }: Written) -> Self {
        let kind = ProblemKind::of(&r#type);
        let unknown = (kind == ProblemKind::Unknown).then_some(r#type);
        Self { kind, title, status, detail, errors, unknown }
    }
}

impl From<Problem> for Written {
    fn from(Problem { kind, title, status, detail, errors, unknown }: Problem) -> Self {
        Self { r#type: unknown.unwrap_or_else(|| kind.uri()), title, status, detail, errors }
    }
}

impl JsonSchema for Problem {
    fn schema_name() -> Cow<'static, str> {
        Written::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        Written::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Written::json_schema(generator)
    }
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
        Self {
            kind,
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            errors: Vec::new(),
            unknown: None,
        }
    }

    /// The last part of its `type`, also where a later version has made it.
    #[must_use]
    pub fn slug(&self) -> &str {
        match &self.unknown {
            Some(uri) => uri.rsplit('/').next().unwrap_or(uri),
            None => self.kind.slug(),
        }
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
        write!(f, "{}: {}", self.slug(), self.detail)?;
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_reads_back_as_it_was_written() {
        let problem = Problem::new(ProblemKind::Conflict, "the key was used");
        let text = serde_json::to_string(&problem).expect("a problem is plain data");
        assert!(text.contains("https://metagov.org/problems/conflict"), "{text}");
        assert_eq!(serde_json::from_str::<Problem>(&text).expect("it is a problem"), problem);
    }

    #[test]
    fn a_problem_of_a_later_version_is_read_shown_and_written_on_as_it_is() {
        let later = json!({
            "type": "https://metagov.org/problems/invented-later", "title": "T", "status": 418, "detail": "what to do"
        });
        let problem: Problem = serde_json::from_value(later.clone()).expect("it is a problem");
        assert_eq!((problem.kind, problem.status), (ProblemKind::Unknown, 418));
        assert_eq!(problem.to_string(), "invented-later: what to do");
        assert_eq!(serde_json::to_value(problem).expect("it is plain data"), later);
    }
}
