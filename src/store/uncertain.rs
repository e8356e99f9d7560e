//! Uncertain runs: actions that may have happened, for an operator to look at and to decide on.
//!
//! The command's one final event is out by then, and no second one follows it: what is decided here is kept for people,
//! or becomes a command of its own. Each run is decided once. Up: [`super::commit`], which writes them, and
//! `metagov uncertain`, which reads and decides. Down: the tables `uncertain_runs`, `action_runs`, `steps`.

use metagov_sdk::contract::{CommunitySlug, MessageId, Name, Timestamp, event::derive_uuid};
use sea_orm::{
    ActiveModelTrait,
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    RunStatus, Store, StoreError, Unit, clock,
    communities::word,
    entity::{
        action_runs,
        uncertain_runs::{ActiveModel, Column, Entity, Model},
    },
    json, keys, steps,
    transaction::bounded,
};

/// What it takes to run an action again.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptCommand {
    /// What its driver recognises the outcome by.
    pub correlation_id: Option<String>,
    /// Its body.
    pub body: Value,
}

/// A run of which nobody knows how it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct UncertainRun {
    /// The run's id.
    pub id: Uuid,
    /// The community it ran for.
    pub community: CommunitySlug,
    /// The command's key.
    pub message_id: Option<MessageId>,
    /// The plugin.
    pub plugin: Name,
    /// The action.
    pub action: Name,
    /// How often it was tried.
    pub attempts: i64,
    /// What its driver recognises the outcome by.
    pub correlation_id: Option<String>,
    /// The body of the command; `None` where it ended before such bodies were kept.
    pub command: Option<Value>,
    /// When it ended so.
    pub at: Timestamp,
    /// What was decided, if anything.
    pub decision: Option<Decision>,
}

/// What an operator decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to do.
    pub verdict: RunVerdict,
    /// Who decided.
    pub by: String,
    /// Why, or what was seen on the platform.
    pub note: Option<String>,
    /// When, by the database's clock; not looked at in a new decision.
    pub at: Timestamp,
    /// Whether it was carried out; not looked at in a new decision.
    pub is_carried_out: bool,
}

/// What can be decided.
#[derive(Debug, Clone, PartialEq)]
pub enum RunVerdict {
    /// It happened, and answered this as far as the operator knows.
    Done(Option<Value>),
    /// It is run again, under [`UncertainRun::next_message_id`].
    RunAgain,
}

/// Which uncertain runs to list.
#[derive(Debug, Clone, Default)]
pub struct UncertainFilter {
    /// Only this community's.
    pub community: Option<CommunitySlug>,
    /// Only this plugin's.
    pub plugin: Option<Name>,
    /// Only those that ended at this time or later.
    pub since: Option<Timestamp>,
    /// Only those that come after this one in the list.
    pub after: Option<Uuid>,
    /// At most so many.
    pub limit: u64,
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq)]
pub enum Decided {
    /// It is kept.
    Kept,
    /// There was another before, which stands.
    Before(Decision),
    /// No such run has ended as uncertain; where the run is known, how it stands.
    NotUncertain(Option<String>),
}

impl UncertainRun {
    /// The key under which it is run again: always the same, so that asking twice runs it once.
    ///
    /// # Panics
    /// Never: a UUID is a message id.
    #[must_use]
    pub fn next_message_id(&self) -> MessageId {
        next_message_id(self.id)
    }

    fn from_row(row: Model) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            community: word("uncertain_runs.community", &row.community)?,
            message_id: row.message_id.as_deref().map(|id| word("uncertain_runs.message_id", id)).transpose()?,
            plugin: word("uncertain_runs.plugin", &row.plugin)?,
            action: word("uncertain_runs.action", &row.action)?,
            attempts: row.attempts,
            command: json::read_optional("uncertain_runs.command", row.command.as_deref())?,
            at: row.created_at,
            decision: decision(&row)?,
            correlation_id: row.correlation_id,
        })
    }
}

