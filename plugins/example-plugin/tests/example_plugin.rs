//! The plugin as its users see it, run by the test kit.

use metagov_example_plugin::{ExamplePlugin, MyAction, MyGovProcess, Posted, Tally, VoteCast};
use metagov_sdk::{
    contract::{ProblemKind, ProcessStatus},
    prelude::*,
    testing::{ProcessUnderTest, Tester},
};

async fn enabled() -> Tester<ExamplePlugin> {
    let config = json!({"my_required_config": "let me in", "my_optional_config": 60, "my_optional_config_2": 3});
    Tester::enable(config).await.expect("the config is valid")
}

async fn asked(tester: &Tester<ExamplePlugin>) -> ProcessUnderTest<ExamplePlugin> {
    tester.start::<MyGovProcess>(json!({"question": "Shall we?"})).await.expect("the question is valid")
}

fn vote(process: &ProcessUnderTest<ExamplePlugin>, yes: bool) -> Webhook {
    let poll_id = process.webhook_key().expect("it has one").parse().expect("it is a number");
    let mut hook = Webhook::post_json("/example", &json!(VoteCast { poll_id, user_id: "U1".to_owned(), yes }));
    hook.headers.push(("X-Example-Token".to_owned(), "let me in".to_owned()));
    hook
}

#[test]
fn the_manifest_is_the_reviewed_one() {
    insta::assert_json_snapshot!(Tester::<ExamplePlugin>::manifest());
}

#[tokio::test]
async fn the_config_needs_its_token_and_does_not_repeat_it() {
    let missing = Tester::<ExamplePlugin>::enable(json!({})).await.expect_err("the token is missing");
    assert_eq!(missing.problem().kind, ProblemKind::InvalidConfig);
    let wrong = Tester::<ExamplePlugin>::enable(json!({"my_required_config": 4711})).await.expect_err("no string");
    assert!(!wrong.to_string().contains("4711"), "{wrong}");
}

#[tokio::test]
async fn an_action_is_performed_on_behalf_of_its_initiator() {
    let tester = enabled().await;
    tester.set_initiator(Some(Initiator {
        user_id: "U1".to_owned(),
        provider: "example".to_owned(),
        more: serde_json::Map::default(),
    }));
    let Posted { author, .. } = tester.run(MyAction { text: "hello".to_owned() }).await.expect("the text is fine");
    assert_eq!(author, "U1");
    tester.run(MyAction { text: "  ".to_owned() }).await.expect_err("a blank text is refused");
    tester.run_json("my-action", json!({})).await.expect_err("a text is needed");
}

#[tokio::test]
async fn votes_arrive_by_webhook_and_reach_only_their_own_poll() {
    let tester = enabled().await;
    let (ours, other) = (asked(&tester).await, asked(&tester).await);
    assert!(ours.url().expect("people need to find it").starts_with("https://platform.example/polls/"));

    tester.webhook(vote(&ours, true)).await.expect("the token is right");
    assert_eq!(ours.outcome(), Some(Tally { yes: 1, no: 0 }));
    assert_eq!(other.outcome::<Tally>(), None);
    assert_eq!(tester.events()[0].event_type, "vote-cast");

    let mut forged = vote(&ours, true);
    forged.headers.clear();
    let refused = tester.webhook(forged).await.expect_err("there is no token");
    assert_eq!(refused.problem().kind, ProblemKind::InvalidSignature);
    assert_eq!(ours.outcome(), Some(Tally { yes: 1, no: 0 }));
}

#[tokio::test]
async fn enough_votes_decide_at_the_next_poll() {
    let tester = enabled().await;
    let process = asked(&tester).await;
    for yes in [true, false, true] {
        tester.webhook(vote(&process, yes)).await.expect("the token is right");
    }
    assert!(process.is_pending());
    tester.advance(Duration::from_mins(1)).await;
    assert_eq!(process.status(), ProcessStatus::Completed);
    assert_eq!(process.outcome(), Some(Tally { yes: 2, no: 1 }));
}

#[tokio::test]
async fn the_clock_and_the_driver_can_both_close_it() {
    let tester = enabled().await;
    let by_driver = asked(&tester).await;
    by_driver.close().await.expect("it can be closed");
    assert_eq!(by_driver.outcome(), Some(Tally::default()));

    let by_clock = asked(&tester).await;
    tester.advance(Duration::from_hours(1)).await;
    assert_eq!(by_clock.status(), ProcessStatus::Completed);
}
