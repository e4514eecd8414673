//! Clients that see the container's output as it comes.
//!
//! Each has a pipe per stream, whose reader is the agent's. A chunk is offered
//! once, after it was taken for the log: a client that has no room for it is cut
//! off, so that none can hold up the container or its log.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::log::Stream;

/// More clients at once are a mistake of somebody.
const MOST_CLIENTS: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Audience(Vec<Client>);

#[derive(Debug)]
struct Client {
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Client {
    fn stream(&mut self, stream: Stream) -> &mut Option<File> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Whether somebody still reads one of its pipes.
    fn is_there(&self) -> bool {
        let mut streams = [&self.stdout, &self.stderr].into_iter().flatten();
        streams.any(|pipe| {
            let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
            poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count == 0)
        })
    }
}

impl Audience {
    /// Adds a client. Those that have left are forgotten now: a silent container
    /// would keep their pipes for ever.
    pub(crate) fn add(
        &mut self,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> io::Result<()> {
        self.0.retain(Client::is_there);
        if self.0.len() >= MOST_CLIENTS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        for pipe in [&stdout, &stderr].into_iter().flatten() {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        self.0.push(Client {
            stdout: stdout.map(File::from),
            stderr: stderr.map(File::from),
        });
        Ok(())
    }

    /// Gives `chunk` to everybody who has room for all of it.
    pub(crate) fn offer(&mut self, stream: Stream, chunk: &[u8]) {
        self.0.retain_mut(|client| match client.stream(stream) {
            None => true,
            Some(pipe) => whole(pipe, chunk),
        });
    }
}

/// Whether all of `chunk` went into the pipe.
fn whole(pipe: &mut File, mut chunk: &[u8]) -> bool {
    while !chunk.is_empty() {
        match pipe.write(chunk) {
            Ok(count) if count > 0 => chunk = &chunk[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Full, or nobody reads it any more.
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use nix::unistd::pipe2;

    use super::*;

    fn pipe() -> (File, OwnedFd) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (reader.into(), writer)
    }

    #[test]
    fn everybody_sees_the_output_and_a_slow_one_is_cut_off() {
        let mut audience = Audience::default();
        let (mut fast, writer) = pipe();
        audience.add(Some(writer), None).unwrap();
        let (mut slow, writer) = pipe();
        audience.add(Some(writer), None).unwrap();
        let mut seen = 0;
        for _ in 0..40 {
            audience.offer(Stream::Stdout, &[b'x'; 4096]);
            seen += fast.read(&mut [0; 8192]).unwrap();
        }
        assert_eq!(seen, 40 * 4096);
        let mut kept = Vec::new();
        // It gets what it had room for, and then the end.
        slow.read_to_end(&mut kept).unwrap();
        assert!(kept.len() < seen && kept.iter().all(|&byte| byte == b'x'));
        assert_eq!(audience.0.len(), 1);
    }

    #[test]
    fn those_who_have_left_are_forgotten_even_if_nothing_is_said() {
        let mut audience = Audience::default();
        for _ in 0..3 * MOST_CLIENTS {
            let (reader, writer) = pipe();
            audience.add(Some(writer), None).unwrap();
            drop(reader);
        }
        assert_eq!(audience.0.len(), 1);
    }
}
