//! The plugin as its users see it, run by the test kit.

use metagov_randomness::{Config, DelayedStochasticVote, Drawn, LuckyNumber, RandomInt, Randomness, SetLuckyNumber};
use metagov_sdk::{
    Error,
    contract::{ProblemKind, ProcessStatus},
    prelude::*,
    testing::Tester,
};

async fn enabled() -> Tester<Randomness> {
    Tester::enable(Config { default_low: 1, default_high: 7 }).await.expect("the config is valid")
}

#[test]
fn the_manifest_is_the_reviewed_one() {
    insta::assert_json_snapshot!(Tester::<Randomness>::manifest());
}

/// The largest that every reader of JSON keeps exactly.
const MOST: i64 = (1 << 53) - 1;

#[tokio::test]
async fn both_bounds_have_to_be_set_and_in_order() {
    let missing = Tester::<Randomness>::enable(json!({})).await.expect_err("both are missing");
    assert_eq!(missing.problem().kind, ProblemKind::InvalidConfig);
    assert_eq!(missing.problem().errors.len(), 2, "{missing}");

    let turned = Tester::<Randomness>::enable(Config { default_low: 7, default_high: 1 }).await.expect_err("7 > 1");
    assert_eq!(turned.problem().kind, ProblemKind::InvalidConfig);

    let tester = enabled().await;
    tester.change_config(Config { default_low: 3, default_high: 3 }).await.expect_err("nothing lies between");
    let drawn = tester.run(RandomInt { low: None, high: None }).await.expect("the old config stays");
    assert!((1..7).contains(&drawn.value));
}

#[tokio::test]
async fn numbers_lie_within_the_bounds_and_the_upper_one_is_never_drawn() {
    let tester = enabled().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        seen.insert(tester.run(RandomInt { low: None, high: None }).await.expect("the bounds are valid").value);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);

    let extremes = RandomInt { low: Some(-MOST), high: Some(MOST) };
    tester.run(extremes).await.expect("the widest bounds are bounds");
    for beyond in [RandomInt { low: Some(-MOST - 1), high: None }, RandomInt { low: None, high: Some(i64::MAX) }] {
        let refused = tester.run(beyond).await.expect_err("a driver would read another number");
        assert!(matches!(&refused, Error::Rejected(problem) if problem.kind == ProblemKind::InvalidParameters));
    }
    let only = tester.run(RandomInt { low: Some(-1), high: Some(0) }).await.expect("one number lies between");
    assert_eq!(only.value, -1);
}

#[tokio::test]
async fn bounds_that_hold_no_number_are_refused() {
    let tester = enabled().await;
    for (low, high) in [(7, 3), (5, 5)] {
        let refused = tester.run(RandomInt { low: Some(low), high: Some(high) }).await.expect_err("no number");
        assert!(matches!(&refused, Error::Rejected(problem) if problem.kind == ProblemKind::InvalidParameters));
    }
    let refused = tester.run_json("random-int", json!({"low": "1", "hgih": 2})).await.expect_err("two mistakes");
    assert_eq!(refused.problem().errors.len(), 2, "{refused}");
    assert!(refused.to_string().contains("did you mean 'high'"), "{refused}");
}

#[tokio::test]
async fn the_lucky_number_is_4_until_it_is_set_and_survives_a_change_of_config() {
    let tester = enabled().await;
    assert_eq!(tester.state(), Some(LuckyNumber { lucky_number: 4 }));
    let set = tester.run(SetLuckyNumber { lucky_number: 13 }).await.expect("any number will do");
    assert_eq!(set, LuckyNumber { lucky_number: 13 });
    tester.change_config(Config { default_low: 0, default_high: 2 }).await.expect("the config is valid");
    assert_eq!(tester.state(), Some(LuckyNumber { lucky_number: 13 }));
}

#[tokio::test]
async fn the_lot_is_drawn_when_the_delay_is_over() {
    let tester = enabled().await;
    let ballot = json!({"options": ["a", "b", "c"], "delay": 10});
    let vote = tester.start::<DelayedStochasticVote>(ballot).await.expect("the ballot is valid");
    assert_eq!(vote.closes_at(), Some(tester.now() + Duration::from_mins(10)));

    tester.advance(Duration::from_mins(9)).await;
    assert!(vote.is_pending() && vote.outcome::<Drawn>().is_none());
    tester.advance(Duration::from_mins(1)).await;
    assert_eq!(vote.status(), ProcessStatus::Completed);
    let drawn: Drawn = vote.outcome().expect("it has been drawn");
    assert!(["a", "b", "c"].contains(&drawn.winner.as_str()));
}

#[tokio::test]
async fn a_vote_that_is_closed_early_is_drawn_at_once() {
    let tester = enabled().await;
    let vote = tester.start_json("delayed-stochastic-vote", json!({"options": ["only"], "delay": 60})).await;
    let vote = vote.expect("the ballot is valid");
    vote.close().await.expect("it can be closed");
    assert_eq!(vote.outcome(), Some(Drawn { winner: "only".to_owned() }));
    let again = vote.close().await.expect_err("it has ended");
    assert_eq!(again.problem().kind, ProblemKind::AlreadyCompleted);
}

#[tokio::test]
async fn a_vote_without_delay_is_drawn_at_the_next_scan() {
    let tester = enabled().await;
    let vote = tester.start::<DelayedStochasticVote>(json!({"options": ["only"], "delay": 0})).await;
    let vote = vote.expect("the ballot is valid");
    assert!(vote.is_pending());
    tester.advance(Duration::ZERO).await;
    assert_eq!(vote.status(), ProcessStatus::Completed);
}

#[tokio::test]
async fn a_ballot_without_options_or_with_a_delay_out_of_range_is_refused() {
    let tester = enabled().await;
    for (options, delay) in [(json!([]), json!(1)), (json!(["a"]), json!(-1)), (json!(["a"]), json!(1e12))] {
        let refused = tester.start::<DelayedStochasticVote>(json!({"options": options, "delay": delay})).await;
        assert!(matches!(refused, Err(Error::Rejected(_))), "{options} {delay}");
    }
}

#[tokio::test]
async fn disabling_ends_what_is_open() {
    let tester = enabled().await;
    let vote = tester.start::<DelayedStochasticVote>(json!({"options": ["a"], "delay": 1})).await.expect("valid");
    tester.disable().await.expect("nothing to take back");
    assert_eq!(vote.status(), ProcessStatus::Failed);
    assert_eq!(vote.problem().expect("it says why").kind, ProblemKind::PluginDisabled);
}
