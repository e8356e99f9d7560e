//! `metagov events replay`: what a driver lost is published again, byte for byte, in its order and under the same ids.
//!
//! It reads the stored events page by page and goes on when the broker has confirmed a page, so that it can be interrupted
//! and begun again at any time, and its memory does not grow. Events to come are not its affair: it ends with what was
//! stored when it began. Up: operators. Down: the outbox; then the events exchange, or one queue.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use clap::Args;
use metagov_sdk::contract::{CommunitySlug, Name, Problem, ProblemKind, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    arguments::duration,
    community::time,
    connection,
    exit::{Exit, Stop},
    output::{Output, complain, printable, short},
};
use crate::{
    bus::{Bus, Destination, Outgoing, Published, REPLAYED_HEADER, is_reply_queue},
    config::Config,
    store::{PastEvent, Place, Selection, Store},
    worker::message_of_stored,
};

/// Events that are read, published and confirmed at a time.
const PAGE: u64 = 500;

/// How often the step is told, in pages.
const TELL_EVERY: u64 = 20;

/// So many events are named that no queue is bound for; the count says how many more there are.
const MOST_NAMED: u64 = 5;

/// What every CloudEvents type begins with.
const TYPES: &str = "org.metagov.";

/// Which events, and where to.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The community whose events they are
    #[arg(long, short, value_name = "SLUG")]
    community: CommunitySlug,
    /// Those stored from then on: RFC 3339, or so long ago, such as 2h or 3d
    #[arg(long, value_name = "TIME", value_parser = moment, required_unless_present_any = ["ids", "unrouted"])]
    since: Option<Timestamp>,
    /// Those stored before then [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Those of this plugin, or of `core`
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<Name>,
    /// Those of this type, such as action.completed; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// The one with this id; may be repeated
    #[arg(long = "id", value_name = "EVENT_ID")]
    ids: Vec<Uuid>,
    /// Those that no queue was bound for
    #[arg(long)]
    unrouted: bool,
    /// Only into this queue, so that nobody else sees them again [default: to whoever is bound]
    #[arg(long, value_name = "QUEUE")]
    to_queue: Option<String>,
    /// Only say which they are
    #[arg(long)]
    dry_run: bool,
}

/// What has become of the events so far.
#[derive(Debug, Default)]
struct Tally {
    replayed: u64,
    unrouted: u64,
    refused: u64,
    /// Those that were asked for by id and have been seen.
    seen: BTreeSet<Uuid>,
}

impl Replay {
    pub(super) async fn run(self, out: Output, config: &Config) -> anyhow::Result<Exit> {
        let to = self.destination(&config.broker.prefix)?;
        let store = connection::store(config).await?;
        let selection = self.selection(&store).await?;
        let bus = if self.dry_run { None } else { Some(connection::bus(config).await?) };
        let mut tally = Tally::default();
        let mut place: Option<Place> = None;
        for page in 1_u64.. {
            let events = store.events(&self.community, &selection, place, PAGE).await?;
            let Some(last) = events.last() else { break };
            place = Some(last.place);
            tally.seen.extend(events.iter().map(|past| past.event.id).filter(|id| self.ids.contains(id)));
            match &bus {
                None => list(out, &events)?,
                Some(bus) => publish(bus, &store, &self.community, &to, &events, &mut tally).await?,
            }
            if bus.is_some() && page.is_multiple_of(TELL_EVERY) {
                out.step(&format!("{} so far", tally.replayed));
            }
        }
        if let Some(bus) = bus {
            bus.close().await;
            if tally.unrouted > 0 {
                let words = format!(
                    "{} found no queue; bind one to {}.events with the routing key {}.#, or name one with --to-queue, \
                     then: metagov events replay --community {} --unrouted",
                    tally.unrouted, config.broker.prefix, self.community, self.community
                );
                complain(&words);
            }
            let summary = json!({ "replayed": tally.replayed, "unrouted": tally.unrouted, "refused": tally.refused });
            out.data(&summary, || {
                let Tally { replayed, unrouted, refused, .. } = &tally;
                format!("replayed: {replayed}, without a queue: {unrouted}, refused: {refused}")
            })?;
        }
        self.conclude(&store, &tally, place.is_some()).await
    }

    /// What could not be done decides the exit code.
    async fn conclude(&self, store: &Store, tally: &Tally, any: bool) -> anyhow::Result<Exit> {
        let missing: Vec<&Uuid> = self.ids.iter().filter(|id| !tally.seen.contains(id)).collect();
        for id in &missing {
            complain(&format!("there is no such event {id} in '{}'", self.community));
        }
        if !any && store.community(&self.community).await?.is_none() {
            let detail = format!("there is no community '{}', and no event of one", self.community);
            return Err(Problem::new(ProblemKind::UnknownCommunity, detail).into());
        }
        Ok(match (missing.is_empty(), tally.unrouted + tally.refused) {
            (false, _) => Exit::NotFound,
            (true, 0) => Exit::Success,
            (true, _) => Exit::Failure,
        })
    }

