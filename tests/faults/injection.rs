//! Answers that are wanted where they must not go, and routing keys that mean more than they say: the service publishes
//! nowhere but to its events, and to queues of the driver's own.
//!
//! The broker itself tells where anybody published to ([`Wiretap`]). What its permissions forbid is the affair of
//! `tests/tenancy`.

use serde_json::json;
use uuid::Uuid;

use crate::{
    command::{Command, Strange},
    plugins::ended_in,
    rig::{COMMUNITY, Rig, Service, Setup, Size, command},
    strangers::strange,
    table::Row,
    wiretap::{Heard, Wiretap},
};

/// Whom the worker connects as, so that the user of the driver is a driver's.
const SERVICE: &str = "injection-worker";
/// Whom the driver connects as; bound to its community.
const DRIVER: &str = "guest";

/// Queues of others, and the driver's own.
struct Queues {
    /// The broker made up its name: `amq.gen-…`.
    nameless: String,
    /// Another user's, by its name.
    others: String,
    /// This user's, by its name.
    own: String,
    /// Nobody's, by its name.
    free: String,
}

impl Queues {
    async fn declare(service: &Service) -> Self {
        let declare = |name: String| async move { service.driver.declare_queue(&name).await };
        Self {
            nameless: declare(String::new()).await,
            others: declare(format!("other.{}", service.prefix)).await,
            own: declare(format!("{DRIVER}.{}", service.prefix)).await,
            free: declare(format!("replies-{}", service.prefix)).await,
        }
    }
}

/// A command that wants its answer there, with or without a word about who sent it.
fn answered_at(queue: &str, user: Option<&str>) -> Command {
    let parameters = json!({ "deeds": ["succeed"], "calls": false });
    let act = command("action.puppet.pure", &json!({ "community": COMMUNITY, "parameters": parameters }));
    let (reply_to, user_id) = (Some(queue.to_owned()), user.map(str::to_owned));
    strange(act, Strange { message_id: Some(Uuid::new_v4().to_string()), reply_to, user_id })
}

/// What the service's own exchanges and queues are called, and one that it has not.
fn ours(prefix: &str) -> Vec<String> {
    let names =
        ["commands", "events", "unrouted", "dead", "core", "delay.1s", "plugin.puppet", "poll.puppet", "driver"];
    names.iter().chain(&["none"]).map(|name| format!("{prefix}.{name}")).collect()
}

/// Where no answer may go.
fn forbidden(prefix: &str, queues: &Queues) -> Vec<Command> {
    let ours =
        ["commands", "events", "unrouted", "dead", "core", "delay.1s", "plugin.puppet", "poll.puppet", "driver", ""];
    let mut anybody: Vec<_> = ours.iter().map(|name| format!("{prefix}.{name}")).collect();
    anybody.extend(["amq.topic", "amq.direct", "amq.", "amq.rabbitmq.trace"].map(str::to_owned));
    let mut bound = anybody.clone();
    bound.extend([&queues.others, &queues.free, &queues.nameless].map(Clone::clone));
    bound.push("amq.gen-x".to_owned());
    bound.extend(["guest", "guest-2.x", ".guest", "#", " guest.x"].map(str::to_owned));
    let anybody = anybody.iter().map(|queue| answered_at(queue, None));
    anybody.chain(bound.iter().map(|queue| answered_at(queue, Some(DRIVER)))).collect()
}

/// Words that mean something in a binding, and nothing as the name of a queue: nobody has such a queue.
fn nobodys() -> Vec<String> {
    let longest = "q".repeat(255);
    ["#", "*", "acme.#", "*.*.*", " ", "Grüße", "../../x", longest.as_str()].map(str::to_owned).to_vec()
}

