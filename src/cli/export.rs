//! `metagov topology export`: the users and permissions that the broker should have, and no more.
//!
//! Asks nobody: the file is for `rabbitmqctl import_definitions`. Up: operators. Down: [`crate::bus::permissions`].

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;

use super::{exit::Exit, output::Output};
use crate::{
    bus::{Login, permissions::Definitions},
    config::Config,
};

/// What to write, and where.
#[derive(Debug, Clone, Args)]
pub(super) struct Export {
    /// Leave out the users: for a later import, which would take away their passwords
    #[arg(long)]
    permissions_only: bool,
    /// The virtual host [default: that of broker.url, else /]
    #[arg(long, value_name = "VHOST")]
    vhost: Option<String>,
    /// The file to write [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let vhost = match self.vhost {
            Some(vhost) => vhost,
            None => Login::of(&config.broker.url)?.map_or_else(|| "/".to_owned(), |login| login.vhost),
        };
        let mut definitions = Definitions::new(&config.broker.prefix, &vhost, &config.tenancy);
        let names: Vec<String> = definitions.users.iter().map(|user| user.name.clone()).collect();
        if self.permissions_only {
            definitions.users.clear();
        }
        match &self.output {
            None => out.document(&definitions)?,
            Some(path) => {
                let text = serde_json::to_string_pretty(&definitions)? + "\n";
                fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
                let written = serde_json::json!({ "written": path, "users": names });
                out.done(&written, &format!("written to {}", path.display()))?;
            }
        }
        out.say("put it on the broker: rabbitmqctl import_definitions FILE");
        if !self.permissions_only {
            out.say("then nobody of these can log in until a password is set: rabbitmqctl change_password USER");
            out.say(&format!("users: {}", names.join(", ")));
        }
        Ok(Exit::Success)
    }
}
