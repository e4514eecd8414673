//! Running another program to its end, within a time, with what it says.

use std::{
    io::{self, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::process;

/// Enough of a program's own words for an error.
const WORDS: usize = 4096;
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(1);
const POLL_MS: i32 = 1;

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// None if it took longer than it may, and was killed.
    pub status: Option<ExitStatus>,
    /// The first of what it wrote to its standard error.
    pub words: String,
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
/// The errno of starting it or of talking to it; that it does not read its input is none.
pub fn run(command: &mut Command, input: &[u8], limit: Option<Duration>) -> io::Result<Ended> {
    let end = limit.map(|limit| Instant::now() + limit);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let (status, words) = await_end(&mut child, end)?;
    Ok(Ended {
        status,
        words: String::from_utf8_lossy(&words).trim().to_owned(),
    })
}

fn await_end(child: &mut Child, end: Option<Instant>) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let mut stderr = child.stderr.take();
    let mut words = Vec::new();
    loop {
        if end.is_some_and(|end| Instant::now() >= end) {
            child.kill()?;
            child.wait()?;
            return Ok((None, words));
        }
        // Read all the time, or a talkative program would wait for ever.
        match &mut stderr {
            Some(pipe) if process::wait_readable(&*pipe, POLL_MS)? => {
                let mut buffer = [0; WORDS];
                match pipe.read(&mut buffer)? {
                    0 => stderr = None,
                    count if words.len() < WORDS => words.extend_from_slice(&buffer[..count]),
                    _ => {}
                }
                continue;
            }
            Some(_) => {}
            None => std::thread::sleep(POLL),
        }
        if let Some(status) = child.try_wait()? {
            return Ok((Some(status), words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_heard_out_and_ended_in_time() {
        let ended = run(&mut shell("cat >&2; exit 3"), b"word", None).unwrap();
        assert_eq!(ended.status.unwrap().code(), Some(3));
        assert_eq!(ended.words, "word");
        // More than a pipe holds.
        let talks = "head -c 1000000 /dev/zero >&2";
        let ended = run(&mut shell(talks), b"", None).unwrap();
        assert!(ended.status.unwrap().success());
        for hangs in ["exec sleep 60", "while :; do echo x >&2; done"] {
            let limit = Some(Duration::from_millis(50));
            assert!(run(&mut shell(hangs), b"", limit).unwrap().status.is_none());
        }
    }
}
