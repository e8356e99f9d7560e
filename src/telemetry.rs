//! What a process says about itself: lines for people or JSON for machines, on stderr.
//!
//! Stdout belongs to data, so nothing is ever logged there. What is logged never holds a setting, a token or a body; each
//! line passes [`line`], which masks what looks like one all the same. A log that cannot be written changes nothing, and one
//! that nobody reads holds nobody up ([`outlet`]).
//! Fields have fixed names, so that a query written once finds every role and every plugin:
//!
//! | field | on | meaning |
//! |---|---|---|
//! | `message.id` | span `message` | the command's `message_id` |
//! | `routing_key` | span `message` | what the command asks for |
//! | `community`, `plugin` | span `message` | what it is about |
//! | `attempt` | span `message` | which try of the handler, from 1 |
//! | `verdict` | span `message` | `completed`, `failed`, `uncertain`, `repeated`, `rejected`, `retried`, `ignored`, `dead`, `unfinished` |
//! | `elapsed_ms` | span `message` | from delivery to the end, just before the acknowledgement |
//! | `trace.id` | span `message` | of the W3C trace context, where the command carried one |
//! | `process.id` | events | the governance process |
//! | `error` | events | why something failed; logged once, where it is settled |
//!
//! Figures are another matter: [`measures`]. Up: [`crate::config::Log`]. Down: stderr.

mod line;
pub mod measures;
mod outlet;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write as _},
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
    time::Duration,
};

use thiserror::Error;
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use self::{line::Line, outlet::Outlet};
use crate::config::LogFormat;

/// Libraries that talk about every frame and every query. `lapin` is off: it logs whole messages that come back, body
/// and all, and an error for each connection that is closed in order; the bus says itself what happens to connections.
const QUIET: &str = "lapin=off,sqlx=warn,sea_orm=warn,sea_orm_migration=warn,tokio_cron_scheduler=warn,hyper=warn,\
                     hyper_util=warn,reqwest=warn,rustls=warn,h2=warn";

/// The filter does not parse.
#[derive(Debug, Error)]
#[error("must be a level (error, warn, info, debug, trace) or a list of target=level")]
pub struct InvalidFilter(#[source] Option<tracing_subscriber::filter::ParseError>);

/// Reads a filter; libraries that talk a lot stay at `warn` unless it names them.
///
/// # Errors
/// [`InvalidFilter`] with what would be right.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    // The parser counts characters where it cuts bytes, and panics over some that are not ASCII.
    if !filter.is_ascii() {
        return Err(InvalidFilter(None));
    }
    // A later directive for the same target replaces the earlier one.
    EnvFilter::builder().parse(format!("{QUIET},{filter}")).map_err(|error| InvalidFilter(Some(error)))
}

/// Whether stderr may be coloured: it is a terminal, and <https://no-color.org> is not asked for.
#[must_use]
pub fn coloured() -> bool {
    io::stderr().is_terminal() && colours_wanted()
}

/// Whether the environment lets a terminal be coloured: <https://no-color.org>, and terminals that cannot.
#[must_use]
pub fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Starts logging for the whole process, which ends soon; called once, by `main`. Where its reader stands still, so does it.
///
/// # Errors
/// Where logging was started before.
pub fn start(format: LogFormat, filter: EnvFilter) -> io::Result<()> {
    dispatcher::set_global_default(dispatch(format, filter, coloured(), io::stderr)).map_err(io::Error::other)
}

/// The way out of a process that serves.
static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// How long the end of the process waits for the reader of its log.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same for a process that serves: it waits for no reader, and what its threads say when they panic is logged, too.
///
/// # Errors
/// Where logging was started before, or no thread can be.
pub fn start_serving(format: LogFormat, filter: EnvFilter) -> io::Result<()> {
    let coloured = coloured();
    let straight = dispatch(format, EnvFilter::new("warn"), coloured, io::stderr);
    let outlet = Outlet::open(io::stderr(), move |dropped| {
        dispatcher::with_default(&straight, || {
            tracing::warn!(dropped, "the log was not read in time; so many lines are missing here");
        });
    })?;
    let logging = dispatch(format, filter, coloured, outlet.clone());
    dispatcher::set_global_default(logging).map_err(io::Error::other)?;
    let _ = OUTLET.set(outlet);
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let error = match backtrace.status() {
        BacktraceStatus::Captured => format!("{panic}\nstack backtrace:\n{backtrace}"),
        _ => panic.to_string(),
    };
    tracing::error!(error, "a thread panicked");
    // The process may end with it.
    if thread::current().name() == Some("main") {
        flush();
    }
}

