//! RabbitMQ, by lapin. (Skeleton.)
use super::*;
/// RabbitMQ.
#[derive(Debug)]
pub struct RabbitMq;
#[expect(clippy::unused_async, clippy::unused_self, missing_docs)]
impl RabbitMq {
    pub fn start(_: &Settings, _: CancellationToken) -> Result<Arc<Self>, BusError> {
        Err(BusError::Url { reason: "not yet".into() })
    }
    pub async fn publish(&self, _: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        Err(BusError::Closed)
    }
    pub fn consume(&self, _: Queue, _: u16) -> Deliveries {
        unreachable!()
    }
    pub async fn subscribe(&self, _: &[String]) -> Result<Subscription, BusError> {
        Err(BusError::Closed)
    }
    pub async fn apply_topology(&self, _: &[Name]) -> Result<(), BusError> {
        Err(BusError::Closed)
    }
    pub async fn dead_letters(
        &self,
        _: &mut (dyn FnMut(&DeadLetter) -> DeadVerdict + Send),
    ) -> Result<Vec<DeadLetter>, BusError> {
        Err(BusError::Closed)
    }
    pub fn stop_consuming(&self) {}
    pub fn is_connected(&self) -> bool {
        false
    }
    pub async fn wait_until_consuming(&self) {}
    pub async fn close(&self) {}
    pub async fn closed(&self) {}
}