fn next_message_id(run: Uuid) -> MessageId {
    MessageId::new(&derive_uuid(&["run-again", &run.to_string()]).to_string()).expect("a UUID is a message id")
}

const DONE: &str = "done";
const RUN_AGAIN: &str = "run-again";

fn decision(row: &Model) -> Result<Option<Decision>, StoreError> {
    let Some(words) = row.decision.as_deref() else { return Ok(None) };
    let verdict = match words {
        DONE => RunVerdict::Done(json::read_optional("uncertain_runs.output", row.output.as_deref())?),
        RUN_AGAIN => RunVerdict::RunAgain,
        _ => return Err(corrupt("uncertain_runs.decision")),
    };
    Ok(Some(Decision {
        verdict,
        by: row.decided_by.clone().ok_or_else(|| corrupt("uncertain_runs.decided_by"))?,
        note: row.note.clone(),
        at: row.decided_at.ok_or_else(|| corrupt("uncertain_runs.decided_at"))?,
        is_carried_out: row.resolved_at.is_some(),
    }))
}

fn corrupt(what: &'static str) -> StoreError {
    StoreError::Corrupt { what, reason: "it is none of the values that it may have".into() }
}

impl Store {
    /// The uncertain runs that wait for a decision, the oldest first.
    ///
    /// # Errors
    /// Of the database.
    pub async fn uncertain_runs(&self, filter: UncertainFilter) -> Result<Vec<UncertainRun>, StoreError> {
        let mut select = Entity::find().filter(Column::ResolvedAt.is_null());
        if let Some(community) = &filter.community {
            select = select.filter(Column::Community.eq(community.as_str()));
        }
        if let Some(plugin) = &filter.plugin {
            select = select.filter(Column::Plugin.eq(plugin.as_str()));
        }
        if let Some(since) = filter.since {
            select = select.filter(Column::CreatedAt.gte(since));
        }
        let oldest = select.order_by_asc(Column::CreatedAt).order_by_asc(Column::Id).limit(filter.limit);
        let reader = self.connections.reader.clone();
        let rows = bounded(async move {
            let oldest = match filter.after {
                None => oldest,
                Some(id) => {
                    let Some(last) = Entity::find_by_id(id).one(&reader).await? else { return Ok(Vec::new()) };
                    let same = Condition::all().add(Column::CreatedAt.eq(last.created_at)).add(Column::Id.gt(id));
                    oldest.filter(Condition::any().add(Column::CreatedAt.gt(last.created_at)).add(same))
                }
            };
            Ok(oldest.all(&reader).await?)
        })
        .await?;
        rows.into_iter().map(UncertainRun::from_row).collect()
    }

    /// One uncertain run, decided or not.
    ///
    /// # Errors
    /// Of the database.
    pub async fn uncertain_run(&self, id: Uuid) -> Result<Option<UncertainRun>, StoreError> {
        let reader = self.connections.reader.clone();
        let row = bounded(async move { Ok(Entity::find_by_id(id).one(&reader).await?) }).await?;
        row.map(UncertainRun::from_row).transpose()
    }

    /// Keeps a decision, if there is none yet. That it happened is carried out by this: the run counts as completed.
    /// That it is to be run again is carried out by [`Store::note_run_again`], after its command was published; until
    /// then its finished steps wait under the new key, so that it goes on where it stopped.
    ///
    /// # Errors
    /// Of the database.
    pub async fn decide(&self, id: Uuid, decision: &Decision) -> Result<Decided, StoreError> {
        let new = decision.clone();
        self.transaction(move |transaction| Box::pin(async move { decide(transaction, id, new).await })).await
    }

