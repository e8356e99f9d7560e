//! The socket. (Skeleton.)
use super::*;
/// Client.
#[derive(Debug)]
pub struct Client;
#[expect(clippy::unused_async, clippy::unused_self, missing_docs)]
impl Client {
    pub async fn connect(_: SocketAddr, _: SecretString) -> Result<Self, BusError> {
        Err(BusError::Closed)
    }
    pub async fn publish(&self, _: Vec<Outgoing>) -> Result<Vec<Published>, BusError> {
        Err(BusError::Closed)
    }
    pub fn consume(&self) -> Deliveries {
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
}
pub(super) async fn serve(_: &Bus, _: TcpListener, _: SecretString) -> Result<(), BusError> {
    Err(BusError::Closed)
}
