//! The stage of the stories: a world with a service in it, a plugin that does as it is told, and a driver's mailbox.

pub(crate) mod mailbox;
pub(crate) mod puppet;
pub(crate) mod world;

pub(crate) use mailbox::Received;
pub(crate) use world::{Command, World};

/// One story on each database.
macro_rules! story {
    ($(async fn $name:ident($world:ident: World) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports, reason = "a story takes from its file what it needs")]
            use super::*;

            async fn tell($world: &mut $crate::support::World) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                let mut world = $crate::support::World::on_sqlite().await;
                tell(&mut world).await;
                world.finish().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                let mut world = $crate::support::World::on_postgres().await;
                tell(&mut world).await;
                world.finish().await;
            }
        }
    )*};
}
pub(crate) use story;
