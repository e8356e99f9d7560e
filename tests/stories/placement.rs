//! Placement: a worker runs the plugins that it was started with, and nothing of the others.

use lapin::{Connection, ConnectionProperties, options::QueueDeleteOptions};
use serde_json::json;

use crate::support::{
    World, puppet, story, until,
    world::{COMMUNITY, required},
};

const REJECTED: &str = "org.metagov.command.rejected";
const UNKNOWN: &str = "https://metagov.org/problems/unknown-plugin";

/// Deletes the puppet's queue, so that commands for it reach the queue of what nobody wants.
async fn without_a_queue(world: &World) {
    let url = required("METAGOV_TEST_AMQP_URL");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    let queue = format!("{}.plugin.puppet", world.prefix);
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("it goes");
    connection.close(200, "done".into()).await.expect("it closes");
}

story! {
    async fn a_worker_without_a_plugin_runs_none_of_its_hooks_and_says_so(world: World) {
        world.with_puppet().await;
        world.stop().await;
        world.start_worker_of(&["poster"]).await;
        // The puppet's hook would refuse this in its own words.
        let config = json!({ "refuse": true, "team": "b" });
        let enable = json!({ "community": COMMUNITY, "config": config });
        let apply = json!({ "slug": "others", "plugins": [{ "name": "puppet", "config": config }] });
        let both = json!({ "slug": "others", "plugins": [
            { "name": "poster", "config": {} }, { "name": "puppet", "config": {} }
        ] });
        let delete = json!({ "slug": COMMUNITY });
        let asked = [("plugin.puppet.enable", enable), ("community.apply", apply), ("community.apply", both), ("community.delete", delete)];
        for (key, body) in asked {
            let answer = world.tell(key, &body).await;
            assert_eq!(answer.event.event_type, REJECTED, "{key}");
            assert_eq!(answer.event.data["problem"]["type"], UNKNOWN, "{key}: {}", answer.event.data);
        }
        let own = json!({ "slug": "others", "plugins": [{ "name": "poster", "config": {} }] });
        assert_eq!(world.tell("community.apply", &own).await.event.event_type, "org.metagov.community.applied");
    }

    async fn commands_find_the_worker_that_has_their_plugin(world: World) {
        world.stop().await;
        world.start_worker_of(&["poster"]).await;
        world.start_worker_of(&["puppet"]).await;
        for n in 0..6 {
            let (slug, plugin) = (format!("c{n}"), ["poster", "puppet"][n % 2]);
            let apply = json!({ "slug": slug, "plugins": [{ "name": plugin, "config": {} }] });
            let answer = world.tell("community.apply", &apply).await;
            assert_eq!(answer.event.event_type, "org.metagov.community.applied", "{}", answer.event.data);
        }
        let answer = world.tell("community.delete", &json!({ "slug": "c1" })).await;
        assert_eq!(answer.event.event_type, "org.metagov.community.deleted", "{}", answer.event.data);
    }

    async fn an_action_that_no_queue_wanted_is_run_by_a_worker_of_its_plugin_or_answered(world: World) {
        world.with_puppet().await;
        world.stop().await;
        without_a_queue(world).await;
        world.start_worker_of(&["poster"]).await;
        let tag = format!("nobody {}", world.prefix);
        let answer = world.ask(&World::act("unsafe-act", &tag, &["answer"])).await;
        assert_eq!((answer.event.event_type.as_str(), puppet::calls(&tag)), (REJECTED, 0), "{}", answer.event.data);
        assert_eq!(answer.event.data["problem"]["type"], UNKNOWN);

        let late = World::act("unsafe-act", &tag, &["answer"]);
        world.send(&late).await;
        world.start_worker_of(&["puppet"]).await;
        assert_eq!(world.answer(&late).await.event.event_type, "org.metagov.action.completed");
        until("it ran", || puppet::calls(&tag) == 1).await;
    }
}
