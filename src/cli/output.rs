//! What a command prints: data on stdout, words on stderr, and nothing else anywhere.
//!
//! With `--json` data is one object, or one object for each line. Otherwise it is for people: tables, and JSON with line
//! breaks. Colours appear on a terminal only, and not where `NO_COLOR` is set or `TERM` is `dumb`. Up: every command. Down: the terminal, or
//! the program that reads us.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, ErrorKind, IsTerminal, Write as _},
};

use metagov_sdk::contract::Problem;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    arguments::Page,
    exit::{Exit, Stop},
};
use crate::{config::ConfigError, telemetry};

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(super) const fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    pub(super) const fn is_quiet(self) -> bool {
        self.quiet
    }

    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// One thing: as one line of JSON, or as `human` words.
    pub(super) fn data(self, data: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(data)? } else { human() };
        line(text.trim_end())
    }

    /// One thing that is JSON by nature: on one line, or with line breaks for people.
    pub(super) fn document(self, data: &impl Serialize) -> anyhow::Result<()> {
        let pretty = serde_json::to_string_pretty(data)?;
        self.data(data, || pretty)
    }

    /// Many things: one line of JSON each, or a table. An empty table is a word on stderr, so that stdout stays empty.
    pub(super) fn list<T: Serialize>(
        self,
        items: &[T],
        none: &str,
        columns: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| line(&serde_json::to_string(item)?));
        }
        if items.is_empty() {
            self.say(none);
            return Ok(());
        }
        line(&table(columns, &items.iter().map(row).collect::<Vec<_>>()))
    }

    /// A page of many things, of which one more than fits was read: where it is cut, stderr says so and how to go on.
    pub(super) fn page<T: Serialize>(
        self,
        mut items: Vec<T>,
        page: Page,
        cursor: impl Fn(&T) -> String,
        none: &str,
        columns: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        let fitting = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let more = items.len() > fitting;
        items.truncate(fitting);
        self.list(&items, none, columns, row)?;
        if more && let Some(last) = items.last() {
            // Not even with `--quiet`: a list that is cut must not look whole.
            telemetry::say(&format!("there are more; the next ones: --after {}", cursor(last)));
        }
        Ok(())
    }

    /// Words for whoever watches; silent with `--quiet`.
    pub(super) fn say(self, words: &str) {
        if !self.quiet {
            telemetry::say(words);
        }
    }

    /// Something done that is not asked for its result: words for whoever watches; with `--json` also an object.
    pub(super) fn done(self, data: &impl Serialize, words: &str) -> anyhow::Result<()> {
        self.say(words);
        if self.json { line(&serde_json::to_string(data)?) } else { Ok(()) }
    }

    /// Words about one step of something that takes time, dimmed on a terminal.
    pub(super) fn step(self, words: &str) {
        self.say(&styled("2", &format!("· {words}"), telemetry::coloured()));
    }

    /// A step on the way to an outcome. With `--json` there are none: who reads that waits for the object, and often reads
    /// both streams as one.
    pub(super) fn towards_outcome(self, words: &str) {
        if !self.json {
            self.step(words);
        }
    }

    /// An error that ends the command, on stderr; with `--json` also as an object on stdout, so that a program that reads
    /// us always gets one. Never silent.
    pub(super) fn fail(self, error: &anyhow::Error) -> Exit {
        let exit = Exit::of(error);
        if matches!(error.downcast_ref::<Stop>(), Some(Stop::PipeClosed)) {
            return exit;
        }
        let problem = error.chain().find_map(|cause| cause.downcast_ref::<Problem>());
        match (problem, error.downcast_ref::<ConfigError>()) {
            (Some(problem), _) => tell_problem(problem),
            (None, Some(faults)) => {
                complain(&format!("the settings are not usable\n  {}", faults.to_string().replace('\n', "\n  ")));
            }
            (None, None) => complain(&format!("{error:#}")),
        }
        if self.json {
            let object = match problem {
                Some(problem) => problem_object(problem, exit),
                None => error_object(&format!("{error:#}"), exit),
            };
            let _ = line(&object.to_string());
        }
        exit
    }

    /// Wrong usage, as clap words it; told in the same places as any other error.
    pub(super) fn refuse(self, error: &clap::Error) -> Exit {
        let _ = error.print();
        if self.json {
            let text = error.render().to_string();
            // What comes after the first empty line is how to use the command.
            let reason = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let _ = line(&error_object(reason, Exit::Usage).to_string());
        }
        Exit::Usage
    }
}

