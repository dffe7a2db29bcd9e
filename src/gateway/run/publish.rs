//! New peers on their way to everybody who follows them.

use crate::telemetry::observer::Observer;
use arc_swap::ArcSwap;
use std::sync::Arc;
use twill_datapath::route::View;

/// Somebody who wants to know the peers as they are.
pub(super) trait Subscriber: Send + Sync {
    /// Takes the new view.
    fn follow(&mut self, view: &Arc<View>);
}

/// Everybody who is told of new peers, in the order in which they are told.
pub(super) struct Publisher(Vec<Box<dyn Subscriber>>);

impl Publisher {
    pub(super) fn new(subscribers: Vec<Box<dyn Subscriber>>) -> Self {
        Self(subscribers)
    }

    /// Adds one who is told after the others.
    pub(super) fn add(&mut self, subscriber: Box<dyn Subscriber>) {
        self.0.push(subscriber);
    }

    pub(super) fn publish(&mut self, view: &Arc<View>) {
        for subscriber in &mut self.0 {
            subscriber.follow(view);
        }
    }
}

/// The observer counts by peer.
impl Subscriber for Arc<Observer> {
    fn follow(&mut self, view: &Arc<View>) {
        Observer::follow(self, view);
    }
}

/// The workers' end: they look peers up in the new view from their next turn on. The old one is kept
/// until none of them has it any more, because to free a large one takes longer than a turn.
pub(super) struct ToWorkers {
    views: Arc<ArcSwap<View>>,
    /// Views that were published before; workers may still look at them.
    retired: Vec<Arc<View>>,
}

impl ToWorkers {
    pub(super) fn new(views: Arc<ArcSwap<View>>) -> Self {
        Self { views, retired: Vec::new() }
    }
}

impl Subscriber for ToWorkers {
    fn follow(&mut self, view: &Arc<View>) {
        self.retired.retain(|view| Arc::strong_count(view) > 1);
        self.retired.push(self.views.swap(Arc::clone(view)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Says its number when it is told.
    struct Numbered(u8, mpsc::Sender<u8>);

    impl Subscriber for Numbered {
        fn follow(&mut self, _: &Arc<View>) {
            self.1.send(self.0).unwrap();
        }
    }

    #[test]
    fn subscribers_are_told_in_their_order() {
        let (told, order) = mpsc::channel();
        let subscriber = |number| Box::new(Numbered(number, told.clone())) as Box<dyn Subscriber>;
        let mut publisher = Publisher::new(vec![subscriber(1), subscriber(2)]);

        publisher.publish(&Arc::default());
        publisher.publish(&Arc::default());

        assert_eq!(order.try_iter().collect::<Vec<_>>(), [1, 2, 1, 2]);
    }

    #[test]
    fn a_view_is_kept_for_as_long_as_a_worker_looks_at_it() {
        let views = Arc::new(ArcSwap::from_pointee(View::default()));
        let mut workers = ToWorkers::new(Arc::clone(&views));
        let in_use = views.load_full();

        workers.follow(&Arc::default());
        workers.follow(&Arc::default());
        assert_eq!(Arc::strong_count(&in_use), 2, "a worker does not free it");
        drop(in_use);
        workers.follow(&Arc::default());

        assert_eq!(workers.retired.len(), 1, "only the last one may still be in use");
    }
}
