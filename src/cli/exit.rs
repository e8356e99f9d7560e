//! How a command ends: the exit codes, in the one place where they are decided.
//!
//! Commands return `anyhow::Result<Exit>`; whatever went wrong below is turned into a code here, by what it is and not by
//! where it happened. Up: every file of `src/cli`. Down: the shell.

use std::process::ExitCode;

use metagov_sdk::contract::{Problem, ProblemKind};
use thiserror::Error;

use crate::{bus::BusError, config::ConfigError, store::StoreError};

/// The exit codes, as `metagov --help` shows them; those of its commands do not repeat them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
   0  done; with --wait: the outcome is a success
   1  the outcome is a failure or a rejection, or something else went wrong
   2  the command line is not usable
   3  there is no such community, plugin, action, process, run or dead letter
   4  no outcome in time; it may still come
   5  no service can be reached: neither broker, nor database, nor a running `metagov dev`
  78  the settings are not usable";

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Success = 0,
    /// The outcome is a failure or a rejection, or something else went wrong.
    Failure = 1,
    /// The command line is not usable.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// No outcome in time.
    TimedOut = 4,
    /// Nothing answers.
    Unreachable = 5,
    /// The settings are not usable; `EX_CONFIG` of sysexits.h.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command stops, where the kind of the reason is the command line's own.
#[derive(Debug, Error)]
pub(super) enum Stop {
    /// The command line is not usable.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// No outcome in time.
    #[error("{0}")]
    TimedOut(String),
    /// Nothing answers.
    #[error("{0}")]
    Unreachable(String),
    /// Whoever read our output has gone, as `head` does. Nothing is wrong.
    #[error("nobody reads the output any more")]
    PipeClosed,
}

impl Exit {
    /// The code for an error: that of the first cause which says what kind it is.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failure)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(stop) = cause.downcast_ref::<Stop>() {
            return Some(match stop {
                Stop::Usage(_) => Self::Usage,
                Stop::NotFound(_) => Self::NotFound,
                Stop::TimedOut(_) => Self::TimedOut,
                Stop::Unreachable(_) => Self::Unreachable,
                Stop::PipeClosed => Self::Success,
            });
        }
        if let Some(problem) = cause.downcast_ref::<Problem>() {
            return Some(Self::of_problem(problem));
        }
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return Some(if error.is_passing() { Self::Unreachable } else { Self::Failure });
        }
        if let Some(error) = cause.downcast_ref::<BusError>() {
            return Some(match error {
                BusError::Url { .. } => Self::Config,
                BusError::Socket(_) | BusError::Closed => Self::Unreachable,
                BusError::Subscribe(_) | BusError::Declare { .. } | BusError::DeadLetters(_) | BusError::Serve(_) => {
                    Self::Failure
                }
            });
        }
        cause.is::<ConfigError>().then_some(Self::Config)
    }

    /// The code for a problem, found here or told by the service.
    pub(super) fn of_problem(problem: &Problem) -> Self {
        match problem.kind {
            ProblemKind::UnknownPlugin
            | ProblemKind::UnknownAction
            | ProblemKind::UnknownProcess
            | ProblemKind::UnknownCommunity
            | ProblemKind::NotFound => Self::NotFound,
            _ => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        let all = [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::NotFound,
            Exit::TimedOut,
            Exit::Unreachable,
            Exit::Config,
        ];
        for exit in all {
            assert!(EXIT_CODES.contains(&format!("{:>4}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn an_error_keeps_its_code_whatever_is_said_around_it() {
        let error =
            Err::<(), _>(Stop::TimedOut("too late".to_owned())).context("while waiting").expect_err("it is one");
        assert_eq!(Exit::of(&error), Exit::TimedOut);
        assert_eq!(Exit::of(&anyhow::anyhow!("anything")), Exit::Failure);
        let problem = Problem::new(ProblemKind::UnknownCommunity, "there is none");
        assert_eq!(Exit::of(&problem.into()), Exit::NotFound);
    }
}
