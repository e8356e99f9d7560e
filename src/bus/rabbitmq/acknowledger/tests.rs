use proptest::prelude::*;

use super::*;

fn acks(tags: &[u64]) -> impl Iterator<Item = Settlement> {
    tags.iter().map(|tag| Settlement::Ack(*tag))
}

#[test]
fn a_batch_in_order_is_one_frame() {
    let mut window = Window::default();
    assert_eq!(window.settle(acks(&[2, 1, 3])), [Frame::Ack { tag: 3, multiple: true }]);
    assert_eq!(window.settle(acks(&[4, 5])), [Frame::Ack { tag: 5, multiple: true }]);
}

#[test]
fn what_lies_behind_a_gap_is_acknowledged_alone_and_only_once() {
    let mut window = Window::default();
    assert_eq!(
        window.settle(acks(&[2, 4])),
        [Frame::Ack { tag: 2, multiple: false }, Frame::Ack { tag: 4, multiple: false }]
    );
    assert_eq!(window.settle(acks(&[1])), [Frame::Ack { tag: 1, multiple: true }]);
    assert_eq!(window.settle(acks(&[3, 5])), [Frame::Ack { tag: 5, multiple: true }]);
}

#[test]
fn a_returned_message_is_not_acknowledged_by_its_neighbours() {
    let mut window = Window::default();
    let settlements = [Settlement::Ack(1), Settlement::Return(2), Settlement::Ack(3)];
    assert_eq!(
        window.settle(settlements.into_iter()),
        [Frame::Return { tag: 2 }, Frame::Ack { tag: 3, multiple: true }]
    );
}

/// What RabbitMQ does with the frames: the open deliveries of a channel.
struct Broker {
    open: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    returned: BTreeSet<u64>,
}

impl Broker {
    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Ack { tag, multiple } => {
                assert!(self.open.contains(&tag), "{tag} is not open: the broker would close the channel");
                let meant: Vec<u64> =
                    self.open.iter().copied().filter(|open| *open == tag || (multiple && *open < tag)).collect();
                for tag in meant {
                    self.open.remove(&tag);
                    self.acknowledged.insert(tag);
                }
            }
            Frame::Return { tag } => {
                assert!(self.open.remove(&tag), "{tag} is not open: the broker would close the channel");
                self.returned.insert(tag);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_order_exactly_the_settled_deliveries_are_settled(
        order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
        settled in 0..=60_usize,
        returns in prop::collection::vec(prop::bool::weighted(0.1), 60),
        sizes in prop::collection::vec(1..=9_usize, 60),
    ) {
        let mut broker = Broker { open: (1..=60).collect(), acknowledged: BTreeSet::new(), returned: BTreeSet::new() };
        let mut window = Window::default();
        let settlements: Vec<Settlement> = order[..settled]
            .iter()
            .zip(&returns)
            .map(|(tag, returned)| if *returned { Settlement::Return(*tag) } else { Settlement::Ack(*tag) })
            .collect();
        let mut rest = settlements.as_slice();
        for size in sizes {
            let (round, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            for frame in window.settle(round.iter().copied()) {
                broker.take(frame);
            }
        }
        let expected = |wanted: fn(&Settlement) -> Option<u64>| settlements.iter().filter_map(wanted).collect::<BTreeSet<u64>>();
        prop_assert_eq!(&broker.acknowledged, &expected(|s| match s { Settlement::Ack(tag) => Some(*tag), Settlement::Return(_) => None }));
        prop_assert_eq!(&broker.returned, &expected(|s| match s { Settlement::Return(tag) => Some(*tag), Settlement::Ack(_) => None }));
    }
}