    /// Notes that the command of a run that is run again was published.
    ///
    /// # Errors
    /// Of the database.
    pub async fn note_run_again(&self, id: Uuid) -> Result<(), StoreError> {
        let writer = self.connections.writer.clone();
        let waits = Column::Id.eq(id).and(Column::Decision.eq(RUN_AGAIN)).and(Column::ResolvedAt.is_null());
        let now = clock::now(writer.get_database_backend());
        let resolved = Entity::update_many().col_expr(Column::ResolvedAt, now).filter(waits);
        bounded(async move {
            resolved.exec(&writer).await?;
            Ok(())
        })
        .await
    }
}

async fn decide(transaction: &DatabaseTransaction, id: Uuid, new: Decision) -> Result<Decided, StoreError> {
    let Some(row) = Entity::find_by_id(id).lock_exclusive().one(transaction).await? else {
        let run = action_runs::Entity::find_by_id(id).one(transaction).await?;
        return Ok(Decided::NotUncertain(run.map(|run| run.status)));
    };
    if let Some(before) = decision(&row)? {
        return Ok(Decided::Before(before));
    }
    let now = clock::read(transaction).await?;
    let (words, output) = match &new.verdict {
        RunVerdict::Done(output) => (DONE, json::write_optional(output.as_ref())?),
        RunVerdict::RunAgain => (RUN_AGAIN, None),
    };
    let is_done = words == DONE;
    let (community, message_id) = (row.community.clone(), row.message_id.clone());
    let decided = ActiveModel {
        id: Set(id),
        decision: Set(Some(words.to_owned())),
        decided_by: Set(Some(new.by)),
        decided_at: Set(Some(now)),
        note: Set(new.note),
        output: Set(output),
        resolved_at: Set(is_done.then_some(now)),
        ..<ActiveModel as Default>::default()
    };
    decided.update(transaction).await?;
    if is_done {
        action_runs::Entity::update_many()
            .col_expr(action_runs::Column::Status, Expr::val(RunStatus::Completed.as_str()))
            .col_expr(action_runs::Column::UpdatedAt, clock::now(transaction.get_database_backend()))
            .filter(action_runs::Column::Id.eq(id))
            .exec(transaction)
            .await?;
    }
    if let Some(message_id) = &message_id {
        if is_done {
            steps::forget(transaction, &[(&community, message_id)]).await?;
        } else {
            steps::hand_on(transaction, &community, message_id, next_message_id(id).as_str()).await?;
        }
    }
    Ok(Decided::Kept)
}

/// Writes down the units whose run ended as uncertain.
pub(super) async fn insert(transaction: &DatabaseTransaction, units: &[&Unit]) -> Result<(), StoreError> {
    let stamp = clock::stamp(transaction.get_database_backend());
    let runs = units.iter().filter_map(|unit| unit.run.as_ref()).filter(|run| run.status == RunStatus::Uncertain);
    let mut rows = Vec::new();
    for run in runs {
        rows.push(ActiveModel {
            id: Set(run.id),
            community: Set(run.community.as_str().to_owned()),
            message_id: Set(run.message_id.as_ref().map(|id| id.as_str().to_owned())),
            plugin: Set(run.plugin.as_str().to_owned()),
            action: Set(run.action.as_str().to_owned()),
            attempts: Set(run.attempts.into()),
            correlation_id: Set(run.command.as_ref().and_then(|command| command.correlation_id.clone())),
            command: Set(json::write_optional(run.command.as_ref().map(|command| &command.body))?),
            created_at: stamp.clone(),
            ..<ActiveModel as Default>::default()
        });
    }
    for chunk in rows.chunks(keys::CHUNK) {
        let conflict = OnConflict::column(Column::Id).do_nothing().to_owned();
        Entity::insert_many(chunk.to_vec()).on_conflict(conflict).exec_without_returning(transaction).await?;
    }
    Ok(())
}

/// Takes away the uncertain runs of a community that goes.
pub(super) async fn delete_of(transaction: &DatabaseTransaction, community: &str) -> Result<(), StoreError> {
    Entity::delete_many().filter(Column::Community.eq(community)).exec(transaction).await?;
    Ok(())
}