    fn destination(&self, prefix: &str) -> Result<Destination, Stop> {
        let Some(queue) = &self.to_queue else { return Ok(Destination::Events) };
        let ours = queue.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        if !is_reply_queue(queue) || queue.starts_with("amq.") || ours || queue.len() > 255 {
            let words =
                "--to-queue must be a driver's own queue, of at most 255 bytes: not the service's, nor the broker's";
            return Err(Stop::Usage(words.to_owned()));
        }
        Ok(Destination::Reply { queue: queue.clone() })
    }

    async fn selection(&self, store: &Store) -> anyhow::Result<Selection> {
        Ok(Selection {
            since: self.since,
            until: Some(match self.until {
                Some(until) => until,
                // Its own end: events that come meanwhile would keep it running for ever.
                None => store.now().await?,
            }),
            plugin: self.plugin.as_ref().map(Name::to_string),
            types: self.types.iter().map(full_type).collect(),
            ids: self.ids.clone(),
            unrouted: self.unrouted,
            caused_by: None,
        })
    }
}

/// A type as people write it, with what all types begin with.
pub(super) fn full_type(name: &String) -> String {
    if name.starts_with(TYPES) { name.clone() } else { format!("{TYPES}{name}") }
}

/// Publishes a page, waits for its confirms, and takes the mark off those that have found a queue by now.
async fn publish(
    bus: &Bus,
    store: &Store,
    community: &CommunitySlug,
    to: &Destination,
    events: &[PastEvent],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let outgoing = events.iter().map(|past| {
        let mut message = message_of_stored(&past.event);
        message.properties.headers.insert(REPLAYED_HEADER.to_owned(), "true".to_owned());
        Outgoing { to: to.clone(), message }
    });
    let published = connection::publish(bus, outgoing.collect()).await?;
    let mut delivered = Vec::new();
    for (past, published) in events.iter().zip(published) {
        match published {
            Published::Unrouted => {
                if tally.unrouted < MOST_NAMED {
                    complain(&format!(
                        "no queue is bound for {} {}",
                        past.event.id,
                        printable(&past.event.routing_key)
                    ));
                }
                tally.unrouted += 1;
            }
            Published::Refused(refusal) => {
                tally.refused += 1;
                let (id, why) = (past.event.id, refusal.as_str());
                complain(&format!("the broker refuses {id} {} as {why}", printable(&past.event.routing_key)));
            }
            Published::Routed => {
                tally.replayed += 1;
                delivered.extend(past.unrouted.then_some(past.event.id));
            }
        }
    }
    store.mark_routed(community, &delivered).await?;
    Ok(())
}

fn list(out: Output, events: &[PastEvent]) -> anyhow::Result<()> {
    for past in events {
        let PastEvent { event, stored_at, unrouted, .. } = past;
        let data = json!({
            "id": event.id,
            "type": event.event_type,
            "routing_key": event.routing_key,
            "stored_at": stored_at,
            "unrouted": unrouted,
            "event": serde_json::from_str::<Value>(&event.body).unwrap_or_default(),
        });
        let mark = if *unrouted { "  (no queue)" } else { "" };
        let words = || {
            let said = short(&data["event"]["data"], 100);
            let (at, key) = (time(*stored_at), printable(&event.routing_key));
            format!("{at}  {}  {key}{mark}  {}", event.id, printable(&said))
        };
        out.data(&data, words)?;
    }
    Ok(())
}

/// Reads `2026-11-23T21:00:00Z`, or `30m`, `2h`, `3d` for so long ago.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let wrong = || "must be a time in RFC 3339, or how long ago: 30m, 2h or 3d".to_owned();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    let ago = match text.strip_suffix('d') {
        Some(days) if days.bytes().all(|b| b.is_ascii_digit()) => {
            let days: u64 = days.parse().map_err(|_| wrong())?;
            Duration::from_secs(days.checked_mul(86_400).ok_or_else(wrong)?)
        }
        _ => duration(text).map_err(|_| wrong())?,
    };
    chrono::TimeDelta::from_std(ago).ok().and_then(|ago| Utc::now().checked_sub_signed(ago)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(moment("2026-11-23T21:00:00+01:00").expect("a time").to_rfc3339(), "2026-11-23T20:00:00+00:00");
        for (text, hours) in [("2h", 2), ("3d", 72)] {
            let then = moment(text).expect("so long ago");
            assert_eq!((Utc::now() - then).num_hours(), hours, "{text}");
        }
        for bad in ["", "d", "yesterday", "-1d", "2026-11-23", "99999999999999999999d", "18446744073709551615h"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>()) {
            let _ = moment(&text);
        }
    }
}
