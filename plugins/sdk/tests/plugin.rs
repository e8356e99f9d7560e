//! What the service and the test kit promise to authors of plugins.

use std::sync::Arc;

use metagov_sdk::{
    Call, Clock, Effects, Environment, Manifest, PluginDefinition, RegistrationError, Steps, SystemClock,
    contract::{CommunitySlug, Problem, ProblemKind, ProcessStatus},
    prelude::*,
    testing::Tester,
    uuid::Uuid,
};

/// A plugin with one of everything that can go wrong.
#[derive(Debug)]
struct Chat;

/// The chat's config.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Config {
    token: Secret,
    team: String,
    #[serde(default = "five")]
    limit: u8,
}

fn five() -> u8 {
    5
}

impl Plugin for Chat {
    const NAME: &'static str = "chat";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<Count>().action::<Shout>().action::<Whisper>().action::<Lie>().action::<Fail>();
        plugin.process::<Poll>().process::<Instant>().event::<Said>();
    }

    fn community_platform_id(config: &Config) -> Option<String> {
        Some(config.team.clone())
    }

    fn tick_every() -> Option<Duration> {
        Some(Duration::from_mins(5))
    }

    async fn tick(cx: &Cx<Self>) -> Result<()> {
        cx.emit(&Said { text: format!("{}", cx.now().format("%H:%M")) })
    }

    async fn config_changed(cx: &Cx<Self>, before: &Config) -> Result<()> {
        ensure!(cx.config().team == before.team, "the team cannot be changed");
        Ok(())
    }
}

/// Somebody said something.
#[derive(Serialize, JsonSchema)]
struct Said {
    text: String,
}

impl PluginEvent for Said {
    const TYPE: &'static str = "message.said";
}

#[derive(Serialize, JsonSchema)]
struct Unregistered {}

impl PluginEvent for Unregistered {
    const TYPE: &'static str = "unregistered";
}

/// Counts, and says so.
#[action(Count, "count", effect = "idempotent", deadline = "2m")]
async fn count(
    cx: &Cx<Chat>,
    /// How many at once.
    by: Option<u32>,
) -> Result<u32> {
    let count = cx.state::<u32>()?.unwrap_or(0) + by.unwrap_or(1);
    cx.set_state(&count)?;
    assert_eq!(cx.state::<u32>()?, Some(count), "a call sees what it has set");
    cx.emit(&Said { text: count.to_string() })?;
    ensure!(count < 10, "enough");
    Ok(count)
}

/// Shouts; not safe to repeat.
#[action(Shout, "shout")]
async fn shout(cx: &Cx<Chat>) -> Result<()> {
    cx.set_state(&1)
}

/// Tells what nobody registered.
#[action(Whisper, "whisper", effect = "pure")]
async fn whisper(cx: &Cx<Chat>) -> Result<()> {
    cx.emit(&Unregistered {})
}

/// An answer that breaks its own schema.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Small {
    #[schemars(range(max = 5))]
    n: u8,
}

/// Answers what it may not answer.
#[action(Lie, "lie", effect = "pure")]
async fn lie(_cx: &Cx<Chat>) -> Result<Small> {
    Ok(Small { n: 6 })
}

/// Fails in the way that it is asked to.
#[action(Fail, "fail", effect = "pure")]
async fn fail(
    _cx: &Cx<Chat>,
    /// The way.
    how: String,
) -> Result<()> {
    let error = || "x".parse::<u8>();
    match how.as_str() {
        "?" => error().map(drop)?,
        "retry" => error().map(drop).or_retry()?,
        "later" => error().map(drop).or_retry_after(Duration::from_secs(9))?,
        "problem" => Err(Problem::new(ProblemKind::Timeout, "too long"))?,
        other => return Err(Error::rejected_at("/parameters/how", format!("there is no {} letter word", other.len()))),
    }
    Ok(())
}

/// What to ask.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Question {
    #[serde(default)]
    broken: bool,
}

/// A process that never ends by itself and has no `close`.
#[derive(Serialize, Deserialize)]
struct Poll {
    polls: u32,
    broken: bool,
}

