//! A driver that does everything right: a durable queue for its events, confirms for its commands, and a new connection
//! whenever the old one is lost. It uses the AMQP client directly, as a stranger would, and keeps book of what it sent
//! and what came back. Down: [`crate::checker`], which reads the book.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Commands that are unconfirmed at a time.
const WINDOW: usize = 256;
/// A confirm that takes longer counts as lost; the command is sent again.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(20);

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// Its `message_id`.
    pub(crate) id: String,
    /// Its routing key.
    pub(crate) key: String,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

/// What a driver knows of one command.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// When it was first sent.
    pub(crate) sent: Instant,
    /// How often it was sent.
    pub(crate) tries: u32,
    /// Whether the broker confirmed one of them.
    pub(crate) acknowledged: bool,
    /// When its first final event arrived.
    pub(crate) answered: Option<Instant>,
    /// Its final events, each once for each id and body.
    pub(crate) finals: Vec<Final>,
}

/// A final event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Final {
    /// The event's id.
    pub(crate) id: String,
    /// `action.completed`, `command.rejected`, …
    pub(crate) kind: String,
    /// Tells bodies apart.
    pub(crate) body: u64,
    /// What went wrong, where something did.
    pub(crate) problem: Value,
    /// How often it arrived.
    pub(crate) copies: u32,
}

/// Everything that was sent, and everything that arrived.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By `message_id`.
    pub(crate) entries: HashMap<String, Entry>,
    /// Causes of final events that nobody sent.
    pub(crate) strangers: Vec<String>,
    /// All events that are no final event of an action, as they arrived.
    pub(crate) others: Vec<Value>,
}

/// A handle; the driver ends with the last of them.
#[derive(Clone)]
pub(crate) struct Driver {
    line: Line,
    book: Arc<Mutex<Book>>,
    news: Arc<Notify>,
    _listener: Arc<AbortOnDropHandle<()>>,
}

/// What is being sent.
pub(crate) struct Sending(AbortOnDropHandle<()>);

impl Sending {
    /// Waits until every command is confirmed.
    pub(crate) async fn done(self) {
        self.0.await.expect("the driver does not panic");
    }
}

/// How a driver reaches the broker.
#[derive(Clone)]
struct Line {
    url: String,
    prefix: String,
}

impl Driver {
    pub(crate) async fn connect(url: &str, prefix: &str) -> Self {
        let line = Line { url: url.to_owned(), prefix: prefix.to_owned() };
        let (book, news) = (Arc::<Mutex<Book>>::default(), Arc::<Notify>::default());
        // The queue stands before the first command, so that no event can be missed.
        line.channel().await.expect("the broker answers");
        let (listening, kept, told) = (line.clone(), Arc::clone(&book), Arc::clone(&news));
        let listener = tokio::spawn(async move {
            loop {
                let _ = listening.listen(&kept, &told).await;
                pause().await;
            }
        });
        Self { line, book, news, _listener: Arc::new(AbortOnDropHandle::new(listener)) }
    }

