//! Asking a person before something is gone for good.
//!
//! Only on a terminal: a script that names the command means it. Up: commands that delete. Down: the terminal.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;

/// How to do without the question.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Confirmation {
    /// Do not ask; without a terminal nothing is asked anyway
    #[arg(long, short)]
    yes: bool,
}

impl Confirmation {
    /// Whether it may be done.
    pub(super) fn given(self, question: &str) -> io::Result<bool> {
        if self.yes || !io::stdin().is_terminal() {
            return Ok(true);
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}
