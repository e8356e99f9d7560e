//! A driver that does everything right: a durable queue for its events, confirms for its commands, and a new connection
//! whenever the old one is lost. It uses the AMQP client directly, as a stranger would, and keeps book of what it sent
//! and what came back. What a scenario wants to be said wrongly, it says just so ([`crate::command`]). Down:
//! [`crate::book`], and [`crate::checker`], which reads it.

use std::{
    iter,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    Channel, Confirmation, Connection, ConnectionProperties,
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

use crate::book::Book;
pub(crate) use crate::command::Command;

/// Commands that are unconfirmed at a time.
const WINDOW: usize = 256;
/// A connection that takes longer to be made is given up.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// After so long without an event it is looked whether any could come.
const SILENCE: Duration = Duration::from_secs(5);
/// A confirm that takes longer counts as lost; the command is sent again.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(20);

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
    /// Whether its queue is bound to the events.
    bound: Arc<AtomicBool>,
}

impl Driver {
    pub(crate) async fn connect(url: &str, prefix: &str) -> Self {
        let line = Line { url: url.to_owned(), prefix: prefix.to_owned(), bound: Arc::new(AtomicBool::new(true)) };
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
        commands.for_each(|command| book.note_sent(command));
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

    /// Sends a command so many times before the first is confirmed, as if as many drivers had had it at once. All of them
    /// are one try.
    ///
    /// # Panics
    /// Where the broker does not take them.
    pub(crate) async fn send_copies(&self, command: &Command, copies: usize) {
        self.note_sent(iter::once(command));
        let (_connection, channel) = self.line.channel().await.expect("the broker answers");
        let mut confirms = Vec::with_capacity(copies);
        for _ in 0..copies {
            confirms.push(self.line.publish(&channel, command).await.expect("the channel stands"));
        }
        for confirm in confirms {
            assert!(confirm.await.expect("the channel stands").is_ack(), "the broker refuses a copy");
        }
        if let Some(entry) = self.book().entries.get_mut(&command.id) {
            (entry.tries, entry.acknowledged) = (1, true);
        }
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

    /// Declares a queue for replies, where nobody listens; its name, which the broker makes up for an empty one.
    ///
    /// # Panics
    /// Where the broker does not answer.
    pub(crate) async fn declare_queue(&self, name: &str) -> String {
        let (_connection, channel) = self.line.channel().await.expect("the broker answers");
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(name.into(), options, FieldTable::default()).await;
        declared.expect("the queue can be declared").name().to_string()
    }

    /// How many messages wait at a queue; none where there is no such queue.
    ///
    /// # Panics
    /// Where the broker does not answer.
    pub(crate) async fn waiting(&self, queue: &str) -> usize {
        let (_connection, channel) = self.line.channel().await.expect("the broker answers");
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        declared.map_or(0, |queue| usize::try_from(queue.message_count()).unwrap_or(usize::MAX))
    }

    /// Binds the queue to the events, or takes it off, so that nobody is there to hear them.
    ///
    /// # Panics
    /// Where the broker does not answer.
    pub(crate) async fn listens(&self, listens: bool) {
        self.line.bound.store(listens, Ordering::SeqCst);
        // To connect is to bind.
        let (_connection, channel) = self.line.channel().await.expect("the broker answers");
        if !listens {
            let (queue, exchange) = (self.line.queue(), format!("{}.events", self.line.prefix));
            let unbound = channel.queue_unbind(queue.into(), exchange.into(), "#".into(), FieldTable::default());
            unbound.await.expect("the queue is there");
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
        if self.bound.load(Ordering::SeqCst) {
            channel
                .queue_bind(self.queue().into(), exchange.into(), "#".into(), options, FieldTable::default())
                .await?;
        }
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
        let properties = command.properties.written(&command.id);
        let (exchange, key) = (format!("{}.commands", self.prefix), command.key.as_str());
        channel
            .basic_publish(exchange.into(), key.into(), BasicPublishOptions::default(), &command.body, properties)
            .await
    }

    /// Whether the broker has a consumer for our events, and none that wait: not every end of one is told to whom it was.
    async fn is_listened_to(&self, channel: &Channel) -> bool {
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looked = channel.queue_declare(self.queue().into(), look, FieldTable::default());
        timeout(CONNECT_PATIENCE, looked)
            .await
            .is_ok_and(|looked| looked.is_ok_and(|queue| queue.consumer_count() > 0 && queue.message_count() == 0))
    }

    async fn listen(&self, book: &Mutex<Book>, news: &Notify) -> lapin::Result<()> {
        let begun = timeout(CONNECT_PATIENCE, async {
            let (connection, channel) = self.channel().await?;
            channel.basic_qos(1000, BasicQosOptions::default()).await?;
            let (queue, options) = (self.queue().into(), BasicConsumeOptions::default());
            let events = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((connection, channel, events))
        });
        // Whoever connects to a broker that is going down may wait for its answer for ever.
        let Ok(begun) = begun.await else { return Ok(()) };
        let (_connection, channel, mut events) = begun?;
        loop {
            let delivery = match timeout(SILENCE, events.next()).await {
                Ok(Some(delivery)) => delivery?,
                Err(_) if self.is_listened_to(&channel).await => continue,
                Err(_) => {
                    eprintln!("the driver's consumer was gone, and nobody had said so");
                    return Ok(());
                }
                Ok(None) => return Ok(()),
            };
            let event: Value = serde_json::from_slice(&delivery.data).expect("every message is an event");
            book.lock().expect("nobody panics while holding it").note(&event, &delivery.data);
            news.notify_waiters();
            // As above: what is not acknowledged comes again, on another connection.
            let Ok(written) = timeout(CONNECT_PATIENCE, delivery.ack(BasicAckOptions::default())).await else {
                return Ok(());
            };
            written?;
        }
    }
}
