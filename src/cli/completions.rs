//! `metagov completions SHELL`: a script that completes commands and options.
//!
//! Up: the shell's start-up file. Down: `clap_complete`.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::{exit::Exit, output::Output};

/// Which shell.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self, out: Output) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "metagov", &mut script);
        let script = String::from_utf8(script)?;
        out.data(&json!({ "script": script }), || script.clone())?;
        Ok(Exit::Success)
    }
}
