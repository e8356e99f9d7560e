//! `metagov completions SHELL`: a script that completes commands and options.
//!
//! Up: the shell's start-up file. Down: `clap_complete`.

use clap::Args;
use clap_complete::Shell;

use super::{exit::Exit, output::line};

/// Which shell.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "metagov", &mut script);
        line(String::from_utf8(script)?.trim_end())?;
        Ok(Exit::Success)
    }
}
