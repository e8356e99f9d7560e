use std::{collections::BTreeSet, slice::from_ref};

use proptest::prelude::*;

use super::*;

/// A counter and its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counter {
    version: i64,
    count: u32,
}

impl Versioned for Counter {
    fn set_version(&mut self, version: i64) {
        self.version = version;
    }
}

type Counters = Rows<Counter, u32>;

fn row(number: u128) -> RowKey {
    RowKey::Instance("a".parse().expect("a slug"), Uuid::from_u128(number))
}

/// A command that counts in these rows, which the database has in their first version with nothing counted.
fn counts(rows: &Counters, keys: &[RowKey], member: u32, placement: Placement) -> Joining<Counter, u32> {
    let read = |key: &RowKey| rows.read(key);
    let changes = keys.iter().map(|key| {
        let now = read(key).1.unwrap_or(Counter { version: 1, count: 0 });
        let contents = Counter { version: now.version + 1, count: now.count + 1 };
        Change { row: key.clone(), read: now.version, contents }
    });
    Joining {
        changes: changes.collect(),
        rows: keys.iter().map(|key| (key.clone(), read(key).0)).collect(),
        message_id: None,
        placement,
        member,
    }
}

fn join(rows: &mut Counters, keys: &[RowKey], member: u32) -> Option<Ready<Counter, u32>> {
    let joining = counts(rows, keys, member, Placement::Shared);
    rows.join(joining).expect("nothing was dropped")
}

fn entered(keys: &[RowKey]) -> Counters {
    let mut rows = Rows::new();
    for key in keys {
        rows.enter(key);
    }
    rows
}

fn changed(ready: &Ready<Counter, u32>, key: &RowKey) -> (i64, i64, u32) {
    let Changed { expected, contents } = ready.changed[key];
    (expected, contents.version, contents.count)
}

#[test]
fn while_the_first_command_is_written_the_next_ones_gather_and_change_the_row_once() {
    let row = row(1);
    let mut rows = entered(from_ref(&row));
    let first = join(&mut rows, from_ref(&row), 1).expect("nothing is in its way");
    assert_eq!((&first.members[..], changed(&first, &row)), (&[1][..], (1, 2, 1)));
    for member in 2..=4 {
        assert!(join(&mut rows, from_ref(&row), member).is_none(), "it waits for the first");
    }
    let next = rows.written(first.group).pop().expect("it is the first now");
    assert_eq!((&next.members[..], changed(&next, &row)), (&[2, 3, 4][..], (2, 3, 4)));
    assert!(rows.read(&row).1.is_some(), "until it is written, memory knows");
    assert!(rows.written(next.group).is_empty());
    assert_eq!(rows.read(&row).1, None, "now the database does");
    rows.leave(&row);
    assert!(!rows.contains(&row) && rows.groups.is_empty(), "nothing is left behind");
}

#[test]
fn a_dropped_group_takes_everything_with_it_that_was_built_on_it() {
    let row = row(1);
    let mut rows = entered(from_ref(&row));
    let first = join(&mut rows, from_ref(&row), 1).expect("nothing is in its way");
    join(&mut rows, from_ref(&row), 2);
    let under_way = counts(&rows, from_ref(&row), 3, Placement::Shared);
    assert_eq!(rows.dropped(first.group), [2]);
    assert_eq!(rows.join(under_way).err(), Some(3), "it has read what will never be");
    let fresh = join(&mut rows, from_ref(&row), 3).expect("nothing is in its way");
    assert_eq!(changed(&fresh, &row), (1, 2, 1), "it starts from the database again");
}

#[test]
fn two_commands_with_one_key_are_never_in_one_group() {
    let row = row(1);
    let mut rows = entered(from_ref(&row));
    let first = join(&mut rows, from_ref(&row), 1).expect("nothing is in its way");
    for member in [2, 3] {
        let mut joining = counts(&rows, from_ref(&row), member, Placement::Shared);
        joining.message_id = Some("k".parse().expect("a key"));
        assert!(rows.join(joining).expect("nothing was dropped").is_none());
    }
    let second = rows.written(first.group).pop().expect("it is the first now");
    assert_eq!(second.members, [2]);
    assert_eq!(rows.written(second.group).pop().expect("it is the first now").members, [3]);
}

#[test]
fn nobody_joins_behind_a_command_whose_driver_waits_for_its_event_and_nobody_at_all_one_that_was_refused() {
    let row = row(1);
    let mut rows = entered(from_ref(&row));
    let mut ready = join(&mut rows, from_ref(&row), 0).expect("nothing is in its way");
    let members = [(1, Placement::Shared), (2, Placement::Last), (3, Placement::Shared), (4, Placement::Alone)];
    for (member, placement) in members.into_iter().chain([(5, Placement::Shared)]) {
        let joining = counts(&rows, from_ref(&row), member, placement);
        assert!(rows.join(joining).expect("nothing was dropped").is_none());
    }
    let mut groups = Vec::new();
    while let Some(next) = rows.written(ready.group).pop() {
        groups.push(next.members.clone());
        ready = next;
    }
    assert_eq!(groups, [vec![1, 2], vec![3], vec![4], vec![5]]);
}

