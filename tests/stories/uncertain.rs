//! Uncertain runs: an operator looks at the platform and decides, with `metagov uncertain`.

use metagov::store::AttemptStatus;
use metagov_sdk::contract::{MessageId, event::derive_uuid};
use serde_json::{Value, json};

use crate::support::{Command, Received, World, poster, story, until, world::COMMUNITY};

/// The uncertain runs that the command line lists.
async fn listed(world: &World, filter: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) = world.metagov(&[&["uncertain", "list", "--json"], filter].concat()).await;
    assert_eq!(code, 0, "{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).expect("one object for each line")).collect()
}

/// What one of them looks like.
async fn shown(world: &World, id: &str) -> Value {
    let (code, stdout, stderr) = world.metagov(&["uncertain", "show", id, "--json"]).await;
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("one object")
}

/// An unsafe action that has posted something when its worker dies.
async fn die(world: &mut World, tag: &str) -> Command {
    world.with_plugins(&json!([{ "name": "poster", "config": {} }])).await;
    let mut command = World::post("unsafe-post", tag, &[], &["hang", "answer"]);
    command.properties.correlation_id = Some(tag.to_owned());
    world.send(&command).await;
    until("the notice is being pinned", || poster::seen(tag, "pin") == 1).await;
    world.crash().await;
    world.run_out(&command).await;
    world.start_worker().await;
    let told = world.answer(&command).await;
    assert_eq!(told.event.event_type, "org.metagov.action.uncertain", "its steps do not say what the hung one did");
    command
}

story! {
    async fn what_is_run_again_runs_once_from_where_it_stopped_and_its_driver_recognises_it(world: World) {
        let tag = format!("again {}", world.prefix);
        let command = die(world, &tag).await;
        let runs = listed(world, &["-c", COMMUNITY, "--plugin", "poster", "--since", "1h"]).await;
        assert_eq!(runs.len(), 1, "{runs:?}");
        assert_eq!(runs[0]["message_id"], json!(command.id()));
        for other in [&["--plugin", "puppet"], &["--since", "0s"]] {
            assert!(listed(world, other).await.is_empty(), "{other:?}");
        }
        let id = runs[0]["id"].as_str().expect("an id").to_owned();
        let run = shown(world, &id).await;
        assert_eq!(run["steps"], json!({ "post": format!("{tag} post #1") }));
        assert_eq!(run["command"]["parameters"]["tag"], json!(tag));
        assert_eq!(run["decision"], Value::Null);

        let (code, stdout, stderr) = world.metagov(&["uncertain", "run-again", &id, "--by", "ada"]).await;
        assert_eq!(code, 0, "{stderr}");
        let again = stdout.trim().to_owned();
        let outcome = |r: &Received| r.event.causationid.as_deref() == Some(&again);
        let told = world.mail.wait_for(1, "the outcome of the second run", outcome).await.remove(0);
        assert_eq!(told.event.event_type, "org.metagov.action.completed", "{:?}", told.event.data);
        assert_eq!(told.event.data["output"], json!(format!("{tag} post #1, {tag} pin #2")));
        assert_eq!(told.event.correlationid.as_deref(), Some(tag.as_str()));
        assert!(listed(world, &[]).await.is_empty());

        for second in ["run-again", "mark-done"] {
            let (code, _, stderr) = world.metagov(&["uncertain", second, &id]).await;
            assert_eq!(code, 1, "{second}");
            assert!(stderr.contains("decided on before: run again, by ada"), "{stderr}");
        }

        // As if the program had ended before it could note that the command is out.
        world.sql("UPDATE uncertain_runs SET resolved_at = NULL").await;
        assert_eq!(listed(world, &[]).await.len(), 1, "what was not carried out is not forgotten");
        let (code, _, stderr) = world.metagov(&["uncertain", "mark-done", &id]).await;
        assert!(code == 1 && stderr.contains("to be run again"), "{stderr}");
        let (code, stdout, stderr) = world.metagov(&["uncertain", "run-again", &id]).await;
        assert_eq!((code, stdout.trim()), (0, again.as_str()), "{stderr}");
        let twice = world.mail.wait_for(2, "the same outcome once more", outcome).await;
        assert_eq!(twice[0].event.id, twice[1].event.id);
        assert_eq!((poster::seen(&tag, "post"), poster::seen(&tag, "pin")), (1, 2));
    }

    async fn what_is_marked_as_done_counts_as_completed_and_is_never_run(world: World) {
        let tag = format!("done {}", world.prefix);
        let command = die(world, &tag).await;
        let id = listed(world, &[]).await[0]["id"].as_str().expect("an id").to_owned();
        let decision = ["--by", "ada", "--note", "it is pinned", "--output", "{\"pinned\": 7}"];
        let (code, _, stderr) = world.metagov(&[&["uncertain", "mark-done", &id], &decision[..]].concat()).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(listed(world, &[]).await.is_empty());
        let run = shown(world, &id).await;
        assert_eq!((&run["decision"]["decision"], &run["decision"]["by"]), (&json!("done"), &json!("ada")));
        assert_eq!((&run["decision"]["note"], &run["decision"]["output"]), (&json!("it is pinned"), &json!({ "pinned": 7 })));
        assert_eq!(run["steps"], json!({}));
        let message_id: MessageId = command.id().parse().expect("it is a key");
        let attempts = world.store.attempts(&World::community(), &message_id).await.expect("the database answers");
        assert_eq!(attempts.map(|attempts| attempts.status), Some(AttemptStatus::Completed));

        for second in ["run-again", "mark-done"] {
            let (code, _, stderr) = world.metagov(&["uncertain", second, &id]).await;
            assert_eq!(code, 1, "{second}");
            assert!(stderr.contains("decided on before: marked as done, by ada"), "{stderr}");
        }
        // The command itself is finished: its driver gets the outcome that it had.
        world.send(&command).await;
        let same = |r: &Received| r.event.causationid == Some(command.id());
        let told = world.mail.wait_for(2, "the stored outcome once more", same).await;
        assert_eq!((&told[1].event.id, &told[1].event.event_type), (&told[0].event.id, &told[0].event.event_type));
        assert_eq!((poster::seen(&tag, "post"), poster::seen(&tag, "pin")), (1, 1));
    }

    async fn what_is_not_uncertain_cannot_be_decided_on(world: World) {
        world.with_plugins(&json!([{ "name": "poster", "config": {} }])).await;
        let command = World::post("unsafe-post", &format!("fine {}", world.prefix), &[], &[]);
        world.ask(&command).await;
        let completed = derive_uuid(&["action-run", COMMUNITY, &command.id()]).to_string();
        for decide in ["run-again", "mark-done"] {
            let (code, _, stderr) = world.metagov(&["uncertain", decide, &completed]).await;
            assert_eq!(code, 1, "{decide}");
            assert!(stderr.contains("is 'completed', not uncertain"), "{stderr}");
            let (code, _, stderr) = world.metagov(&["uncertain", decide, "00000000-0000-0000-0000-000000000000"]).await;
            assert!(code == 3 && stderr.contains("there is no run"), "{stderr}");
        }
        let (code, _, stderr) = world.metagov(&["uncertain", "show", &completed]).await;
        assert!(code == 3 && stderr.contains("there is no run"), "{stderr}");
        let (code, _, _) = world.metagov(&["uncertain", "list", "-c", "absent"]).await;
        assert_eq!(code, 3);
    }
}
