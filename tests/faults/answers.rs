//! The first final answer of a command is the answer, whichever answer of the database or of the broker is lost.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::{
    command::{Properties, Strange},
    driver::Command,
    lossy::{Acknowledgements, Commits},
    rig::{COMMUNITY, QUIET, Rig, Service, Setup, Size, command},
    table::Row,
};

/// A command without a `message_id`; its answers are known by its `correlation_id`.
fn anonymous(key: &str, body: &Value) -> Command {
    Command { properties: Properties::Strange(Strange::default()), ..command(key, body) }
}

/// Starts without a key, while answers to COMMIT are lost: a start that finds its own process is not refused.
pub(crate) async fn t65(rig: &mut Rig, size: Size) -> Row {
    const EACH: usize = 2;
    const PART: usize = 10;
    let losses = size.of(500, 20);
    let commits = Commits::to(rig.database.address()).await;
    let database_url = Some(rig.database.url_through(commits.address));
    let mut service = rig.service(Setup { workers: 2, database_url, ..Setup::default() }).await;
    commits.lose_one_of(EACH);
    let mut starts = Vec::new();
    while commits.lost() < losses {
        let part: Vec<_> = (0..PART).map(|place| start(place % 2 == 0)).collect();
        service.driver.send(&part).await;
        service.answered(&part, part.len()).await;
        starts.extend(part);
    }
    commits.lose_one_of(0);
    let tally = service.settle(&starts, &["process.started"]).await;
    let processes = service.sql("SELECT COUNT(*) FROM processes").await;
    let rejections = tally.kinds.get("command.rejected").copied().unwrap_or(0);
    Row::new("T65", format!("{losses} answers to COMMIT lost under starts without a `message_id`"))
        .counts(tally)
        .at_least("answers lost", commits.lost(), losses)
        .exactly("rejections beside a process", rejections, 0)
        .exactly("processes", processes, starts.len())
}

fn start(names_its_process: bool) -> Command {
    let mut body = json!({ "community": COMMUNITY, "parameters": { "key": Uuid::new_v4() } });
    if names_its_process {
        body["process_id"] = json!(Uuid::new_v4());
    }
    anonymous("process.puppet.vote.start", &body)
}

/// One round of commands that are refused, in a community of their own, and of one that is not.
struct Refused {
    community: String,
    process: Uuid,
    commands: Vec<Command>,
    wanted: Vec<Command>,
}

impl Refused {
    /// Each would be carried out once the community has the puppet, and the process.
    fn new(service: &Service, number: usize) -> Self {
        let community = format!("guild-{number}");
        let (process, script) = (Uuid::new_v4(), json!({ "deeds": ["succeed"], "calls": true }));
        let keyed = service.command_in(&community, "keyed", &script);
        let pure = service.command_in(&community, "pure", &script);
        let parameters = json!({ "key": Uuid::new_v4(), "calls": true });
        let start = json!({ "community": community, "parameters": parameters });
        let close = json!({ "community": community, "process_id": process });
        let commands = vec![
            keyed,
            pure,
            command("process.puppet.vote.start", &start),
            command("process.puppet.vote.close", &close),
            command("plugin.puppet.disable", &json!({ "community": community })),
        ];
        let wanted = service.commands(1, "keyed", &script);
        Self { community, process, commands, wanted }
    }

    /// What makes the same commands acceptable; every other community is deleted before, and is another one then.
    fn accepts(&self, number: usize) -> Vec<Vec<Command>> {
        let plugins = json!([{ "name": "puppet", "config": {} }]);
        let apply = command("community.apply", &json!({ "slug": self.community, "plugins": plugins }));
        let parameters = json!({ "key": Uuid::new_v4() });
        let body = json!({ "community": self.community, "process_id": self.process, "parameters": parameters });
        let mut turns = vec![vec![apply], vec![command("process.puppet.vote.start", &body)]];
        if number.is_multiple_of(2) {
            turns.insert(0, vec![command("community.delete", &json!({ "slug": self.community }))]);
        }
        turns
    }
}