#[test]
fn a_group_over_several_rows_is_written_when_it_is_the_first_at_all_of_them() {
    let (left, right) = (row(1), row(2));
    let mut rows = entered(&[left.clone(), right.clone()]);
    let of_left = join(&mut rows, from_ref(&left), 1).expect("nothing is in its way");
    let of_right = join(&mut rows, from_ref(&right), 2).expect("nothing is in its way");
    assert!(join(&mut rows, &[left.clone(), right.clone()], 3).is_none());
    assert!(rows.written(of_left.group).is_empty(), "the other row is not free yet");
    let both = rows.written(of_right.group).pop().expect("now it is");
    assert_eq!((changed(&both, &left), changed(&both, &right)), ((2, 3, 2), (2, 3, 2)));
}

#[test]
fn whoever_writes_nothing_learns_whether_what_it_has_read_is_written() {
    let row = row(1);
    let mut rows = entered(from_ref(&row));
    assert!(rows.witness(&[(row.clone(), 0)]).is_empty(), "the database is always right");
    for is_written in [true, false] {
        let generation = rows.read(&row).0;
        let group = join(&mut rows, from_ref(&row), 1).expect("nothing is in its way").group;
        let mut witness = rows.witness(&[(row.clone(), generation)]).pop().expect("there is something to wait for");
        assert!(witness.try_recv().is_err(), "nobody knows yet");
        if is_written {
            assert!(rows.written(group).is_empty());
        } else {
            assert!(rows.dropped(group).is_empty());
        }
        assert_eq!(witness.try_recv(), Ok(is_written));
    }
    let mut witness = rows.witness(&[(row, 0)]).pop().expect("there is an answer");
    assert_eq!(witness.try_recv(), Ok(false), "what it has read was dropped meanwhile");
}

#[derive(Debug, Clone)]
enum Event {
    /// A command counts in these rows.
    Command(BTreeSet<u128>),
    /// The database answers for one of the groups that are being written.
    Answer(usize),
    /// Another worker counts in a row.
    Stranger(u128),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let rows = proptest::collection::btree_set(0_u128..3, 1..=3);
    let event = prop_oneof![
        4 => rows.prop_map(Event::Command),
        3 => (0_usize..4).prop_map(Event::Answer),
        1 => (0_u128..3).prop_map(Event::Stranger),
    ];
    proptest::collection::vec(event, 1..80)
}

proptest! {
    /// Whatever order things happen in, each command counts exactly once in each of its rows.
    #[test]
    fn every_command_counts_once(events in events()) {
        let mut rows: Counters = entered(&[row(0), row(1), row(2)]);
        let mut database = [Counter { version: 1, count: 0 }; 3];
        let (mut commands, mut strangers) = (Vec::<BTreeSet<u128>>::new(), [0_u32; 3]);
        let (mut writing, mut again) = (Vec::<Ready<Counter, u32>>::new(), Vec::<u32>::new());
        let place = |key: &RowKey| (0..3).find(|number| row(*number as u128) == *key).expect("one of the three");

        let run = |rows: &mut Counters, database: &[Counter; 3], command: &BTreeSet<u128>, member: u32| {
            let changes = command.iter().map(|number| {
                let now = rows.read(&row(*number)).1.unwrap_or(database[*number as usize]);
                let contents = Counter { version: now.version + 1, count: now.count + 1 };
                Change { row: row(*number), read: now.version, contents }
            }).collect();
            let read = command.iter().map(|number| (row(*number), rows.read(&row(*number)).0)).collect();
            let joining = Joining { rows: read, changes, message_id: None, placement: Placement::Shared, member };
            rows.join(joining).expect("it was read at once")
        };
        let answer = |rows: &mut Counters, database: &mut [Counter; 3], ready: Ready<Counter, u32>| {
            if ready.changed.iter().all(|(key, changed)| database[place(key)].version == changed.expected) {
                for (key, changed) in &ready.changed {
                    database[place(key)] = changed.contents;
                }
                (rows.written(ready.group), Vec::new())
            } else {
                let behind = rows.dropped(ready.group);
                (Vec::new(), ready.members.into_iter().chain(behind).collect())
            }
        };

        for event in events {
            match event {
                Event::Command(command) => {
                    let member = u32::try_from(commands.len()).expect("a few");
                    writing.extend(run(&mut rows, &database, &command, member));
                    commands.push(command);
                }
                Event::Answer(which) if which < writing.len() => {
                    let (next, lost) = answer(&mut rows, &mut database, writing.remove(which));
                    writing.extend(next);
                    again.extend(lost);
                }
                Event::Answer(_) => {}
                Event::Stranger(number) => {
                    let row = &mut database[number as usize];
                    *row = Counter { version: row.version + 1, count: row.count + 1 };
                    strangers[number as usize] += 1;
                }
            }
        }
        while !(writing.is_empty() && again.is_empty()) {
            if let Some(member) = again.pop() {
                writing.extend(run(&mut rows, &database, &commands[member as usize], member));
            }
            if let Some(ready) = writing.pop() {
                let (next, lost) = answer(&mut rows, &mut database, ready);
                writing.extend(next);
                again.extend(lost);
            }
        }
        for number in 0..3 {
            let of_commands = commands.iter().filter(|command| command.contains(&(number as u128))).count();
            let of_all = u32::try_from(of_commands).expect("a few") + strangers[number];
            prop_assert_eq!(database[number].count, of_all, "row {}", number);
        }
        prop_assert!(rows.groups.is_empty());
    }
}
