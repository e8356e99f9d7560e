//! `metagov community …`: communities and the set of their plugins.
//!
//! Up: operators. Down: `community.apply` and `community.delete` on the bus; the database for reads.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use metagov_sdk::contract::{self, Command, CommunityApply, CommunityDelete, CommunitySlug, PluginConfig};
use serde::Serialize;

use super::{
    arguments::{Page, Patience},
    asking::{Ask, conclude},
    confirm::Confirmation,
    connection,
    exit::{Exit, Stop},
    output::Output,
    parameters,
};
use crate::{
    config::Config,
    plugins,
    store::{Store, StoredCommunity},
};

/// What to do with communities.
#[derive(Debug, Subcommand)]
pub(super) enum Community {
    /// Create a community, or change it
    Apply {
        /// Its address: a-z, 0-9 and -
        slug: CommunitySlug,
        /// Its name for people
        #[arg(long)]
        name: Option<String>,
        /// A JSON file with a list of {"name", "config"}, `-` for stdin; makes the set of plugins exactly so
        #[arg(long, value_name = "FILE")]
        plugins: Option<PathBuf>,
        #[command(flatten)]
        patience: Patience,
    },
    /// One community with its plugins, secrets masked
    Get {
        /// Its address
        slug: CommunitySlug,
    },
    /// Every community, by slug
    List {
        #[command(flatten)]
        page: Page,
        /// Only those after this one
        #[arg(long, value_name = "SLUG")]
        after: Option<CommunitySlug>,
    },
    /// Delete a community with its plugins and processes; on a terminal it asks first
    Delete {
        /// Its address
        slug: CommunitySlug,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        patience: Patience,
    },
}

/// A line of `community list`.
#[derive(Serialize)]
struct Row {
    slug: CommunitySlug,
    readable_name: Option<String>,
    created_at: contract::Timestamp,
    updated_at: contract::Timestamp,
}

impl Community {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        match self {
            Self::Apply { slug, name, plugins, patience } => {
                let plugins = plugins.map(|path| read_plugins(&path)).transpose()?;
                let apply = CommunityApply { slug, readable_name: name, plugins };
                finish(out, config, patience, Command::CommunityApply(apply)).await
            }
            Self::Delete { slug, confirmation, patience } => {
                if !confirmation.given(&format!("Delete the community '{slug}' with all its plugins and processes?"))? {
                    out.done(&serde_json::json!({ "deleted": [] }), "nothing was deleted")?;
                    return Ok(Exit::Success);
                }
                finish(out, config, patience, Command::CommunityDelete(CommunityDelete { slug })).await
            }
            Self::Get { slug } => {
                let store = connection::store(config).await?;
                let stored = existing(&store, &slug).await?;
                let registry = plugins::all()?;
                let instances = store.instances(&slug).await?;
                out.document(&contract::Community {
                    slug,
                    readable_name: stored.readable_name,
                    plugins: instances.iter().map(|instance| registry.show(instance)).collect(),
                })?;
                Ok(Exit::Success)
            }
            Self::List { page, after } => {
                let store = connection::store(config).await?;
                let communities = store.communities(after.as_ref(), page.to_read()).await?;
                let rows: Vec<Row> = communities.into_iter().map(row).collect();
                let columns = &["SLUG", "NAME", "UPDATED"];
                out.page(
                    rows,
                    page,
                    |row| row.slug.to_string(),
                    "there are no communities",
                    columns,
                    |row| {
                        vec![row.slug.to_string(), row.readable_name.clone().unwrap_or_default(), time(row.updated_at)]
                    },
                )?;
                Ok(Exit::Success)
            }
        }
    }
}

async fn finish(out: Output, config: &Config, patience: Patience, command: Command) -> anyhow::Result<Exit> {
    let event = Ask::new(command, None).wait(config, out, patience.timeout).await?;
    conclude(out, &event, super::asking::pretty)
}

fn row(stored: StoredCommunity) -> Row {
    let StoredCommunity { slug, readable_name, created_at, updated_at, version: _ } = stored;
    Row { slug, readable_name, created_at, updated_at }
}

fn read_plugins(path: &std::path::Path) -> anyhow::Result<Vec<PluginConfig>> {
    serde_json::from_value(parameters::document(path)?)
        .map_err(|error| Stop::Usage(format!("must hold a list of {{\"name\", \"config\"}}: {error}")))
        .with_context(|| path.display().to_string())
}

/// The community, or the words that there is none.
pub(super) async fn existing(store: &Store, slug: &CommunitySlug) -> anyhow::Result<StoredCommunity> {
    let found = store.community(slug).await?;
    let create = || format!("there is no community '{slug}'; `metagov community apply {slug}` creates it");
    Ok(found.ok_or_else(|| Stop::NotFound(create()))?)
}

/// A time for a table.
pub(super) fn time(at: contract::Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}