impl Process<Chat> for Poll {
    const NAME: &'static str = "poll";
    type Parameters = Question;
    type Outcome = u32;

    async fn start(_cx: &Cx<Chat>, question: Question) -> Result<Started<Self>> {
        Ok(Started::new(Self { polls: 0, broken: question.broken }).url("https://chat.example/").updated(&0))
    }

    async fn poll(&mut self, cx: &Cx<Chat>) -> Result<Progress<u32>> {
        self.polls += 1;
        cx.emit(&Said { text: "polled".to_owned() })?;
        if self.broken { Err(Error::failed("the platform is down")) } else { Ok(Progress::Updated(self.polls)) }
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(Duration::from_mins(10))
    }
}

/// A process that is decided at once, or else waits for nothing.
#[derive(Serialize, Deserialize)]
struct Instant {}

impl Process<Chat> for Instant {
    const NAME: &'static str = "instant";
    type Parameters = Question;
    type Outcome = bool;

    async fn start(_cx: &Cx<Chat>, question: Question) -> Result<Started<Self>> {
        let started = Started::new(Self {});
        Ok(if question.broken { started.updated(&"not a boolean") } else { started.completed(&true) })
    }
}

fn config() -> Value {
    json!({"token": "t0ken", "team": "T1"})
}

async fn enabled() -> Tester<Chat> {
    Tester::enable(config()).await.expect("the config is valid")
}

#[tokio::test]
async fn state_and_events_count_only_where_the_call_succeeded() {
    let tester = enabled().await;
    assert_eq!(tester.run(Count { by: None }).await, Ok(1));
    assert_eq!(tester.run(Count { by: Some(8) }).await, Ok(9));
    let refused = tester.run(Count { by: None }).await.expect_err("ten is enough");
    assert!(matches!(refused, Error::Rejected(_)));
    assert_eq!(tester.state::<u32>(), Some(9));
    let told: Vec<_> = tester.events().into_iter().map(|event| event.data["text"].clone()).collect();
    assert_eq!(told, ["1", "9"]);
}

#[tokio::test]
async fn an_action_that_cannot_be_repeated_keeps_no_state() {
    let error = enabled().await.run(Shout {}).await.expect_err("it is unsafe");
    assert!(matches!(&error, Error::Failed(problem) if problem.detail.contains("idempotent")), "{error}");
}