    /// The book, for reading.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics while holding it")
    }

    /// Sends each command until it is confirmed.
    pub(crate) async fn send(&self, commands: &[Command]) {
        let mut channel = None;
        for part in commands.chunks(WINDOW) {
            let mut open = part.to_vec();
            while !open.is_empty() {
                self.send_over(&mut channel, &mut open).await;
            }
        }
    }

    /// The same, while the scenario goes on.
    pub(crate) fn send_in_background(&self, commands: &[Command]) -> Sending {
        let (driver, commands) = (self.clone(), commands.to_vec());
        Sending(AbortOnDropHandle::new(tokio::spawn(async move { driver.send(&commands).await })))
    }

    /// The same, so many in a second: what the broker makes wait counts as sent when its turn came, and does not slow the
    /// rhythm down.
    pub(crate) async fn send_at(&self, per_second: u32, commands: &[Command]) {
        let in_second = (1..=per_second.min(50)).rev().find(|ticks| per_second.is_multiple_of(*ticks)).unwrap_or(1);
        let mut ticks = interval(Duration::from_secs(1) / in_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let share = usize::try_from((per_second / in_second).max(1)).expect("it is small");
        let (due, mut waiting) = mpsc::unbounded_channel::<Command>();
        let driver = self.clone();
        let sending = AbortOnDropHandle::new(tokio::spawn(async move {
            let (mut channel, mut open) = (None, Vec::new());
            while !open.is_empty() || waiting.recv_many(&mut open, WINDOW).await > 0 {
                driver.send_over(&mut channel, &mut open).await;
            }
        }));
        for part in commands.chunks(share) {
            ticks.tick().await;
            self.note_sent(part.iter());
            for command in part {
                due.send(command.clone()).expect("the sender lives");
            }
        }
        drop(due);
        sending.await.expect("the sender does not panic");
    }

    /// The same, while the scenario goes on.
    pub(crate) fn send_at_in_background(&self, per_second: u32, commands: &[Command]) -> Sending {
        let (driver, commands) = (self.clone(), commands.to_vec());
        Sending(AbortOnDropHandle::new(tokio::spawn(async move { driver.send_at(per_second, &commands).await })))
    }

    fn note_sent<'a>(&self, commands: impl Iterator<Item = &'a Command>) {
        let mut book = self.book();
        for command in commands {
            let fresh =
                Entry { sent: Instant::now(), tries: 0, acknowledged: false, answered: None, finals: Vec::new() };
            book.entries.entry(command.id.clone()).or_insert(fresh);
        }
    }

    /// Sends what is open and keeps what was not confirmed.
    async fn send_over(&self, channel: &mut Option<(Connection, Channel)>, open: &mut Vec<Command>) {
        let window = open.len().min(WINDOW);
        let confirmed = self.send_window(channel, &open[..window]).await;
        let (mut fates, all) = (confirmed.into_iter(), open.len());
        open.retain(|_| !fates.next().unwrap_or(false));
        if open.len() == all {
            *channel = None;
            pause().await;
        }
    }

    /// Sends these and says which were confirmed.
    async fn send_window(&self, channel: &mut Option<(Connection, Channel)>, commands: &[Command]) -> Vec<bool> {
        self.note_sent(commands.iter());
        for command in commands {
            if let Some(entry) = self.book().entries.get_mut(&command.id) {
                entry.tries += 1;
            }
        }
        let sending = async {
            if channel.is_none() {
                *channel = Some(self.line.channel().await?);
            }
            let Some((_, open)) = channel else { return Ok(Vec::new()) };
            let mut confirms = Vec::with_capacity(commands.len());
            for command in commands {
                confirms.push(self.line.publish(open, command).await?);
            }
            let mut fates = Vec::with_capacity(commands.len());
            for confirm in confirms {
                fates.push(confirm.await.is_ok_and(|confirmation| confirmation.is_ack()));
            }
            Ok::<_, lapin::Error>(fates)
        };
        let Ok(Ok(fates)) = timeout(CONFIRM_PATIENCE, sending).await else {
            *channel = None;
            return Vec::new();
        };
        let mut book = self.book();
        for (command, _) in commands.iter().zip(&fates).filter(|(_, confirmed)| **confirmed) {
            if let Some(entry) = book.entries.get_mut(&command.id) {
                entry.acknowledged = true;
            }
        }
        fates
    }

    /// How many of these commands have a final event.
    pub(crate) fn answered(&self, commands: &[Command]) -> usize {
        let book = self.book();
        let is_answered = |id: &String| book.entries.get(id).is_some_and(|entry| entry.answered.is_some());
        commands.iter().filter(|command| is_answered(&command.id)).count()
    }

    /// Waits until this many of the commands have a final event. `false` once nothing new came for so long.
    pub(crate) async fn wait_for(&self, commands: &[Command], count: usize, quiet: Duration) -> bool {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let news = self.news.notified();
            let answered = self.answered(commands);
            if answered >= count {
                return true;
            }
            if answered > last {
                (last, since) = (answered, Instant::now());
            }
            if since.elapsed() > quiet {
                return false;
            }
            // Counting costs more than one event brings: a look every now and then is enough.
            let _ = timeout(Duration::from_millis(500), news).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deletes a queue, which is not this driver's to delete.
    ///
    /// # Panics
    /// Where the broker does not answer.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        let (_connection, channel) = self.line.channel().await.expect("the broker answers");
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("the queue can be deleted");
    }

    /// Takes every message of a queue and gives it back, until none comes any more. How many were given back.
    ///
    /// # Panics
    /// Where the broker does not answer.
    pub(crate) async fn give_back_all(&self, queue: &str) -> usize {
        let (_connection, channel) = self.line.channel().await.expect("the broker answers");
        channel.basic_qos(100, BasicQosOptions::default()).await.expect("it is a number");
        let options = BasicConsumeOptions::default();
        let mut deliveries = channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await
            .expect("the queue is there");
        let mut returns = 0;
        while let Ok(Some(delivery)) = timeout(Duration::from_secs(5), deliveries.next()).await {
            let give_back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            delivery.expect("the channel stands").nack(give_back).await.expect("the channel stands");
            returns += 1;
        }
        returns
    }

    /// The problems that these commands were answered with.
    pub(crate) fn problems(&self, commands: &[Command]) -> Vec<Value> {
        let book = self.book();
        let finals =
            commands.iter().filter_map(|command| book.entries.get(&command.id)).flat_map(|entry| &entry.finals);
        finals.map(|last| last.problem.clone()).filter(|problem| !problem.is_null()).collect()
    }

    /// How long each answered command waited for its first final event, in order of length.
    pub(crate) fn latencies(&self, commands: &[Command]) -> Vec<Duration> {
        let book = self.book();
        let entries = commands.iter().filter_map(|command| book.entries.get(&command.id));
        let mut all: Vec<_> = entries.filter_map(|entry| Some(entry.answered?.duration_since(entry.sent))).collect();
        all.sort_unstable();
        all
    }
}

