//! The wire contract: what crosses RabbitMQ, as Rust types.
//!
//! Commands come in ([`Command`], read by [`Command::decode`]), events go out ([`Event`]), and every refusal or
//! failure is a [`Problem`]. The published JSON Schemas ([`schemas::published`]) are made from these types, and
//! incoming bodies are checked against the very same schemas. This module knows no broker, no database and no plugin.
//!
//! Up the message path: the driver, who builds these messages. Down: `src/worker`, which acts on them.

pub mod asyncapi;
pub mod command;
pub mod event;
pub mod json;
pub mod names;
pub mod problem;
pub mod record;
pub mod routing;
pub mod schemas;
pub mod trace;

pub use command::{
    ActionCommand, Command, CommunityApply, CommunityDelete, HttpRequest, PluginConfig, PluginDisable, PluginEnable,
    Poll, ProcessClose, ProcessStart, Tick, Undecodable, WebhookCommand,
};
pub use event::{ActionCompleted, ActionFailed, CommandRejected, Event, EventBody, EventId, EventScope, PlatformEvent};
pub use names::{CommunitySlug, InvalidName, MessageId, Name};
pub use problem::{Problem, ProblemKind, Violation};
pub use record::{Community, Initiator, InstanceRecord, ProcessRecord, ProcessStatus};
pub use routing::CommandKey;
pub use trace::TraceParent;

/// The one clock type of wire, store and plugins: an instant in UTC, written as RFC 3339.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
