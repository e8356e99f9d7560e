//! What steps promise to authors of plugins.

use metagov_sdk::{Effects, Empty, prelude::*, testing::Tester, uuid::Uuid};

/// Posts to a board and pins what it posted.
#[derive(Debug)]
struct Board;

impl Plugin for Board {
    const NAME: &'static str = "board";
    type Config = Empty;

    fn register(plugin: &mut Registrar<Self>) {
        plugin.action::<Post>().action::<Look>().action::<Name>().action::<Number>().process::<Notice>();
    }
}

/// Posts, and pins at the second attempt.
#[action(Post, "post", effect = "unsafe")]
async fn post(cx: &Cx<Board>) -> Result<String> {
    let id = cx.step("post", async { Ok(cx.attempt()) }).await?;
    let pinned = cx.step("pin", async { if cx.attempt() == 1 { Err(Error::retry("later")) } else { Ok(id) } }).await?;
    Ok(format!("posted at attempt {id}, pinned {pinned}"))
}

/// Only looks.
#[action(Look, "look", effect = "pure")]
async fn look(cx: &Cx<Board>) -> Result<u8> {
    cx.step("look", async { Ok(1) }).await
}

/// Has two steps of these names.
#[action(Name, "name", effect = "keyed")]
async fn name(
    cx: &Cx<Board>,
    /// One.
    first: String,
    /// The other.
    second: String,
) -> Result<()> {
    cx.step(&first, async { Ok(()) }).await?;
    cx.step(&second, async { Ok(()) }).await
}

/// Has a result that JSON cannot hold.
#[action(Number, "number", effect = "keyed")]
async fn number(cx: &Cx<Board>) -> Result<f64> {
    cx.step("count", async { Ok(f64::NAN) }).await
}

/// A notice that is pinned.
#[derive(Serialize, Deserialize)]
struct Notice {}

impl Process<Board> for Notice {
    const NAME: &'static str = "notice";
    type Parameters = Empty;
    type Outcome = Uuid;

    async fn start(cx: &Cx<Board>, _: Empty) -> Result<Started<Self>> {
        cx.step("post", async { Ok(cx.attempt()) }).await?;
        let key = cx.step("pin", async {
            match cx.attempt() {
                1 => std::future::pending().await,
                _ => Ok(cx.step_key("pin")),
            }
        });
        Ok(Started::new(Self {}).updated(&key.await?))
    }
}

async fn board() -> Tester<Board> {
    Tester::enable(json!({})).await.expect("there is nothing to set")
}

#[tokio::test]
async fn a_retry_goes_on_after_the_finished_steps() {
    let board = board().await;
    let error = board.run(Post {}).await.expect_err("the second step is not possible yet");
    assert!(matches!(error, Error::Retry { .. }), "{error}");
    assert_eq!(board.steps().into_iter().collect::<Vec<_>>(), [("post".to_owned(), json!(1))]);
    let done = board.retry().run(Post {}).await.expect("now it is");
    assert_eq!(done, "posted at attempt 1, pinned 1");
    assert!(matches!(board.run(Post {}).await, Err(Error::Retry { .. })), "another command has steps of its own");
}

#[tokio::test]
async fn a_start_that_was_cut_off_goes_on_where_it_stopped() {
    let board = board().await;
    let hangs = tokio::time::timeout(Duration::from_millis(20), board.start::<Notice>(json!({}))).await;
    assert!(hangs.is_err() && board.steps().contains_key("post"));
    let notice = board.retry().start::<Notice>(json!({})).await.expect("it goes on");
    assert_eq!(board.steps()["post"], json!(1), "it was not posted at the second attempt");
    let key: Uuid = notice.outcome().expect("its key");
    assert_eq!(board.steps()["pin"], json!(key));
}

#[tokio::test]
async fn a_pure_action_has_no_steps() {
    let error = board().await.run(Look {}).await.expect_err("it keeps nothing");
    assert!(matches!(&error, Error::Failed(problem) if problem.detail.contains("in a pure action")), "{error}");
}

#[tokio::test]
async fn two_names_alike_and_names_that_are_none_are_refused() {
    let board = board().await;
    for (first, second, words) in
        [("post", "post", "two steps of one call are named 'post'"), ("a", "No Name", "cannot be named 'No Name'")]
    {
        let call = Name { first: first.to_owned(), second: second.to_owned() };
        let error = board.run(call).await.expect_err(second);
        assert!(matches!(&error, Error::Failed(problem) if problem.detail.contains(words)), "{error}");
    }
    let call = Name { first: "a".to_owned(), second: "b".to_owned() };
    assert_eq!(board.run(call).await, Ok(()));
}

#[tokio::test]
async fn a_result_that_cannot_be_read_back_fails_at_the_first_attempt_already() {
    let error = board().await.run(Number {}).await.expect_err("JSON has no such number");
    assert!(matches!(&error, Error::Failed(problem) if problem.detail.contains("the step 'count'")), "{error}");
}

#[tokio::test]
async fn each_step_has_a_key_of_its_own_that_every_attempt_has_again() {
    let definition = metagov_sdk::PluginDefinition::of::<Board>().expect("it is well-formed");
    let process = definition.process("notice").expect("it is registered");
    let call = |command: Uuid| metagov_sdk::Call {
        community: "acme".parse().expect("it is a slug"),
        community_platform_id: None,
        instance_id: Uuid::nil(),
        config: definition.load_config(json!({}), "").expect("it is valid"),
        state: None,
        initiator: None,
        idempotency_key: command,
        attempt: 2,
        may_keep_state: true,
        steps: metagov_sdk::Steps::plain(),
        environment: metagov_sdk::Environment::system(),
    };
    let mut keys = Vec::new();
    for command in [1, 1, 2].map(Uuid::from_u128) {
        let finished = process.start(call(command), json!({})).await;
        assert_eq!(finished.effects, Effects::default());
        keys.push(finished.result.expect("it starts").progress.outcome().cloned());
    }
    assert!(keys[0] == keys[1] && keys[0] != keys[2], "{keys:?}");
    assert_ne!(keys[0], Some(json!(Uuid::from_u128(1))));
}
