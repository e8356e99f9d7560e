//! Stories about the bus, told on a real RabbitMQ, in memory, and over the socket of `metagov dev`.

#[path = "bus/broker.rs"]
mod broker;
#[path = "bus/certificates.rs"]
mod certificates;
#[path = "bus/faults.rs"]
mod faults;
#[path = "bus/hostile.rs"]
mod hostile;
#[expect(dead_code, reason = "the fault rig uses the rest")]
#[path = "bus/proxy.rs"]
mod proxy;
#[path = "bus/rabbitmq.rs"]
mod rabbitmq;
#[path = "bus/raw_driver.rs"]
mod raw_driver;
#[path = "bus/rig.rs"]
mod rig;
#[path = "bus/seam.rs"]
mod seam;
#[path = "bus/socket.rs"]
mod socket;
#[path = "bus/tls.rs"]
mod tls;
