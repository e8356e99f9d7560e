//! A plugin whose deeds take two steps on its platform: it posts something, then pins what it has posted.

use std::sync::Mutex;

use metagov_sdk::prelude::*;
use metagov_sdk::uuid::Uuid;

use super::puppet::{self, Deed};

/// Posts, then pins.
pub(crate) struct Poster;

impl Plugin for Poster {
    const NAME: &'static str = "poster";
    type Config = metagov_sdk::Empty;

    fn register(plugin: &mut Registrar<Self>) {
        plugin
            .action::<KeyedPost>()
            .action::<UnsafePost>()
            .action::<IdempotentPost>()
            .action::<Fickle>()
            .process::<Notice>();
    }
}

/// What the platform has seen: whose, what, under which key.
static SEEN: Mutex<Vec<(String, &'static str, Uuid)>> = Mutex::new(Vec::new());

/// How often the platform has seen this.
pub(crate) fn seen(tag: &str, what: &str) -> usize {
    SEEN.lock().expect("no poster panics here").iter().filter(|(whose, seen, _)| whose == tag && *seen == what).count()
}

/// The keys under which the platform has seen this.
pub(crate) fn keys(tag: &str, what: &str) -> Vec<Uuid> {
    let seen = SEEN.lock().expect("no poster panics here");
    seen.iter().filter(|(whose, seen, _)| whose == tag && *seen == what).map(|(_, _, key)| *key).collect()
}

/// One call of the platform: it sees it, then it does as the script says. Its gate is `<tag> <what>`.
async fn call(cx: &Cx<Poster>, tag: &str, what: &'static str, script: &[Deed]) -> Result<String> {
    SEEN.lock().expect("no poster panics here").push((tag.to_owned(), what, cx.step_key(what)));
    let answer = puppet::follow(&format!("{tag} {what}"), script).await?;
    Ok(format!("{answer} #{}", seen(tag, what)))
}

async fn post_and_pin(cx: &Cx<Poster>, tag: &str, post: &[Deed], pin: &[Deed]) -> Result<String> {
    let post = cx.step("post", call(cx, tag, "post", post)).await?;
    let pin = cx.step("pin", call(cx, tag, "pin", pin)).await?;
    Ok(format!("{post}, {pin}"))
}

/// Posts and pins; the platform takes keys.
#[action(KeyedPost, "keyed-post", effect = "keyed", deadline = "50s")]
async fn keyed_post(cx: &Cx<Poster>, tag: String, post: Vec<Deed>, pin: Vec<Deed>) -> Result<String> {
    post_and_pin(cx, &tag, &post, &pin).await
}

/// Posts and pins; must not be repeated.
#[action(UnsafePost, "unsafe-post", effect = "unsafe", deadline = "50s")]
async fn unsafe_post(cx: &Cx<Poster>, tag: String, post: Vec<Deed>, pin: Vec<Deed>) -> Result<String> {
    post_and_pin(cx, &tag, &post, &pin).await
}

/// Posts and pins; twice is as good as once.
#[action(IdempotentPost, "idempotent-post", effect = "idempotent", deadline = "50s")]
async fn idempotent_post(cx: &Cx<Poster>, tag: String, post: Vec<Deed>, pin: Vec<Deed>) -> Result<String> {
    post_and_pin(cx, &tag, &post, &pin).await
}

/// Needs no step any more when it is tried again.
#[action(Fickle, "fickle", effect = "idempotent")]
async fn fickle(cx: &Cx<Poster>, tag: String) -> Result<String> {
    if cx.attempt() > 1 {
        return Ok("nothing is left to do".to_owned());
    }
    cx.step("post", call(cx, &tag, "post", &[])).await?;
    Err(Error::retry("the board is locked"))
}

/// A notice on the board.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Notice {
    tag: String,
    take_down: Vec<Deed>,
    closes_at: Option<Timestamp>,
}

/// What is to be posted.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Text {
    tag: String,
    #[serde(default)]
    post: Vec<Deed>,
    #[serde(default)]
    pin: Vec<Deed>,
    /// What comes after the thanks when it is closed.
    #[serde(default)]
    take_down: Vec<Deed>,
    /// Whether the clock closes it, at once.
    #[serde(default)]
    is_over: bool,
}

impl Process<Poster> for Notice {
    const NAME: &'static str = "notice";
    type Parameters = Text;
    type Outcome = String;

    async fn start(cx: &Cx<Poster>, text: Text) -> Result<Started<Self>> {
        let posted = post_and_pin(cx, &text.tag, &text.post, &text.pin).await?;
        let closes_at = text.is_over.then(|| cx.now());
        Ok(Started::new(Self { tag: text.tag, take_down: text.take_down, closes_at }).updated(&posted))
    }

    async fn poll(&mut self, _: &Cx<Poster>) -> Result<Progress<String>> {
        Ok(Progress::Unchanged)
    }

    async fn close(&mut self, cx: &Cx<Poster>) -> Result<Progress<String>> {
        let thanks = cx.step("thank", call(cx, &self.tag, "thank", &[])).await?;
        let gone = cx.step("take-down", call(cx, &self.tag, "take-down", &self.take_down)).await?;
        Ok(Progress::Completed(format!("{thanks}, {gone}")))
    }

    fn closes_at(&self) -> Option<Timestamp> {
        self.closes_at
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}
