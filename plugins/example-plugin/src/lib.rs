//! The plugin `example-plugin`: one of everything, small enough to copy.
//!
//! It pretends to be connected to a platform where people vote by yes and no; what a real plugin would ask the platform
//! is kept in the process here, so that it runs without one. Up: the list in `src/plugins.rs`. Down: [`metagov_sdk`].

use metagov_sdk::prelude::*;

/// The plugin.
#[derive(Debug)]
pub struct ExamplePlugin;

/// What a community sets when it enables the plugin.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The token that the platform sends along with its webhooks.
    pub my_required_config: Secret,
    /// How many minutes a vote is open; for ever where absent.
    #[schemars(range(min = 1, max = 525_600))]
    pub my_optional_config: Option<u32>,
    /// How many votes decide without waiting for the end.
    #[serde(default = "one_hundred")]
    pub my_optional_config_2: u32,
}

fn one_hundred() -> u32 {
    100
}

impl Plugin for ExamplePlugin {
    const NAME: &'static str = "example-plugin";
    const DESCRIPTION: &'static str = "Connects a community to the example platform.";
    type Config = Config;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<MyAction>().process::<MyGovProcess>().event::<VoteCast>();
    }

    async fn verify_webhook(cx: &Cx<Self>, hook: &Webhook) -> Result<()> {
        match hook.header("x-example-token") {
            Some(token) if cx.config().my_required_config.matches(token) => Ok(()),
            _ => Err(Error::invalid_signature("the header x-example-token is missing or wrong")),
        }
    }

    async fn receive_webhook(cx: &Cx<Self>, hook: &Webhook) -> Result<()> {
        cx.emit(&hook.json::<VoteCast>()?)
    }

    fn concerns(hook: &Webhook) -> Concerns {
        match hook.json::<VoteCast>() {
            Ok(vote) => Concerns::Process(vote.poll_id.to_string()),
            Err(_) => Concerns::NoProcess,
        }
    }
}

/// What the action answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Posted {
    /// The platform's id of the message.
    pub id: u32,
    /// Who posted it.
    pub author: String,
}

/// Posts a message on behalf of a user.
#[action(MyAction, "my-action", effect = "keyed")]
async fn my_action(
    cx: &Cx<ExamplePlugin>,
    /// The message.
    #[schemars(length(min = 1, max = 4000))]
    text: String,
) -> Result<Posted> {
    ensure!(!text.trim().is_empty(), "text must not be blank");
    // A platform that takes idempotency keys gives the same id to every attempt at the same command.
    let (id, ..) = cx.idempotency_key().as_fields();
    let author = cx.initiator().map_or("metagov", |initiator| &initiator.user_id).to_owned();
    Ok(Posted { id, author })
}

/// Somebody voted. This is what the platform's webhooks look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoteCast {
    /// The poll.
    pub poll_id: u32,
    /// The voter.
    pub user_id: String,
    /// Whether the vote is a yes.
    pub yes: bool,
}

impl PluginEvent for VoteCast {
    const TYPE: &'static str = "vote-cast";
}

/// A question that can be answered by yes and no.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// The question.
    pub question: String,
}

/// How the votes stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// Votes in favour.
    pub yes: u32,
    /// Votes against.
    pub no: u32,
}

/// What is remembered between calls; saved by the service whenever it changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MyGovProcess {
    poll_id: u32,
    closes_at: Option<Timestamp>,
    tally: Tally,
}

impl Process<ExamplePlugin> for MyGovProcess {
    const NAME: &'static str = "my-gov-process";
    const DESCRIPTION: &'static str = "Asks the community a question and counts the votes.";
    type Parameters = Question;
    type Outcome = Tally;

    async fn start(cx: &Cx<ExamplePlugin>, question: Question) -> Result<Started<Self>> {
        ensure!(!question.question.trim().is_empty(), "question must not be blank");
        let poll_id = cx.rng().random();
        let closes_at = cx.config().my_optional_config.map(|minutes| cx.now() + Duration::from_mins(minutes.into()));
        let process = Self { poll_id, closes_at, tally: Tally::default() };
        Ok(Started::new(process).url(format!("https://platform.example/polls/{poll_id}")))
    }

    async fn poll(&mut self, cx: &Cx<ExamplePlugin>) -> Result<Progress<Tally>> {
        // A real plugin would ask the platform for the votes here.
        let decided = self.tally.yes + self.tally.no >= cx.config().my_optional_config_2;
        Ok(if decided { Progress::Completed(self.tally.clone()) } else { Progress::Unchanged })
    }

    async fn receive_webhook(&mut self, _cx: &Cx<ExamplePlugin>, hook: &Webhook) -> Result<Progress<Tally>> {
        let vote: VoteCast = hook.json()?;
        let count = if vote.yes { &mut self.tally.yes } else { &mut self.tally.no };
        *count += 1;
        Ok(Progress::Updated(self.tally.clone()))
    }

    async fn close(&mut self, _cx: &Cx<ExamplePlugin>) -> Result<Progress<Tally>> {
        Ok(Progress::Completed(self.tally.clone()))
    }

    fn closes_at(&self) -> Option<Timestamp> {
        self.closes_at
    }

    fn webhook_key(&self) -> Option<String> {
        Some(self.poll_id.to_string())
    }
}
