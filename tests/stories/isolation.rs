//! Isolation: a slow platform, a flood or a blocked thread is the trouble of one community or handler, not of the others.

use std::{collections::HashMap, time::Instant};

use metagov::config;
use serde_json::json;

use crate::support::{
    Command, World, puppet, story, until,
    world::{COMMUNITY, settings},
};

/// A worker of the stories fetches 128 at once.
const MORE_THAN_IS_FETCHED: usize = 300;

/// An action in another community.
fn elsewhere(action: &str, tag: &str, script: &[&str]) -> Command {
    let body = json!({ "community": "others", "parameters": { "tag": tag, "script": script } });
    Command::new(&format!("action.puppet.{action}"), &body)
}

async fn two_communities(world: &World) {
    world.with_puppet().await;
    world.tell("community.apply", &json!({ "slug": "others", "plugins": [{ "name": "puppet", "config": {} }] })).await;
}

/// How often each command was answered, and under how many ids.
fn answers(world: &World) -> HashMap<String, Vec<metagov_sdk::contract::EventId>> {
    let mut answers: HashMap<_, Vec<_>> = HashMap::new();
    for received in world.mail.all() {
        if received.event.event_type == "org.metagov.action.completed"
            && let Some(cause) = received.event.causationid
        {
            answers.entry(cause).or_default().push(metagov_sdk::contract::EventId(received.event.id));
        }
    }
    answers
}

story! {
    async fn a_slow_platform_of_one_community_is_not_felt_by_another(world: World) {
        two_communities(world).await;
        let tag = format!("slow {}", world.prefix);
        let slow: Vec<_> = (0..MORE_THAN_IS_FETCHED).map(|_| World::act("long-act", &tag, &["wait"])).collect();
        world.send_all(&slow).await;
        until("the slow ones hold what they may", || puppet::calls(&tag) >= 40).await;
        for _ in 0..20 {
            let told = world.ask(&elsewhere("pure-act", "fast", &["answer"])).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed");
        }
        let held = puppet::calls(&tag);
        assert!(held <= 48, "three quarters of 64 handlers are for one community at most, not {held}");
        let all = answers(world);
        assert!(slow.iter().all(|command| !all.contains_key(&command.id())), "the platform has not answered yet");
        puppet::open_gate(&tag);
        let ours = |r: &crate::support::Received| r.event.community == COMMUNITY && r.event.event_type.ends_with("action.completed");
        world.mail.wait_for(MORE_THAN_IS_FETCHED, "every slow one", ours).await;
        let all = answers(world);
        assert!(slow.iter().all(|command| all.get(&command.id()).is_some_and(|ids| ids.len() == 1)), "once each");
    }

    async fn a_flood_is_answered_to_the_last_and_others_before_it(world: World) {
        two_communities(world).await;
        let flood: Vec<_> = (0..500).map(|n| World::act("pure-act", &format!("flood {n}"), &["answer"])).collect();
        for part in flood.chunks(250) {
            world.ask(&elsewhere("pure-act", "between", &["answer"])).await;
            world.send_all(part).await;
        }
        world.ask(&elsewhere("pure-act", "after", &["answer"])).await;
        let answered = answers(world);
        let waits = flood.iter().filter(|command| !answered.contains_key(&command.id())).count();
        assert!(waits > 0, "the other community waited for the whole flood");
        let of_flood = |r: &crate::support::Received| r.event.community == COMMUNITY && r.event.event_type.ends_with("action.completed");
        world.mail.wait_for(flood.len(), "the whole flood", of_flood).await;
        let all = answers(world);
        let (lost, doubled) = (
            flood.iter().filter(|command| !all.contains_key(&command.id())).count(),
            all.values().filter(|ids| ids.len() > 1).count(),
        );
        assert_eq!((lost, doubled), (0, 0));
    }

    async fn a_rate_holds_back_one_community_and_no_other(world: World) {
        two_communities(world).await;
        world.stop().await;
        world.start_worker_with(config::Worker { community_rate: 2, ..settings() }).await;
        let begun = Instant::now();
        let commands: Vec<_> = (0..12).map(|_| World::act("pure-act", "rated", &["answer"])).collect();
        world.send_all(&commands).await;
        let other = elsewhere("pure-act", "unrated", &["answer"]);
        world.ask(&other).await;
        let before = answers(world);
        let waiting = commands.iter().filter(|command| !before.contains_key(&command.id())).count();
        for command in &commands {
            world.answer(command).await;
        }
        // Two at once, then two a second.
        assert!(begun.elapsed().as_millis() >= 4900, "{:?}", begun.elapsed());
        assert!(waiting > 0, "the other community waited for the whole of it");
    }

    async fn a_handler_that_blocks_its_thread_is_told_and_others_go_on(world: World) {
        world.with_puppet().await;
        for (action, event) in [("pure-act", "failed"), ("unsafe-act", "uncertain")] {
            let tag = format!("block {action} {}", world.prefix);
            let blocking = World::act(action, &tag, &["block"]);
            world.send(&blocking).await;
            until("it blocks", || puppet::calls(&tag) == 1).await;
            let beside = world.ask(&World::act("pure-act", "beside", &["answer"])).await;
            assert_eq!(beside.event.event_type, "org.metagov.action.completed");
            let told = world.answer(&blocking).await;
            assert_eq!(told.event.event_type, format!("org.metagov.action.{event}"), "while it still blocks");
            puppet::open_gate(&tag);
        }
    }
}