/// The broker restarts between a rejection and its acknowledgement, and by then what was refused could be carried out.
pub(crate) async fn t70(rig: &mut Rig, size: Size) -> Row {
    const COMMUNITIES: usize = 40;
    let rounds = size.of(10, 1);
    let way = Acknowledgements::to(rig.broker.address()).await;
    let broker_url = Some(rig.broker.url_through(way.address));
    let mut service = rig.service(Setup { workers: 2, broker_url, ..Setup::default() }).await;
    let (mut all, mut wanted) = (Vec::new(), 0);
    for round in 0..rounds {
        let numbers = (round * COMMUNITIES)..((round + 1) * COMMUNITIES);
        let refused: Vec<_> = numbers.clone().map(|number| Refused::new(&service, number)).collect();
        let bare = |refused: &Refused| command("community.apply", &json!({ "slug": refused.community }));
        let bare: Vec<_> = refused.iter().map(bare).collect();
        answered(&service, &bare).await;
        way.lose(true);
        let commands: Vec<_> = refused.iter().flat_map(|all| [&all.commands[..], &all.wanted].concat()).collect();
        answered(&service, &commands).await;
        let turns: Vec<_> = refused.iter().zip(numbers).map(|(refused, number)| refused.accepts(number)).collect();
        for turn in 0..3 {
            let turn: Vec<_> = turns.iter().filter_map(|turns| turns.get(turn)).flatten().cloned().collect();
            answered(&service, &turn).await;
            all.extend(turn);
        }
        rig.broker.stop().await;
        way.lose(false);
        rig.broker.start_again().await;
        redelivered(rig, &service).await;
        wanted += refused.len();
        all.extend(bare.into_iter().chain(commands));
    }
    let allowed = ["command.rejected", "action.completed", "community.applied", "community.deleted", "process.started"];
    let tally = service.settle(&all, &allowed).await;
    let again: usize =
        service.processes.iter().map(|worker| worker.log_from(0).matches("handled before").count()).sum();
    let (keys, rejections) = (tally.keys, tally.kinds.get("command.rejected").copied().unwrap_or(0));
    let closed = service.sql("SELECT COUNT(*) FROM processes WHERE status <> 'pending'").await;
    let started = service.sql("SELECT COUNT(*) FROM processes").await;
    let instances = service.sql("SELECT COUNT(*) FROM plugin_instances WHERE community LIKE 'guild-%'").await;
    Row::new("T70", format!("RabbitMQ restarted {rounds} × between rejections and their acknowledgements"))
        .counts(tally)
        .at_least("acknowledgements lost", way.lost(), rounds)
        .at_least("commands that came again", again, rounds * COMMUNITIES)
        .exactly("rejected", rejections, wanted * 5)
        .exactly("keys at the platform, of what was not refused", keys, wanted)
        .exactly("processes, each started by another command", started, wanted)
        .exactly("of them closed by a refused command", closed, 0)
        .exactly("instances that no refused command has disabled", instances, wanted)
}

async fn answered(service: &Service, commands: &[Command]) {
    service.driver.send(commands).await;
    service.answered(commands, commands.len()).await;
}

/// Waits until no queue of commands holds anything, what is handed out included.
async fn redelivered(rig: &Rig, service: &Service) {
    let until = Instant::now() + QUIET;
    loop {
        let listed = rig.broker.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", "messages"]).await;
        let ours = |line: &&str| line.starts_with(&service.prefix) && !line.contains(".driver");
        let waiting = |line: &str| line.split_whitespace().last().is_none_or(|count| count != "0");
        if !listed.lines().filter(ours).any(waiting) || Instant::now() > until {
            return;
        }
        sleep(Duration::from_millis(250)).await;
    }
}