#[tokio::test]
async fn an_event_that_was_not_registered_is_not_told() {
    let error = enabled().await.run(Whisper {}).await.expect_err("it is not registered");
    assert!(matches!(&error, Error::Failed(problem) if problem.detail.contains("'unregistered'")), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_its_schema_is_the_plugins_fault() {
    let tester = enabled().await;
    let error = tester.run(Lie {}).await.expect_err("six is too much");
    assert!(matches!(&error, Error::Failed(problem) if problem.kind == ProblemKind::InvalidOutput), "{error}");
    let error = tester.start::<Instant>(json!({"broken": true})).await.expect_err("no boolean");
    assert!(matches!(&error, Error::Failed(problem) if problem.kind == ProblemKind::InvalidOutput), "{error}");
}

#[tokio::test]
async fn a_question_mark_makes_a_failure_and_only_the_author_makes_a_retry() {
    let tester = enabled().await;
    let failing = |how: &str| tester.run(Fail { how: how.to_owned() });
    let failed = failing("?").await.expect_err("it fails");
    assert!(matches!(&failed, Error::Failed(problem) if problem.kind == ProblemKind::PlatformError), "{failed}");
    assert!(matches!(failing("retry").await, Err(Error::Retry { after: None, .. })));
    let later = failing("later").await;
    assert!(matches!(later, Err(Error::Retry { after: Some(after), .. }) if after == Duration::from_secs(9)));
    assert_eq!(failing("problem").await.expect_err("it fails").problem().kind, ProblemKind::Timeout);
    let rejected = failing("other").await.expect_err("it is rejected");
    assert_eq!(rejected.problem().errors[0].pointer, "/parameters/how");
}

#[tokio::test]
async fn a_process_is_polled_at_its_own_pace_and_keeps_its_failures() {
    let tester = enabled().await;
    let fine = tester.start::<Poll>(json!({})).await.expect("it starts");
    let broken = tester.start::<Poll>(json!({"broken": true})).await.expect("it starts");
    assert_eq!((fine.url().as_deref(), fine.outcome()), (Some("https://chat.example/"), Some(0)));
    tester.advance(Duration::from_mins(25)).await;
    assert_eq!(fine.outcome(), Some(2));
    assert_eq!((broken.outcome(), broken.errors().len()), (Some(0), 2));
    assert_eq!(broken.status(), ProcessStatus::Pending);
    let refused = fine.close().await.expect_err("it has no close");
    assert_eq!(refused.problem().kind, ProblemKind::NotClosable);
}

#[tokio::test]
async fn a_process_may_be_decided_when_it_starts() {
    let process = enabled().await.start::<Instant>(json!({})).await.expect("it starts");
    assert_eq!((process.status(), process.outcome()), (ProcessStatus::Completed, Some(true)));
}

#[tokio::test]
async fn ticks_come_at_their_time() {
    let tester = enabled().await;
    tester.advance(Duration::from_mins(11)).await;
    let times: Vec<_> = tester.events().into_iter().map(|event| event.data["text"].clone()).collect();
    assert_eq!(times, ["00:05", "00:10"]);
    tester.disable().await.expect("nothing to take back");
    tester.advance(Duration::from_hours(1)).await;
    assert_eq!(tester.events().len(), 2);
}

#[tokio::test]
async fn a_refused_change_of_config_says_that_the_config_is_refused() {
    let tester = enabled().await;
    let refused = tester.change_config(json!({"token": "t", "team": "T2"})).await.expect_err("another team");
    assert_eq!(refused.problem().kind, ProblemKind::InvalidConfig);
    tester.change_config(json!({"token": "other", "team": "T1"})).await.expect("another token is fine");
}

#[test]
fn a_config_is_filled_in_checked_and_masked() {
    let chat = PluginDefinition::of::<Chat>().expect("it is well-formed");
    let loaded = chat.load_config(config(), "/config").expect("it is valid");
    assert_eq!(*loaded.value, json!({"token": "t0ken", "team": "T1", "limit": 5}));
    assert_eq!(loaded.platform_id.as_deref(), Some("T1"));
    assert_eq!(chat.mask_config(&loaded.value)["token"], "********");
    assert!(!format!("{loaded:?}").contains("t0ken"));

    let wrong = json!({"token": 4711, "limit": 300, "tema": "s3cret"});
    let problem = chat.load_config(wrong, "/plugins/0/config").expect_err("four things are wrong");
    let pointers: Vec<_> = problem.errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(problem.kind, ProblemKind::InvalidConfig);
    assert!(
        pointers.contains(&"/plugins/0/config/token") && pointers.contains(&"/plugins/0/config/tema"),
        "{pointers:?}"
    );
    assert!(!problem.to_string().contains("4711") && !problem.to_string().contains("s3cret"), "{problem}");
}

#[test]
fn a_definition_knows_what_the_service_asks_it() {
    let chat = PluginDefinition::of::<Chat>().expect("it is well-formed");
    assert_eq!(chat.action_names().collect::<Vec<_>>(), ["count", "fail", "lie", "shout", "whisper"]);
    assert_eq!(chat.process_names().collect::<Vec<_>>(), ["instant", "poll"]);
    let count = chat.action("count").expect("it is registered");
    assert_eq!((count.effect(), count.deadline()), (Effect::Idempotent, Some(Duration::from_mins(2))));
    assert_eq!(chat.action("shout").expect("it is registered").effect(), Effect::Unsafe);
    assert_eq!(chat.manifest().events["message.said"].description, "Somebody said something.");
    let manifest = |manifest: &Manifest| serde_json::to_string(manifest).expect("it is plain data");
    assert_eq!(manifest(chat.manifest()), manifest(&Tester::<Chat>::manifest()));
}

#[tokio::test]
async fn a_call_with_a_state_of_an_older_version_fails_and_says_so() {
    let chat = PluginDefinition::of::<Chat>().expect("it is well-formed");
    let call = Call {
        community: CommunitySlug::new("acme").expect("it is a slug"),
        community_platform_id: None,
        instance_id: Uuid::nil(),
        config: chat.load_config(config(), "").expect("it is valid"),
        state: Some(Arc::new(json!("s3cret"))),
        initiator: None,
        idempotency_key: Uuid::nil(),
        attempt: 1,
        may_keep_state: true,
        steps: Steps::plain(),
        environment: Environment::system(),
    };
    let finished = chat.action("count").expect("it is registered").run(call.clone(), json!({})).await;
    let error = finished.result.expect_err("a string is no count");
    assert!(matches!(&error, Error::Failed(problem) if !problem.detail.contains("s3cret")), "{error}");
    assert_eq!(finished.effects, Effects::default());

    let poll = chat.process("poll").expect("it is registered");
    let error = poll.poll(call.clone(), json!({"polls": "s3cret"})).await.result.expect_err("no such state");
    assert!(matches!(&error, Error::Failed(problem) if !problem.detail.contains("s3cret")), "{error}");

    // The default `poll` tells the service that there is nothing to come back for.
    let instant = chat.process("instant").expect("it is registered");
    let polled = instant.poll(call, json!({})).await.result.expect("nothing happens");
    assert_eq!((polled.progress, polled.snapshot.poll_every), (Progress::Unchanged, None));
    assert!(SystemClock.now().timestamp() > 0);
}

/// A plugin whose only mistake is the one that the constant names.
#[derive(Debug)]
struct Mistaken<const MISTAKE: u8>;

/// An action of it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Twice {}

impl<const M: u8> Action<Mistaken<M>> for Twice {
    const NAME: &'static str = if M == 1 { "Not.Valid" } else { "twice" };
    type Output = ();

    async fn run(self, _cx: &Cx<Mistaken<M>>) -> Result<()> {
        Ok(())
    }
}

/// Parameters that are no object.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Bare(u8);

impl<const M: u8> Action<Mistaken<M>> for Bare {
    const NAME: &'static str = "bare";
    type Output = ();

    async fn run(self, _cx: &Cx<Mistaken<M>>) -> Result<()> {
        Ok(())
    }
}

/// Parameters whose pattern is no regular expression.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Unusable {
    #[schemars(regex(pattern = "("))]
    text: String,
}

impl<const M: u8> Action<Mistaken<M>> for Unusable {
    const NAME: &'static str = "unusable";
    type Output = ();

    async fn run(self, _cx: &Cx<Mistaken<M>>) -> Result<()> {
        Ok(())
    }
}

impl<const M: u8> Plugin for Mistaken<M> {
    const NAME: &'static str = if M == 5 { "Mistaken" } else { "mistaken" };
    type Config = metagov_sdk::Empty;

    fn register(plugin: &mut Registrar<Self>) {
        match M {
            0 | 1 => plugin.action::<Twice>(),
            2 => plugin.action::<Twice>().action::<Twice>(),
            3 => plugin.action::<Bare>(),
            4 => plugin.action::<Unusable>(),
            6 => plugin.event::<Said>().event::<Said>(),
            _ => plugin,
        };
    }
}

#[test]
fn every_mistake_of_a_registration_is_found_at_start_and_told_with_its_remedy() {
    PluginDefinition::of::<Mistaken<0>>().expect("without a mistake it is well-formed");
    let told = |result: Result<PluginDefinition, RegistrationError>| result.expect_err("it is mistaken").to_string();
    insta::assert_snapshot!(
        [
            told(PluginDefinition::of::<Mistaken<1>>()),
            told(PluginDefinition::of::<Mistaken<2>>()),
            told(PluginDefinition::of::<Mistaken<3>>()),
            told(PluginDefinition::of::<Mistaken<4>>()),
            told(PluginDefinition::of::<Mistaken<5>>()),
            told(PluginDefinition::of::<Mistaken<6>>()),
        ]
        .join("\n")
    );
}
