use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { slots: 8, cap: 6, suspects: 3, window: 24, most: 18 };

fn community(number: u8) -> Owner {
    Owner::Community(CommunitySlug::new(&format!("c{number}")).expect("it is a slug"))
}

fn owner(number: u8) -> Owner {
    if number == 0 { Owner::Suspects } else { community(number) }
}

/// Starts whatever may run.
fn start_all<T>(shares: &mut Shares<T>) -> Vec<(Owner, T)> {
    let start = || match shares.next(|_| Ok(())) {
        Next::Start(owner, item) => Some((owner, item)),
        Next::Wait(_) | Next::Nobody => None,
    };
    std::iter::from_fn(start).collect()
}

#[test]
fn a_busy_community_alone_reaches_its_cap_and_no_more() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    for item in 0..20 {
        assert!(shares.offer(community(1), 0, item, now).is_none(), "alone it is not throttled");
    }
    let started: Vec<_> = start_all(&mut shares).into_iter().map(|(_, item)| item).collect();
    assert_eq!(started, [0, 1, 2, 3, 4, 5], "in the order of arrival");
}

#[test]
fn whoever_comes_anew_finds_a_free_handler_however_many_are_busy() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    for number in 1..=3 {
        for _ in 0..6 {
            shares.offer(community(number), 0, (), now);
        }
    }
    start_all(&mut shares);
    shares.offer(community(9), 0, (), now);
    let started = start_all(&mut shares);
    assert!(matches!(&started[..], [(anew, ())] if *anew == community(9)), "{started:?}");
}

#[test]
fn communities_take_turns() {
    let limits = Limits { slots: 1, cap: 1, ..LIMITS };
    let (mut shares, now) = (Shares::new(limits), Instant::now());
    for number in [1, 1, 1, 2, 2, 3] {
        shares.offer(community(number), 0, (), now);
    }
    let mut turns = Vec::new();
    while let Next::Start(owner, ()) = shares.next(|_| Ok(())) {
        shares.done(&owner, now);
        turns.push(owner);
    }
    assert_eq!(turns, [1, 2, 3, 1, 2, 1].map(community));
}

#[test]
fn a_flood_beside_others_gives_back_what_came_last_and_was_parked_least() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    shares.offer(community(2), 0, 1000, now);
    for item in 0..18 {
        assert!(shares.offer(community(1), 0, item, now).is_none());
    }
    let back = shares.offer(community(1), 0, 18, now).expect("it is over its share");
    assert_eq!((back.items, back.begins), (vec![18], true));
    let back = shares.offer(community(1), 1, 19, now).expect("it is over its share");
    assert_eq!((back.items, back.begins), (vec![17], false), "what was parked before goes ahead");
    let first = start_all(&mut shares).into_iter().find(|(owner, _)| *owner == community(1));
    assert_eq!(first, Some((community(1), 19)));
}

#[test]
fn a_community_alone_makes_room_only_where_nothing_moves() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    for item in 0..24 {
        assert!(shares.offer(community(1), 0, item, now).is_none());
    }
    start_all(&mut shares);
    assert!(shares.look_after(now + PATIENCE_ALONE / 2).is_none());
    let later = now + PATIENCE_ALONE;
    let back = shares.look_after(later).expect("somebody may stand behind it");
    assert_eq!(back.items, [23, 22, 21, 20, 19, 18]);
    assert!(shares.offer(community(1), 0, 24, later).is_some(), "a slow one does not fill the window again");
}

#[test]
fn who_is_gone_is_forgotten() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    for number in 1..=200 {
        shares.offer(community(number), 0, (), now);
        for (owner, ()) in start_all(&mut shares) {
            shares.done(&owner, now);
        }
    }
    shares.look_after(now + LATELY);
    assert_eq!(shares.lanes.len(), 0);
    assert_eq!((shares.held, shares.running), (0, 0));
}

#[test]
fn a_rate_holds_back_its_owner_only() {
    let (mut shares, now) = (Shares::new(LIMITS), Instant::now());
    shares.offer(community(1), 0, (), now);
    shares.offer(community(2), 0, (), now);
    let wait = Duration::from_millis(70);
    let mut allowed = |owner: &Owner| if *owner == community(1) { Err(wait) } else { Ok(()) };
    assert!(matches!(shares.next(&mut allowed), Next::Start(owner, ()) if owner == community(2)));
    assert!(matches!(shares.next(&mut allowed), Next::Wait(told) if told == wait));
}

#[derive(Debug, Clone)]
enum Step {
    Offer { owner: u8, parked: u32 },
    Start,
    Done(u8),
    LookAfter { later: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6_u8, 0..4_u32).prop_map(|(owner, parked)| Step::Offer { owner, parked }),
        3 => Just(Step::Start),
        3 => (0..6_u8).prop_map(Step::Done),
        1 => (0..3000_u64).prop_map(|later| Step::LookAfter { later }),
    ];
    proptest::collection::vec(step, 0..400)
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..12_usize, 1..=100_usize).prop_map(|(slots, percent)| {
        let part = |of: usize| (of * percent / 100).max(1);
        let window = slots + slots / 2;
        Limits { slots, cap: part(slots), suspects: 3.min(slots), window, most: part(window) }
    })
}

proptest! {
    #[test]
    fn nothing_is_lost_nobody_is_over_the_cap_and_no_handler_idles_for_nothing(limits in limits(), steps in steps()) {
        let mut shares = Shares::new(limits);
        let mut now = Instant::now();
        let (mut offered, mut back, mut begun) = (0_usize, 0_usize, 0_usize);
        let mut running: HashMap<Owner, usize> = HashMap::new();
        for step in steps {
            match step {
                Step::Offer { owner: number, parked } => {
                    offered += 1;
                    back += shares.offer(owner(number), parked, offered, now).map_or(0, |back| back.items.len());
                }
                Step::Start => {
                    for (owner, _) in start_all(&mut shares) {
                        begun += 1;
                        *running.entry(owner).or_default() += 1;
                    }
                    let all: usize = running.values().sum();
                    prop_assert!(all <= limits.slots);
                    for (owner, running) in &running {
                        let most = if *owner == Owner::Suspects { limits.suspects } else { limits.cap };
                        prop_assert!(*running <= most);
                    }
                    for (owner, lane) in shares.lanes.iter().filter(|(_, lane)| !lane.waiting.is_empty()) {
                        prop_assert!(
                            all == limits.slots || !limits.may_run(owner, lane.running, all),
                            "a handler is free for {owner:?}"
                        );
                    }
                }
                Step::Done(number) => if let Some(count) = running.get_mut(&owner(number)).filter(|count| **count > 0) {
                    *count -= 1;
                    shares.done(&owner(number), now);
                },
                Step::LookAfter { later } => {
                    now += Duration::from_millis(later);
                    back += shares.look_after(now).map_or(0, |back| back.items.len());
                }
            }
        }
        // Nobody starves: with what runs ending, everything that waits comes to its turn.
        let mut rounds = 0;
        loop {
            for (owner, count) in running.drain() {
                (0..count).for_each(|_| shares.done(&owner, now));
            }
            let started = start_all(&mut shares);
            if started.is_empty() {
                break;
            }
            begun += started.len();
            for (owner, _) in started {
                *running.entry(owner).or_default() += 1;
            }
            rounds += 1;
            prop_assert!(rounds <= offered, "it goes on without end");
        }
        prop_assert_eq!(begun + back, offered, "each thing runs once or is given back once");
        prop_assert_eq!((shares.held, shares.running), (0, 0));
    }
}