/// Routing keys that are not what they look like.
fn keys() -> Vec<String> {
    let longest = format!("action.{}", "p".repeat(248));
    let keys = [
        "action.puppet.#",
        "action.#.*",
        "action..",
        "action.puppet.pure.#",
        "action.puppet.*",
        "webhook.*",
        "tick.#",
        "poll.puppet.ballot.#",
        "community.#",
        "plugin.*.enable.#",
        "process.puppet.#.start",
        "#",
        "*",
        "",
        ".",
        "action.puppet.püre",
        "Action.puppet.pure",
        "action.puppet.pure\0",
        " action.puppet.pure",
        &longest,
    ];
    keys.map(str::to_owned).to_vec()
}

/// What was published to the default exchange, under a name that is not allowed; and to exchanges that are not for it.
fn outside(heard: &Heard, prefix: &str, allowed: &[String]) -> Vec<String> {
    let is_fine = |exchange: &str, key: &String| match exchange.strip_prefix(prefix) {
        Some(".events" | ".commands") => true,
        _ => exchange.is_empty() && allowed.contains(key),
    };
    heard
        .keys()
        .filter(|(exchange, key)| !is_fine(exchange, key))
        .map(|(exchange, key)| format!("{exchange}/{key}"))
        .collect()
}

/// Every one of them, many times; then it is counted who published where.
pub(crate) async fn t49(rig: &mut Rig, size: Size) -> Row {
    let times = size.of(200, 5);
    rig.broker.ctl(&["add_user", SERVICE, SERVICE]).await;
    rig.broker.ctl(&["set_permissions", SERVICE, ".*", ".*", ".*"]).await;
    let broker_url = Some(format!("amqp://{SERVICE}:{SERVICE}@{}/%2f", rig.broker.address()));
    let settings =
        vec![("tenancy.users", format!("{DRIVER}={COMMUNITY}")), ("tenancy.service_users", SERVICE.to_owned())];
    let mut service = rig.service(Setup { settings, broker_url, ..Setup::default() }).await;
    let queues = Queues::declare(&service).await;
    let tap = Wiretap::start(&rig.broker).await;

    let (mut refused, mut unknown, mut well) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        refused.extend(forbidden(&service.prefix, &queues));
        unknown.extend(keys().iter().map(|key| command(key, &json!({ "community": COMMUNITY, "parameters": {} }))));
        well.extend(nobodys().iter().map(|queue| answered_at(queue, None)));
        well.extend([answered_at(&queues.free, None), answered_at(&queues.own, Some(DRIVER))]);
    }
    let commands = [refused.clone(), unknown.clone(), well.clone()].concat();
    service.driver.send(&commands).await;
    let tally = service.settle(&commands, &["action.completed", "command.rejected"]).await;

    let mut allowed = nobodys();
    allowed.extend([queues.own.clone(), queues.free.clone()]);
    // Replies go out before events: whatever was published has been heard once the answers have come.
    let heard = tap.end().await;
    let replies: usize = heard.iter().filter(|((exchange, _), _)| exchange.is_empty()).map(|(_, count)| count).sum();
    let outside = outside(&heard, &service.prefix, &allowed);
    if !outside.is_empty() {
        eprintln!("published outside: {outside:?}");
    }
    let mut elsewhere = 0;
    for queue in ours(&service.prefix).iter().chain([&queues.nameless, &queues.others]) {
        elsewhere += service.driver.waiting(queue).await;
    }
    let arrived = service.driver.waiting(&queues.own).await + service.driver.waiting(&queues.free).await;
    let completed = tally.kinds.get("action.completed").copied().unwrap_or(0);
    Row::new("T49", format!("{times} × {} answers and routing keys that point elsewhere", commands.len() / times))
        .counts(tally)
        .exactly("refused with `invalid-reply-to`", ended_in(&service, &refused, "/invalid-reply-to"), refused.len())
        .exactly("refused with `unknown-command`", ended_in(&service, &unknown, "/unknown-command"), unknown.len())
        .exactly("completed", completed, well.len())
        .exactly("publications that were heard as replies", replies, well.len())
        .exactly("places published to outside", outside.len(), 0)
        .exactly("replies at queues of the driver's own", arrived, 2 * times)
        .exactly("messages at queues of others", elsewhere, 0)
}