/// An error for programs. Every error has this shape.
pub(super) fn error_object(message: &str, exit: Exit) -> Value {
    json!({ "error": { "message": message, "exit_code": exit as u8 } })
}

/// The same with the problem of the contract that it is.
pub(super) fn problem_object(problem: &Problem, exit: Exit) -> Value {
    let mut object = error_object(&problem.detail, exit);
    object["error"]["problem"] = json!(problem);
    object
}

/// A line of data on stdout.
///
/// # Errors
/// [`Stop::PipeClosed`] where nobody reads any more.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Stop::PipeClosed.into()),
        other => Ok(other?),
    }
}

/// A problem on stderr, in the words that every part of the service uses, each violation on a line. Never silent.
pub(super) fn tell_problem(problem: &Problem) {
    complain(&problem_text(problem));
}

/// Words about what went wrong, on stderr. Never silent.
pub(super) fn complain(words: &str) {
    telemetry::say(&format!("{} {words}", styled("1;31", "error:", telemetry::coloured())));
}

fn problem_text(problem: &Problem) -> String {
    let mut text = format!("{}: {}", problem.slug(), problem.detail);
    for error in &problem.errors {
        let place = if error.pointer.is_empty() { "/" } else { &error.pointer };
        let _ = write!(text, "\n  {place}: {}", error.message);
    }
    text
}

/// Whether stdout may be coloured.
fn coloured_data() -> bool {
    io::stdout().is_terminal() && telemetry::colours_wanted()
}

fn styled<'a>(code: &str, text: &'a str, coloured: bool) -> Cow<'a, str> {
    if coloured { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
}

/// Columns as wide as their widest cell, the last one as it is. Without titles there is no first line.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let titles: Vec<Cow<'_, str>> = titles.iter().map(|title| (*title).into()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let joined = |row: &[Cow<'_, str>]| {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = (!titles.is_empty()).then(|| styled("1", &joined(&titles), coloured_data()).into_owned());
    head.into_iter().chain(rows.iter().map(|row| joined(row))).collect::<Vec<_>>().join("\n")
}

/// Text from others without control characters: a platform's words cannot move the cursor of an operator's terminal.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

/// A JSON value on one line and not longer than this, for a table.
pub(super) fn short(value: &Value, longest: usize) -> String {
    let text = value.to_string();
    if text.chars().count() <= longest {
        return text;
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use metagov_sdk::contract::{ProblemKind, Violation};

    use super::*;

    #[test]
    fn a_problem_is_told_with_each_violation_on_a_line() {
        let violation = |pointer: &str| Violation {
            pointer: pointer.to_owned(),
            keyword: "type".to_owned(),
            message: "it is not an integer".to_owned(),
        };
        let problem = Problem::new(ProblemKind::InvalidParameters, "the parameters break their schema")
            .with_errors(vec![violation("/parameters/low"), violation("")]);
        assert_eq!(
            problem_text(&problem),
            "invalid-parameters: the parameters break their schema\n  /parameters/low: it is not an integer\n  \
             /: it is not an integer"
        );
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        let rows = [vec!["a\x1b[31mb".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["x", "y"], &rows), "x        y\na\u{fffd}[31mb  c");
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(short(&json!("abcdef"), 5), "\"abc…");
    }
}
