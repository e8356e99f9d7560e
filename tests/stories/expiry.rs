//! Commands with an `expiration`: what was not begun in time is answered like anything else, what was begun is finished.

use std::time::Duration;

use metagov::config;
use serde_json::json;

use crate::support::{
    Command, Received, World, puppet, story, until,
    world::{COMMUNITY, settings},
};

/// The same command with so many milliseconds to live in a queue.
fn expiring(mut command: Command, millis: u64) -> Command {
    command.properties.expiration = Some(Duration::from_millis(millis));
    command
}

fn problem_of(received: &Received) -> &str {
    assert_eq!(received.event.event_type, "org.metagov.command.rejected", "{:?}", received.event.data);
    received.event.data["problem"]["type"].as_str().expect("a problem has a type")
}

story! {
    async fn what_expired_in_its_queue_is_answered_and_not_executed(world: World) {
        world.with_puppet().await;
        world.stop().await;
        let tag = format!("late {}", world.prefix);
        let mut late = expiring(World::act("unsafe-act", &tag, &["answer"]), 1);
        late.properties.reply_to = Some(world.reply_queue.clone());
        late.properties.correlation_id = Some("what I know it by".to_owned());
        let in_time = World::act("unsafe-act", &format!("in time {}", world.prefix), &["answer"]);
        let core = expiring(Command::new("community.apply", &json!({ "slug": "late" })), 1);
        world.send_all(&[late.clone(), in_time.clone(), core.clone()]).await;
        world.start_worker().await;
        for command in [&late, &core] {
            let told = world.answer(command).await;
            assert_eq!(problem_of(&told), "https://metagov.org/problems/expired");
        }
        assert_eq!(world.answer(&in_time).await.event.event_type, "org.metagov.action.completed");
        let reply = world.replies.wait_for(1, "a reply", |_| true).await.remove(0);
        assert_eq!(problem_of(&reply), "https://metagov.org/problems/expired");
        assert_eq!(reply.message.properties.correlation_id.as_deref(), Some("what I know it by"));
        assert_eq!(puppet::calls(&tag), 0);
        let answers = |r: &Received| r.event.causationid.as_deref() == Some(&late.id());
        assert_eq!(world.mail.all().into_iter().filter(answers).count(), 1);
    }

    async fn what_was_begun_is_finished_however_late(world: World) {
        world.with_puppet().await;
        world.stop().await;
        let mortal = world.start_mortal().await;
        let tag = format!("begun {}", world.prefix);
        let begun = expiring(World::act("unsafe-act", &tag, &["wait"]), 5000);
        world.send(&begun).await;
        until("it is begun", || puppet::calls(&tag) == 1).await;
        // Then the broker takes it back, and its time is over before anybody gets it.
        tokio::time::sleep(Duration::from_secs(5)).await;
        mortal.kill().await;
        world.run_out(&begun).await;
        world.start_worker().await;
        assert_eq!(world.answer(&begun).await.event.event_type, "org.metagov.action.uncertain");
        assert_eq!(puppet::calls(&tag), 1);
        puppet::open_gate(&tag);
    }

    async fn what_is_over_its_share_expires_on_its_way(world: World) {
        world.with_puppet().await;
        world.stop().await;
        world.start_worker_with(config::Worker { concurrency: 2, ..settings() }).await;
        let tag = format!("holds {}", world.prefix);
        world.send(&World::act("long-act", &tag, &["wait"])).await;
        until("the only handler of this community is taken", || puppet::calls(&tag) == 1).await;
        let waiting = format!("waits {}", world.prefix);
        let flood: Vec<_> =
            (0..20).map(|_| expiring(World::act("unsafe-act", &waiting, &["answer"]), 1500)).collect();
        world.send_all(&flood).await;
        let expired = |r: &Received| {
            r.event.community == COMMUNITY && r.event.event_type.ends_with("command.rejected")
        };
        let rejected = world.mail.wait_for(15, "those that waited on the ladder", expired).await;
        assert!(rejected.iter().all(|told| problem_of(told) == "https://metagov.org/problems/expired"));
        puppet::open_gate(&tag);
        for command in &flood {
            world.answer(command).await;
        }
    }
}
