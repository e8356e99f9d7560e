//! The platform behind a plugin is busy, broken, slow or silent. More of it is told by the tests of the SDK's HTTP client.

use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    driver::quantile,
    platform::{Answer, RETRY_AFTER},
    rig::{COMMUNITY, Rig, Setup, Size},
    table::Row,
};

/// Busy for one community, broken and silent for another, slow for a third: each gets its outcomes, and the one whose
/// platform asks for patience is patient.
pub(crate) async fn t38(rig: &mut Rig, size: Size) -> Row {
    // So many that all of them find a handler: whoever waits for one waits for longer than the platform asked for.
    let count = size.of(250, 100);
    let communities: Vec<_> = ["busy", "broken", COMMUNITY].map(str::to_owned).to_vec();
    let settings = vec![("worker.deadline_seconds", "2".to_owned())];
    let mut service = rig.service(Setup { settings, communities, ..Setup::default() }).await;
    rig.platform.answer(Answer::Slow(Duration::from_millis(200)));
    rig.platform.answer_to("busy", Answer::Status(429));
    rig.platform.answer_to("broken", Answer::Status(500));
    let script = json!({ "deeds": ["succeed"], "calls": true });
    let commands_of = |name: &str| (0..count).map(|_| service.command_in(name, "keyed", &script)).collect::<Vec<_>>();
    let (busy, broken, slow) = (commands_of("busy"), commands_of("broken"), commands_of(COMMUNITY));
    let commands = [busy, broken, slow].concat();
    service.driver.send(&commands).await;
    let of_busy = || rig.platform.calls().values().filter(|calls| calls[0].community == "busy").count();
    let all_called = async {
        while of_busy() < count {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_mins(1), all_called).await.expect("every command reaches its platform");
    rig.platform.answer_to("busy", Answer::Ok);
    // From broken to silent: what is called now ends at its deadline.
    rig.platform.answer_to("broken", Answer::Hang);
    let tally = service.settle(&commands, &["action.completed", "action.failed"]).await;

    let calls = rig.platform.calls();
    let of = |name: &'static str| calls.values().filter(move |calls| calls[0].community == name);
    let mut pauses: Vec<_> =
        of("busy").flat_map(|calls| calls.windows(2).map(|pair| pair[1].at - pair[0].at)).collect();
    pauses.sort_unstable();
    let most = of("broken").map(Vec::len).max().unwrap_or(0);
    let completed = tally.kinds.get("action.completed").copied().unwrap_or(0);
    Row::new("T38", format!("platform busy (429), broken (500, then silent) and slow, for {count} commands each"))
        .counts(tally)
        .exactly("completed", completed, 2 * count)
        .at_least("pauses between calls", pauses.len(), count)
        .holds("none is shorter than Retry-After", pauses.first().is_some_and(|pause| *pause >= RETRY_AFTER))
        .within("median pause", quantile(&pauses, 500), RETRY_AFTER + Duration::from_secs(1))
        .at_most("calls of one command", most, 5)
}
