//! `metagov plugin …`: plugins in one community, with their configs.
//!
//! Up: operators. Down: `plugin.<plugin>.enable` and `.disable` on the bus; the database for reads.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use metagov_sdk::contract::{Command, CommunityApply, CommunitySlug, Name, PluginDisable, PluginEnable};

use super::{
    arguments::Patience,
    asking::{Ask, conclude, pretty, problem_of},
    community::existing,
    connection,
    exit::{Exit, Stop},
    output::Output,
    parameters,
};
use crate::{config::Config, plugins};

/// What to do with a plugin in a community.
#[derive(Debug, Subcommand)]
pub(super) enum Plugin {
    /// Enable a plugin, or change its config in place; its state and its open processes stay
    Enable(Enable),
    /// Disable a plugin; its open processes end
    Disable {
        /// The plugin
        name: Name,
        /// The community
        #[arg(long, short, value_name = "SLUG")]
        community: CommunitySlug,
        /// Which instance, where several are enabled: the platform's own id of the community
        #[arg(long, value_name = "ID")]
        community_platform_id: Option<String>,
        #[command(flatten)]
        patience: Patience,
    },
    /// The config of a plugin in a community, secrets masked
    Config {
        /// The plugin
        name: Name,
        /// The community
        #[arg(long, short, value_name = "SLUG")]
        community: CommunitySlug,
    },
}

/// How to enable a plugin.
#[derive(Debug, Args)]
pub(super) struct Enable {
    /// The plugin
    name: Name,
    /// The community
    #[arg(long, short, value_name = "SLUG")]
    community: CommunitySlug,
    /// Create the community first, where there is none
    #[arg(long)]
    create: bool,
    #[doc = "One member of the plugin's config; may be repeated"]
    #[arg(long, value_name = "KEY=VALUE", long_help = format!(
        "One member of the plugin's config; may be repeated. {}. Keep secrets out of it: other users of the machine can \
         read command lines. The file with the settings is named before the command here: `metagov --config FILE plugin \
         enable …`", parameters::HOW))]
    config: Vec<String>,
    /// A JSON file with the plugin's config, `-` for stdin; `--config` counts over it
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
}

impl Plugin {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        match self {
            Self::Enable(enable) => enable.run(out, config).await,
            Self::Disable { name, community, community_platform_id, patience } => {
                plugins::all()?.find(&name)?;
                let disable = Command::PluginDisable(name, PluginDisable { community, community_platform_id });
                let event = Ask::new(disable, None).wait(config, out, patience.timeout).await?;
                conclude(out, &event, pretty)
            }
            Self::Config { name, community } => {
                let registry = plugins::all()?;
                registry.find(&name)?;
                let store = connection::store(config).await?;
                existing(&store, &community).await?;
                let instances = store.instances_of(&community, &name).await?;
                if instances.is_empty() {
                    return Err(Stop::NotFound(format!("'{name}' is not enabled in '{community}'")).into());
                }
                for instance in &instances {
                    out.document(&registry.show(instance))?;
                }
                Ok(Exit::Success)
            }
        }
    }
}

impl Enable {
    async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let registry = plugins::all()?;
        let schema = &registry.find(&self.name)?.manifest().config;
        let members = parameters::assemble(Some(schema), self.config_file.as_deref(), &self.config)?;
        if self.create {
            let apply = CommunityApply { slug: self.community.clone(), readable_name: None, plugins: None };
            let applied =
                Ask::new(Command::CommunityApply(apply), None).wait(config, out, self.patience.timeout).await?;
            if problem_of(&applied).is_some() {
                return conclude(out, &applied, pretty);
            }
        }
        let enable = Command::PluginEnable(self.name, PluginEnable { community: self.community, config: members });
        let event = Ask::new(enable, None).wait(config, out, self.patience.timeout).await?;
        conclude(out, &event, pretty)
    }
}
