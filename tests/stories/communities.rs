//! Communities and plugins: applied, enabled, reconfigured, disabled, deleted.

use metagov_sdk::schema::MASK;
use serde_json::json;

use crate::support::{Received, World, story, world::COMMUNITY};

story! {
    async fn a_community_is_applied_and_its_plugins_are_made_exactly_so(world: World) {
        let told = world
            .tell(
                "community.apply",
                &json!({
                    "slug": COMMUNITY,
                    "readable_name": "Acme",
                    "plugins": [
                        { "name": "puppet", "config": { "secret": "hunter2" } },
                        { "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }
                    ]
                }),
            )
            .await;
        assert_eq!(told.message.routing_key, "acme.core.community.applied");
        assert_eq!(told.event.source, "/communities/acme");
        assert_eq!(told.event.data["readable_name"], "Acme");
        assert_eq!(told.event.data["plugins"][0]["config"]["secret"], MASK);
        assert_eq!(told.event.data["plugins"][1]["config"]["default_low"], 1);
        let enabled = |r: &Received| r.event.event_type == "org.metagov.plugin.enabled";
        assert_eq!(world.mail.wait_for(2, "both plugins", enabled).await.len(), 2);

        // Without `plugins` they are left alone.
        let told = world.tell("community.apply", &json!({ "slug": COMMUNITY, "readable_name": "Acme Inc" })).await;
        assert_eq!(told.event.data["plugins"].as_array().expect("a list").len(), 2);

        let one = json!({ "slug": COMMUNITY, "plugins": [{ "name": "puppet", "config": {} }] });
        let told = world.tell("community.apply", &one).await;
        assert_eq!(told.event.data["plugins"].as_array().expect("a list").len(), 1);
        assert_eq!(told.event.data["readable_name"], "Acme Inc");
        for kind in ["plugin.updated", "plugin.disabled"] {
            let wanted = format!("org.metagov.{kind}");
            world.mail.wait_for(1, kind, |r| r.event.event_type == wanted).await;
        }
        for received in world.mail.all() {
            assert!(!received.event.data.to_string().contains("hunter2"), "a secret was told: {:?}", received.event);
        }
    }

    async fn a_plugin_is_enabled_with_its_defaults_filled_in(world: World) {
        world.tell("community.apply", &json!({ "slug": COMMUNITY })).await;
        let config = json!({ "my_required_config": "hunter2" });
        let told = world.tell("plugin.example-plugin.enable", &json!({ "community": COMMUNITY, "config": config })).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.enabled");
        assert_eq!(told.message.routing_key, "acme.example-plugin.plugin.enabled");
        assert_eq!(told.event.source, "/communities/acme/plugins/example-plugin");
        assert_eq!(told.event.data["config"]["my_optional_config_2"], 100);
        assert_eq!(told.event.data["config"]["my_required_config"], MASK);
        let told = world.tell("plugin.example-plugin.enable", &json!({ "community": "nobody", "config": config })).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/unknown-community");
    }

    async fn a_changed_config_keeps_state_and_open_processes(world: World) {
        world.with_puppet().await;
        let told = world
            .tell(
                "process.puppet.ballot.start",
                &json!({ "community": COMMUNITY, "parameters": { "quorum": 1, "closable": true } }),
            )
            .await;
        let record = World::record(&told);
        let body = json!({ "community": COMMUNITY, "config": { "secret": "s3cret" } });
        let told = world.tell("plugin.puppet.enable", &body).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.updated");
        assert_eq!(told.message.routing_key, "acme.puppet.plugin.updated");
        let close = json!({ "community": COMMUNITY, "process_id": record.id });
        let told = world.tell("process.puppet.ballot.close", &close).await;
        assert_eq!(told.event.event_type, "org.metagov.process.completed");
    }

    async fn a_disabled_plugin_leaves_no_open_process_behind(world: World) {
        world.with_puppet().await;
        let start = json!({ "community": COMMUNITY, "parameters": { "quorum": 1 } });
        let record = World::record(&world.tell("process.puppet.ballot.start", &start).await);
        world.tell("plugin.puppet.disable", &json!({ "community": COMMUNITY })).await;
        let disabled = |r: &Received| r.event.event_type == "org.metagov.plugin.disabled";
        world.mail.wait_for(1, "plugin.disabled", disabled).await;
        let failed = |r: &Received| r.event.event_type == "org.metagov.process.failed";
        let told = world.mail.wait_for(1, "process.failed", failed).await.remove(0);
        let ended = World::record(&told);
        assert_eq!(ended.id, record.id);
        assert_eq!(ended.problem.expect("why").kind.slug(), "plugin-disabled");
        let told = world.ask(&World::act("pure-act", "x", &[])).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/plugin-not-enabled");
    }

    async fn a_plugin_that_cannot_let_go_is_disabled_all_the_same(world: World) {
        world.with_plugins(&json!([{ "name": "puppet", "config": { "stuck": true } }])).await;
        let told = world.tell("plugin.puppet.disable", &json!({ "community": COMMUNITY })).await;
        assert_eq!(told.event.event_type, "org.metagov.plugin.disabled");
        assert!(world.store.instances(&World::community()).await.expect("it answers").is_empty());
    }

    async fn a_deleted_community_is_gone(world: World) {
        world.with_puppet().await;
        let told = world.tell("community.delete", &json!({ "slug": COMMUNITY })).await;
        assert_eq!(told.event.event_type, "org.metagov.community.deleted");
        assert_eq!(world.store.community(&World::community()).await.expect("it answers").map(|c| c.slug), None);
        let told = world.ask(&World::act("pure-act", "x", &[])).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/unknown-community");
        let told = world.tell("community.delete", &json!({ "slug": COMMUNITY })).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/unknown-community");
    }

    async fn a_plugin_that_refuses_its_config_changes_nothing(world: World) {
        world.with_puppet().await;
        let body = json!({
            "slug": COMMUNITY,
            "plugins": [
                { "name": "puppet", "config": { "team": "T1", "refuse": true } },
                { "name": "randomness", "config": { "default_low": 1, "default_high": 7 } }
            ]
        });
        let told = world.tell("community.apply", &body).await;
        assert_eq!(told.event.event_type, "org.metagov.command.rejected");
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/invalid-config");
        let plugins = world.store.instances(&World::community()).await.expect("it answers");
        assert_eq!(plugins.len(), 1, "the old set stands");
        assert_eq!(plugins[0].platform_id, None);
    }

    async fn several_instances_are_told_apart_by_their_platform_id(world: World) {
        let plugins = json!([
            { "name": "puppet", "config": { "team": "T1" } },
            { "name": "puppet", "config": { "team": "T2" } }
        ]);
        world.with_plugins(&plugins).await;
        let told = world.ask(&World::act("pure-act", "x", &[])).await;
        assert_eq!(told.event.data["problem"]["type"], "https://metagov.org/problems/ambiguous-instance");
        let parameters = json!({ "tag": "one of two", "script": [] });
        let body = json!({ "community": COMMUNITY, "community_platform_id": "T2", "parameters": parameters });
        let told = world.tell("action.puppet.pure-act", &body).await;
        assert_eq!(told.event.event_type, "org.metagov.action.completed");
    }
}
