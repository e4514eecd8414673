//! What a cloned child and its parent say to each other before execve, over a
//! close-on-exec SEQPACKET pair: an end without a word means that execve happened
//! or that the child died, and only the kernel knows which.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd},
};

use berth_proto::shim::{Failure, failure::Kind};
use berth_sys::{message, process};
use prost::Message as _;

/// First byte of a datagram from the child.
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const LISTENER: u8 = b'L';
/// The only thing that the parent ever says, with what the child needs to go on.
const GO: u8 = b'G';

/// Exit code of a child that has reported why it gave up.
const GAVE_UP: i32 = 127;

/// The flag of /proc/PID/stat field 9 that says "forked but did not exec".
const PF_FORKNOEXEC: u64 = 0x40;

/// The child's word.
#[derive(Debug)]
pub(crate) enum Word {
    /// With descriptors that it made, and wishes that were not granted in full.
    Ready(Vec<OwnedFd>, Vec<String>),
    Failed(Failure),
    /// Its filter has a listener, which is this descriptor of its own.
    Listener(RawFd),
    /// It has closed its end: by execve, or by dying.
    End,
}

/// Child: ready, with descriptors that it made.
pub(crate) fn say_ready(socket: impl AsFd, fds: &[RawFd], notes: &[String]) -> io::Result<()> {
    let mut bytes = vec![READY];
    bytes.extend_from_slice(notes.join("\n").as_bytes());
    message::send(socket, &bytes, fds)
}

/// Child: tells of the listener of its filter, and waits until it was taken. Write and
/// read alone, whatever the filter hands over: who reads answers for the other.
pub(crate) fn hand_over(socket: &OwnedFd, listener: RawFd) -> io::Result<()> {
    let mut word = vec![LISTENER];
    word.extend_from_slice(&listener.to_ne_bytes());
    nix::unistd::write(socket, &word)?;
    let mut answer = [0];
    match nix::unistd::read(socket, &mut answer)? {
        1 if answer[0] == GO => Ok(()),
        _ => Err(io::Error::from_raw_os_error(nix::libc::EPIPE)),
    }
}

/// Child: gives up. If nobody listens any more there is nothing left to do but end.
pub(crate) fn give_up(socket: impl AsFd, failure: &Failure) -> ! {
    let mut bytes = vec![FAILED];
    bytes.extend_from_slice(&failure.encode_to_vec());
    drop(message::send(socket, &bytes, &[]));
    process::exit_now(GAVE_UP)
}

/// Child: waits until it may go on. A parent that died lets it end.
pub(crate) fn await_go(socket: impl AsFd) -> Vec<u8> {
    match message::receive(socket) {
        Ok(Some(mut datagram)) if datagram.bytes.first() == Some(&GO) => {
            datagram.bytes.split_off(1)
        }
        _ => process::exit_now(GAVE_UP),
    }
}

/// Parent: lets the child go on.
pub(crate) fn say_go(socket: impl AsFd) -> io::Result<()> {
    say_go_with(socket, &[])
}

/// As [`say_go`], with bytes that the child needs for it.
pub(crate) fn say_go_with(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    message::send(socket, &[&[GO], bytes].concat(), &[])
}

/// Parent: waits for the child's next word, at most `limit_ms`.
pub(crate) fn listen(socket: &OwnedFd, limit_ms: i32) -> io::Result<Word> {
    if !process::wait_readable(socket, limit_ms)? {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no word within {} s", limit_ms / 1000),
        ));
    }
    let Some(datagram) = message::receive(socket)? else {
        return Ok(Word::End);
    };
    match datagram.bytes.split_first() {
        Some((&READY, notes)) => {
            let notes = String::from_utf8_lossy(notes);
            let notes = notes.lines().map(str::to_owned).collect();
            Ok(Word::Ready(datagram.fds, notes))
        }
        Some((&FAILED, rest)) => {
            Ok(Word::Failed(Failure::decode(rest).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?))
        }
        Some((&LISTENER, number)) if number.len() == 4 => {
            Ok(Word::Listener(RawFd::from_ne_bytes([
                number[0], number[1], number[2], number[3],
            ])))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected word from a child",
        )),
    }
}

/// Whether the unreaped child `pid` has executed its program. Being alive would
/// prove nothing: a dying process closes its descriptors before it is a zombie.
pub(crate) fn has_executed(pid: i32) -> io::Result<bool> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let end = stat.iter().rposition(|&b| b == b')').unwrap_or(0);
    let flags = std::str::from_utf8(&stat[end..])
        .ok()
        .and_then(|rest| rest.split_ascii_whitespace().nth(7))
        .and_then(|flags| flags.parse::<u64>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))?;
    Ok(flags & PF_FORKNOEXEC == 0)
}

/// The child died without a word.
pub(crate) fn died(step: &str) -> Failure {
    Failure {
        kind: Kind::System.into(),
        step: step.to_owned(),
        errno: 0,
        detail: "the process died before it could run its program, killed or out of memory"
            .to_owned(),
    }
}

/// Raw numbers of descriptors, for sending.
pub(crate) fn raw(fds: &[OwnedFd]) -> Vec<RawFd> {
    fds.iter().map(|fd| fd.as_raw_fd()).collect()
}
