//! 32-bit x86 reaches sockets and System V IPC through one call each, which takes
//! the wanted operation as its first argument and the others in memory, where no
//! filter can look. What a profile says about `socket` must hold for
//! `socketcall(SYS_SOCKET, ...)` too, or it is bypassed by a 32-bit program.

use super::{abi::Abi, table::Rule, verdict::Verdict};

/// `socketcall` takes the operation as it is.
const SOCKET_MASK: u64 = 0xffff_ffff;
/// `ipc` ignores the upper half, a version (ipc/syscall.c).
const IPC_MASK: u64 = 0xffff;

/// The multiplexer of `name`, and its rules for it.
///
/// A rule with conditions cannot be checked there. Where the profile denies, or
/// allows only for some arguments, the whole operation is denied.
pub(super) fn rules(
    name: &str,
    alternatives: &[Rule],
    default: Verdict,
) -> Option<(u32, Vec<Rule>)> {
    let (multiplexer, call, mask) = match (socket_operation(name), ipc_operation(name)) {
        (Some(call), _) => ("socketcall", call, SOCKET_MASK),
        (None, Some(call)) => ("ipc", call, IPC_MASK),
        (None, None) => return None,
    };
    let number = *Abi::X86.numbers(multiplexer).first()?;
    let rules = alternatives
        .iter()
        .filter_map(|rule| {
            let verdict = if rule.conditions.is_empty() || !rule.verdict.permits() {
                Some(rule.verdict)
            } else {
                (!default.permits()).then_some(default)
            };
            verdict.map(|verdict| Rule::selected(call, mask, verdict))
        })
        .collect();
    Some((number, rules))
}

/// SYS_* (include/uapi/linux/net.h).
fn socket_operation(name: &str) -> Option<u64> {
    Some(match name {
        "socket" => 1,
        "bind" => 2,
        "connect" => 3,
        "listen" => 4,
        "accept" => 5,
        "getsockname" => 6,
        "getpeername" => 7,
        "socketpair" => 8,
        "send" => 9,
        "recv" => 10,
        "sendto" => 11,
        "recvfrom" => 12,
        "shutdown" => 13,
        "setsockopt" => 14,
        "getsockopt" => 15,
        "sendmsg" => 16,
        "recvmsg" => 17,
        "accept4" => 18,
        "recvmmsg" => 19,
        "sendmmsg" => 20,
        _ => return None,
    })
}

/// include/uapi/linux/ipc.h
fn ipc_operation(name: &str) -> Option<u64> {
    Some(match name {
        "semop" => 1,
        "semget" => 2,
        "semctl" => 3,
        "semtimedop" => 4,
        "msgsnd" => 11,
        "msgrcv" => 12,
        "msgget" => 13,
        "msgctl" => 14,
        "shmat" => 21,
        "shmdt" => 22,
        "shmget" => 23,
        "shmctl" => 24,
        _ => return None,
    })
}
