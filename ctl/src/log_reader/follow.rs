//! Follows a log until its container has exited and everything was printed.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    pin::pin,
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{LogFile, Printer};

/// How long a change can stay unnoticed if the kernel says nothing, as it does
/// for files on network storage or when no watch can be had.
const POLL: Duration = Duration::from_secs(1);

/// Prints the log as it grows. Ends when `exited` has resolved and the file is
/// at its end, and returns what it resolved to: a runtime writes everything
/// before it says that a container has exited.
pub(crate) async fn follow<T, O: Write, E: Write>(
    log: &mut LogFile,
    printer: &mut Printer<O, E>,
    exited: impl Future<Output = T>,
) -> io::Result<T> {
    let mut exited = pin!(exited);
    let mut result = None;
    let changes = Changes::of(log.path());
    loop {
        drain(log, printer).await?;
        while log.next_after_rotation()? {
            drain(log, printer).await?;
        }
        printer.flush()?;
        if let Some(result) = result {
            log.finish(&mut |line| printer.line(line))?;
            printer.flush()?;
            return Ok(result);
        }
        tokio::select! {
            done = &mut exited => result = Some(done),
            () = changes.wait() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn drain<O: Write, E: Write>(
    log: &mut LogFile,
    printer: &mut Printer<O, E>,
) -> io::Result<()> {
    while log.step(&mut |line| printer.line(line))? {
        // A long log must not keep ctrl-C or the exit from being seen.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Changes in the directory of a log, so that renames are seen too.
struct Changes(Option<AsyncFd<std::os::fd::OwnedFd>>);

impl Changes {
    /// Without a watch (none left, no directory yet) polling has to do.
    #[expect(
        deprecated,
        reason = "deprecated for types whose descriptor may change or close; an OwnedFd's does not"
    )]
    fn of(path: &Path) -> Self {
        let watch = || -> io::Result<_> {
            let dir = path.parent().unwrap_or(Path::new("/"));
            // A log may be reached by a symlink, as in /var/log/containers.
            let dir = fs::canonicalize(dir)?;
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
            inotify::add_watch(&fd, &dir, what)?;
            AsyncFd::with_interest(fd, Interest::READABLE)
        };
        Self(watch().ok())
    }

    async fn wait(&self) {
        let Some(watch) = &self.0 else {
            return std::future::pending().await;
        };
        let Ok(mut ready) = watch.readable().await else {
            return std::future::pending().await;
        };
        // Only that something happened matters: the events are thrown away.
        let mut events = [0; 4096];
        loop {
            match rustix::io::read(watch.get_ref(), &mut events) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return std::future::pending().await,
            }
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _};

    use super::*;
    use crate::log_reader::Selection;

    fn line(text: &str) -> String {
        format!("2026-11-21T05:00:00Z stdout F {text}\n")
    }

    #[tokio::test]
    async fn output_is_printed_over_a_rotation_until_the_exit_and_not_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let (tell, told) = tokio::sync::oneshot::channel::<i32>();
        let mut log = LogFile::expect(&path);
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, io::sink(), Selection::default());

        let writer = {
            let path = path.clone();
            let dir = dir.path().to_owned();
            async move {
                let pause = || tokio::time::sleep(Duration::from_millis(30));
                pause().await;
                let mut file = File::create(&path).unwrap();
                file.write_all(line("one").as_bytes()).unwrap();
                pause().await;
                fs::rename(&path, dir.join("0.log.20261121-050000")).unwrap();
                file.write_all(line("two").as_bytes()).unwrap();
                pause().await;
                let mut file = File::create(&path).unwrap();
                file.write_all(line("three").as_bytes()).unwrap();
                pause().await;
                file.write_all(line("four").trim_end().as_bytes()).unwrap();
                tell.send(7).unwrap();
            }
        };
        let (code, ()) = tokio::join!(follow(&mut log, &mut printer, told), writer);
        assert_eq!(code.unwrap(), Ok(7));
        assert_eq!(String::from_utf8(out).unwrap(), "one\ntwo\nthree\nfour\n");
    }

    #[tokio::test]
    async fn changes_are_seen_long_before_the_next_poll() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, line("one")).unwrap();
        let changes = Changes::of(&path);
        let write = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(line("two").as_bytes()).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = changes.wait() => {}
            () = write => {}
            () = tokio::time::sleep(POLL / 2) => panic!("nothing was seen"),
        }
    }
}
