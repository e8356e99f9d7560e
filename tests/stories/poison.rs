//! Poison: a command that kills its workers is found out and answered, and those beside it are not taken for it.

use serde_json::json;

use crate::support::{Command, Received, World, puppet, story, until, world::COMMUNITY};

/// The puppet with its one event told, so that no worker dies between storing and publishing it; and nothing runs.
async fn quiet_puppet(world: &mut World) {
    world.with_puppet().await;
    let announced = |r: &Received| r.event.event_type.contains(".platform.");
    world.mail.wait_for(1, "the first tick", announced).await;
    world.stop().await;
}

/// Begins `commands` with a worker that is killed once all of them are in hand; `calls` counts them in their turn.
async fn die_with_them_in_hand(world: &World, tag: &str, calls: usize) {
    let worker = world.start_mortal().await;
    until("they are in hand", || puppet::calls(tag) == calls).await;
    worker.kill().await;
}

story! {
    async fn a_command_that_kills_three_workers_is_set_aside_and_its_neighbours_are_not(world: World) {
        quiet_puppet(world).await;
        let (poisonous, innocent) = (format!("poison {}", world.prefix), format!("innocent {}", world.prefix));
        let poison = World::act("long-act", &poisonous, &["wait"]);
        let neighbours: Vec<_> = (0..5).map(|_| World::act("long-act", &innocent, &["wait"])).collect();
        world.send(&poison).await;
        for command in &neighbours {
            world.send(command).await;
        }
        for death in 1..=2 {
            let worker = world.start_mortal().await;
            until("all are in hand", || puppet::calls(&poisonous) == death && puppet::calls(&innocent) == 5 * death).await;
            worker.kill().await;
        }
        puppet::open_gate(&innocent);
        die_with_them_in_hand(world, &poisonous, 3).await;
        world.start_worker().await;
        world.start_scheduler().await;
        let told = world.answer(&poison).await;
        assert_eq!(told.event.event_type, "org.metagov.action.failed");
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/worker-crashed");
        assert_eq!(puppet::calls(&poisonous), 3, "it is not handled again");
        for command in &neighbours {
            let told = world.answer(command).await;
            assert_eq!(told.event.event_type, "org.metagov.action.completed");
        }
        puppet::open_gate(&poisonous);
        world.send(&poison).await;
        let id = poison.id();
        let twice = world.mail.wait_for(2, "its answer again", |r| r.event.causationid.as_deref() == Some(&id)).await;
        assert_eq!(twice[0].event, twice[1].event, "however often it is asked");
        world.stop().await;
        let dead = world.dead_letters().await;
        assert_eq!(dead.len(), 1, "{dead:?}");
        assert_eq!(dead[0].1["x-metagov-reason"], "killed-its-worker");
        assert_eq!(world.rows().await.last(), Some(&("suspects", 0)), "nothing is held against anybody any more");
    }

    async fn a_start_that_kills_three_workers_fails_as_a_process(world: World) {
        quiet_puppet(world).await;
        let tag = format!("poisonous start {}", world.prefix);
        let parameters = json!({ "quorum": 1, "start": "wait", "tag": tag });
        let poison =
            Command::new("process.puppet.ballot.start", &json!({ "community": COMMUNITY, "parameters": parameters }));
        world.send(&poison).await;
        for death in 1..=3 {
            die_with_them_in_hand(world, &tag, death).await;
            // The lease of the dead has run out.
            world.sql("UPDATE inbox SET lease_until = created_at WHERE lease_until IS NOT NULL").await;
        }
        world.start_worker().await;
        let told = world.answer(&poison).await;
        assert_eq!(told.event.event_type, "org.metagov.process.failed");
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/worker-crashed");
        world.stop().await;
        assert_eq!(world.dead_letters().await.len(), 1);
    }

    async fn a_lost_connection_is_no_death(world: World) {
        quiet_puppet(world).await;
        let tag = format!("disconnected {}", world.prefix);
        let command = World::act("long-act", &tag, &["wait"]);
        world.send(&command).await;
        let mut alive = Vec::new();
        for times in 1..=4 {
            let worker = world.start_mortal().await;
            until("it is in hand", || puppet::calls(&tag) == times).await;
            worker.disconnect().await;
            alive.push(worker);
        }
        puppet::open_gate(&tag);
        world.start_worker().await;
        let told = world.answer(&command).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed", "{:?}", told.event.data);
        for worker in alive {
            worker.kill().await;
        }
    }
}
