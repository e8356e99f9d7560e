//! The stage of the stories: a world with a service in it, a plugin that does as it is told, and a driver's mailbox.

pub(crate) mod mailbox;
pub(crate) mod poster;
pub(crate) mod puppet;
pub(crate) mod world;

pub(crate) use mailbox::Received;
pub(crate) use world::{Command, World};

/// Waits for something that only can be looked at; gives up after a minute.
pub(crate) async fn until(what: &str, happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// One story on each database.
macro_rules! story {
    ($(async fn $name:ident($world:ident: World) $body:block)*) => {$(
        async fn $name($world: &mut $crate::support::World) $body

        mod $name {

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                let mut world = $crate::support::World::on_sqlite().await;
                super::$name(&mut world).await;
                world.finish().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                let mut world = $crate::support::World::on_postgres().await;
                super::$name(&mut world).await;
                world.finish().await;
            }
        }
    )*};
}
pub(crate) use story;
