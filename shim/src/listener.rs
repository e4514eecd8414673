//! The listener of a seccomp filter on its way to whoever answers.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use berth_proto::shim::{Failure, Listener};
use berth_sys::{message, process};

use crate::{
    child,
    wire::{Slots, Step as _, invalid},
};

/// Where it goes.
#[derive(Debug)]
pub(crate) struct Receiver {
    socket: OwnedFd,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Receiver {
    /// Of a request, if it names one.
    pub(crate) fn take(
        given: Option<&Listener>,
        slots: &mut Slots,
    ) -> Result<Option<Self>, Failure> {
        given
            .map(|given| {
                Ok(Self {
                    socket: slots.take(given.slot)?,
                    head: given.head.clone(),
                    tail: given.tail.clone(),
                })
            })
            .transpose()
    }
}

/// Fetches descriptor `number` of process `pid`, sends it to `receiver`, and lets the
/// process go on.
pub(crate) fn pass_on(
    receiver: Option<&Receiver>,
    (pid, pidfd): (i32, &OwnedFd),
    number: RawFd,
    handshake: &OwnedFd,
) -> Result<(), Failure> {
    let receiver = receiver.ok_or_else(|| {
        invalid("the seccomp filter has a listener, and the request says not who it is")
    })?;
    let listener = process::pidfd_getfd(pidfd, number)
        .step("exec", || "fetching the listener of the filter".to_owned())?;
    let pid = pid.to_string();
    let said = [&receiver.head, pid.as_bytes(), &receiver.tail].concat();
    message::send(&receiver.socket, &said, &[listener.as_raw_fd()])
        .step("exec", || "sending the listener of the filter".to_owned())?;
    child::say_go(handshake).step("exec", || "waking a filtered process".to_owned())
}