/// Words on stderr that are no line of the log: not coloured, not filtered, never dropped, in order with the log.
pub fn say(words: &str) {
    let line = format!("{words}\n");
    match OUTLET.get() {
        Some(outlet) => outlet.insist(line.as_bytes()),
        // There is nowhere left to report it.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits until what was logged and said is written, for a second at most; called at the end of `main`.
pub fn flush() {
    if let Some(outlet) = OUTLET.get() {
        outlet.flush(PATIENCE);
    }
}

/// Makes a [`Line`] for each event.
struct Lines<W> {
    to: W,
    coloured: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Lines<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line::new(self.to.make_writer(), self.coloured)
    }
}

fn dispatch<W>(format: LogFormat, filter: EnvFilter, coloured: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let coloured = coloured && format == LogFormat::Human;
    // By default it complains on stderr of a line that stderr does not take, which panics.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let builder = builder.with_writer(Lines { to: writer, coloured });
    match format {
        LogFormat::Human => builder.with_ansi(coloured).with_target(false).finish().into(),
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn logged(format: LogFormat, filter: &str, say: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let filter = parse_filter(filter).expect("a valid filter");
        let shared = SharedWriter(Arc::clone(&lines));
        let dispatch = dispatch(format, filter, false, move || shared.clone());
        tracing::dispatcher::with_default(&dispatch, say);
        let bytes = lines.lock().expect("no writer panicked").clone();
        String::from_utf8(bytes).expect("logs are UTF-8")
    }

    #[derive(Clone)]
    struct SharedWriter(Arc<Mutex<Vec<u8>>>);

    impl io::Write for SharedWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_json_carries_the_fields_of_its_message() {
        let text = logged(LogFormat::Json, "info", || {
            let _message = tracing::info_span!("message", message.id = "m-1", community = "acme").entered();
            tracing::info!(process.id = "p-1", "it ended");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON object");
        assert_eq!(line["span"]["message.id"], "m-1", "{line}");
        assert_eq!(line["process.id"], "p-1", "{line}");
        assert_eq!(line["message"], "it ended", "{line}");
    }

    #[test]
    fn a_strangers_words_forge_no_line() {
        let key = "action.x\n1970-01-01T00:00:00Z ERROR all is lost\x1b[2J";
        for format in [LogFormat::Human, LogFormat::Json] {
            let text = logged(format, "info", || {
                let _message = tracing::info_span!("message", routing_key = %key).entered();
                tracing::warn!(error = %key, debugged = ?key, plain = key, "{key}");
            });
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(!text.contains('\x1b'), "{text}");
        }
    }

    #[test]
    fn what_a_library_tells_of_a_secret_is_masked_with_colours_and_without() {
        for coloured in [true, false] {
            let lines = Arc::new(Mutex::new(Vec::new()));
            let shared = SharedWriter(Arc::clone(&lines));
            let filter = parse_filter("info").expect("a valid filter");
            let dispatch = dispatch(LogFormat::Human, filter, coloured, move || shared.clone());
            tracing::dispatcher::with_default(&dispatch, || {
                tracing::warn!(password = "hunter2", url = %"postgres://u:hunter2@h/d", client_secret = %"hunter2", "no");
            });
            let text = String::from_utf8(lines.lock().expect("no writer panicked").clone()).expect("text");
            assert!(!text.contains("hunter2") && text.contains("@h/d"), "{text}");
        }
    }

    #[test]
    fn libraries_that_talk_a_lot_are_quiet_until_they_are_named() {
        let say = || {
            tracing::warn!(target: "lapin::channel", "a returned message with its body");
            tracing::info!(target: "sqlx::query", "a query");
        };
        assert_eq!(logged(LogFormat::Human, "debug", say), "");
        assert!(logged(LogFormat::Human, "info,sqlx=info", say).contains("a query"));
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        assert!(parse_filter("worker=loud=1").is_err());
        assert!(parse_filter("warn,metagov::bus=debug").is_ok());
    }
}
