//! What is among the dead letters of a service.
//!
//! Up: scenarios that count them. Down: the service's own bus.

use std::collections::HashSet;

use metagov::bus::{DeadLetter, DeadVerdict};

use crate::{
    driver::Command,
    rig::{Rig, Service, connect},
};

/// All of them; they stay where they are.
pub(crate) async fn dead_letters(rig: &Rig, service: &Service) -> Vec<DeadLetter> {
    let bus = connect(&rig.broker.url, &service.prefix).await;
    let dead = bus.dead_letters(&mut |_| DeadVerdict::Keep).await.expect("the dead letters can be read");
    bus.close().await;
    dead
}

/// How many of these commands were set aside for having killed their workers, and how many other letters there are.
pub(crate) async fn convicted(rig: &Rig, service: &Service, poison: &[Command]) -> (usize, usize) {
    let poisonous: HashSet<_> = poison.iter().map(|command| command.id.as_str()).collect();
    let dead = dead_letters(rig, service).await;
    let of_poison = dead.iter().filter(|letter| poisonous.contains(letter.id().as_str()));
    let convicted = of_poison.filter(|letter| letter.reason() == Some("killed-its-worker")).count();
    (convicted, dead.len() - convicted)
}
