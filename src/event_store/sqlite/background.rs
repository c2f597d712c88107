//! Connections whose work gives way to everything else on the machine.
//!
//! What read models write, and pages that are moved, is much and nobody waits for it; a commit of the log is little and a
//! publisher waits for it. Where all want the processor, those that are waited for get it first.

use std::thread;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// By how much less such a thread counts: it gets a third of what others get that want the processor at the same time, so
/// that it does not stand still where they always do.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Opens a connection whose thread gives way. Fails as opening it does, or if there is no thread for it.
pub(crate) async fn connect(options: SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let (sender, connected) = oneshot::channel();
    let runtime = Handle::current();
    // The connection's thread is as nice as the one that starts it.
    let open = move || {
        give_way();
        // Whoever wanted it may have gone.
        drop(sender.send(runtime.block_on(options.connect())));
    };
    thread::Builder::new().name("tidings-connect".to_owned()).spawn(open)?;
    connected.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Makes this thread, and those that it starts, count less. Elsewhere than on Linux that would be the whole process.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!("a thread counts as much as all others: {error}");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_thread_counts_less_and_this_one_as_before() {
        let before = rustix::process::nice(0).unwrap();
        let named = |options: SqliteConnectOptions| options.thread_name(|_| "sqlite-nice".to_owned());
        let connection = connect(named(SqliteConnectOptions::new().in_memory(true))).await.unwrap();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let stat = tasks.filter_map(|task| std::fs::read_to_string(task.join("stat")).ok());
        let of_thread = stat.filter(|stat| stat.contains("(sqlite-nice)")).last().unwrap();
        // The 19th field, the 17th behind the name: see proc(5).
        let nice: i32 = of_thread.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap();
        assert_eq!(nice, (before + NICE).min(19));
        assert_eq!(rustix::process::nice(0).unwrap(), before);
        drop(connection);
    }
}