/// The value below which `per_mille` of a sorted list lie.
pub(crate) fn quantile(sorted: &[Duration], per_mille: usize) -> Duration {
    let place = (sorted.len() * per_mille).div_ceil(1000).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

/// Until the broker may be back; not for a state of the service.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

impl Line {
    async fn channel(&self) -> lapin::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.queue().into(), durable, arguments).await?;
        let (exchange, options) = (format!("{}.events", self.prefix), QueueBindOptions::default());
        channel.queue_bind(self.queue().into(), exchange.into(), "#".into(), options, FieldTable::default()).await?;
        Ok((connection, channel))
    }

    fn queue(&self) -> String {
        format!("{}.driver", self.prefix)
    }

    /// Writes it out; the second wait is for the confirm.
    async fn publish(
        &self,
        channel: &Channel,
        command: &Command,
    ) -> lapin::Result<impl Future<Output = lapin::Result<Confirmation>> + use<>> {
        let properties = BasicProperties::default()
            .with_message_id(command.id.as_str().into())
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        let (exchange, key) = (format!("{}.commands", self.prefix), command.key.as_str());
        channel
            .basic_publish(exchange.into(), key.into(), BasicPublishOptions::default(), &command.body, properties)
            .await
    }

    async fn listen(&self, book: &Mutex<Book>, news: &Notify) -> lapin::Result<()> {
        let (_connection, channel) = self.channel().await?;
        channel.basic_qos(1000, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut events = channel.basic_consume(self.queue().into(), "".into(), options, FieldTable::default()).await?;
        while let Some(delivery) = events.next().await {
            let delivery = delivery?;
            let event: Value = serde_json::from_slice(&delivery.data).expect("every message is an event");
            book.lock().expect("nobody panics while holding it").note(event, &delivery.data);
            news.notify_waiters();
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }
}

impl Book {
    fn note(&mut self, event: Value, data: &[u8]) {
        let kind = event["type"].as_str().expect("an event has a type").trim_start_matches("org.metagov.").to_owned();
        let cause = event["causationid"].as_str().unwrap_or_default();
        let last = ["action.", "command.rejected", "community.", "process.started"];
        if !last.iter().any(|start| kind.starts_with(start)) {
            self.others.push(event);
            return;
        }
        let Some(entry) = self.entries.get_mut(cause) else {
            self.strangers.push(cause.to_owned());
            return;
        };
        entry.answered.get_or_insert_with(Instant::now);
        let id = event["id"].as_str().expect("an event has an id").to_owned();
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        let (body, problem) = (hasher.finish(), event["data"]["problem"].clone());
        match entry.finals.iter_mut().find(|known| known.id == id && known.body == body) {
            Some(known) => known.copies += 1,
            None => entry.finals.push(Final { id, kind, body, problem, copies: 1 }),
        }
    }
}
