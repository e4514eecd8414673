//! OCI seccomp profiles to classic BPF.
//!
//! A profile becomes one table per calling convention (`table`), a table a binary
//! search over ranges of numbers (this file), and that a program (`program`). The
//! architecture is checked first, and x32, which shares x86_64's, is told apart by
//! its bit: what the profile does not list does not exist (ENOSYS).

mod abi;
mod cache;
mod condition;
mod default;
mod multiplex;
mod program;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::HashMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use self::{
    abi::Abi,
    program::{Instruction, MAX_INSTRUCTIONS, Place, Program},
    table::{Decision, NO_SUCH_CALL, Table},
    verdict::Verdict,
};
pub use self::{abi::Machine, cache::FilterCache, default::default_profile};

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A listener that could not be told of, or a flag for one where there is none.
    #[error("{0}")]
    Notify(&'static str),
    /// `errnoRet` or the data of a trace beyond what the kernel passes on.
    #[error("errnoRet {value} is larger than {largest}, the largest that the kernel returns")]
    Errno {
        /// As given.
        value: u32,
        /// The limit.
        largest: u32,
    },
    /// System calls have six arguments.
    #[error("argument index {index} is not between 0 and 5")]
    Argument {
        /// As given.
        index: usize,
    },
    /// The kernel takes no longer program.
    #[error("the profile needs {instructions} instructions; the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong {
        /// Needed.
        instructions: usize,
    },
}

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Array of `struct sock_filter` in host order.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*, without that of the listener.
    pub flags: u32,
    /// Some calls are for a listener to answer (`SCMP_ACT_NOTIFY`).
    pub listener: bool,
}

/// Compiles `profile` for `machine`.
///
/// The machine's own calling convention is always covered, as libseccomp has it;
/// others only where the profile lists them.
///
/// # Errors
/// See [`Error`].
pub fn compile(profile: &LinuxSeccomp, machine: Machine) -> Result<Filter, Error> {
    let listener = needs_listener(profile)?;
    let instructions = instructions(profile, machine)?;
    Ok(Filter {
        program: program::encode(&instructions),
        flags: flags(profile, listener)?,
        listener,
    })
}

/// Whether calls are for a listener. A path alone is ignored, as the specification
/// wants it.
fn needs_listener(profile: &LinuxSeccomp) -> Result<bool, Error> {
    const NOTIFY: LinuxSeccompAction = LinuxSeccompAction::ScmpActNotify;
    if profile.default_action() == NOTIFY {
        let reason = "SCMP_ACT_NOTIFY cannot be the default: nobody could be told of the listener";
        return Err(Error::Notify(reason));
    }
    let mut rules = profile.syscalls().iter().flatten();
    let mut notified = rules
        .by_ref()
        .filter(|rule| rule.action() == NOTIFY)
        .peekable();
    if notified.peek().is_none() {
        return Ok(false);
    }
    if notified.any(|rule| rule.names().iter().any(|name| name == "write")) {
        let reason =
            "SCMP_ACT_NOTIFY cannot be used for write: the process tells of its listener with it";
        return Err(Error::Notify(reason));
    }
    match profile.listener_path() {
        Some(path) if !path.as_os_str().is_empty() => Ok(true),
        _ => Err(Error::Notify(
            "SCMP_ACT_NOTIFY needs a listenerPath: nobody would answer",
        )),
    }
}

fn instructions(profile: &LinuxSeccomp, machine: Machine) -> Result<Vec<Instruction>, Error> {
    let mut writer = Writer::default();
    let default = Verdict::new(profile.default_action(), profile.default_errno_ret())?;
    let listed: Vec<Abi> = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|arch| Abi::of(*arch, machine))
        .chain([machine.native_abi()])
        .collect();
    let table = |abi: Abi| {
        if listed.contains(&abi) {
            Table::of(
                profile.syscalls().as_deref().unwrap_or_default(),
                default,
                abi,
            )
        } else {
            Ok(Table::foreign(abi))
        }
    };
    // Foreign architectures end here.
    let mut entry = writer.decide(&Decision::always(NO_SUCH_CALL), true);
    // The machine's own comes last, which is first in the program.
    let families: [&[Abi]; 2] = match machine {
        Machine::X86_64 => [&[Abi::X86], &[Abi::X86_64, Abi::X32]],
        Machine::Aarch64 => [&[Abi::Arm], &[Abi::Aarch64]],
    };
    for family in families {
        let mut ranges = Vec::new();
        for abi in family {
            let table = table(*abi)?;
            ranges.extend(
                table
                    .ranges
                    .into_iter()
                    .map(|(first, decision)| (first, decision, *abi)),
            );
        }
        let search = writer.search(&ranges);
        let search = writer.program.load_number(search);
        entry = writer
            .program
            .if_equal(family[0].audit_arch(), search, entry);
    }
    writer.program.load_arch(entry);
    let instructions = writer.program.finish();
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong {
            instructions: instructions.len(),
        });
    }
    Ok(instructions)
}

#[derive(Debug, Default)]
struct Writer {
    program: Program,
    /// Where a decision was written already, by the width of its arguments.
    written: HashMap<(Decision, bool), Place>,
}

impl Writer {
    /// A binary search by number, in which the greater half comes last.
    fn search(&mut self, ranges: &[(u32, Decision, Abi)]) -> Place {
        if let [(_, decision, abi)] = ranges {
            return self.decide(decision, abi.wide());
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let greater = self.search(upper);
        let smaller = self.search(lower);
        self.program.if_at_least(upper[0].0, greater, smaller)
    }

    fn decide(&mut self, decision: &Decision, wide: bool) -> Place {
        if let Some(place) = self.written.get(&(decision.clone(), wide)) {
            return *place;
        }
        let mut place = if decision.rules.is_empty() {
            self.program.give(decision.otherwise)
        } else {
            self.decide(&Decision::always(decision.otherwise), wide)
        };
        for rule in decision.rules.iter().rev() {
            let mut then = self.decide(&Decision::always(rule.verdict), wide);
            for condition in rule.conditions.iter().rev() {
                then = self.program.if_holds(*condition, wide, then, place);
            }
            place = then;
        }
        self.written.insert((decision.clone(), wide), place);
        place
    }
}

/// SECCOMP_FILTER_FLAG_* (include/uapi/linux/seccomp.h).
fn flags(profile: &LinuxSeccomp, listener: bool) -> Result<u32, Error> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            // There is one thread when the filter is installed.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if listener => 1 << 5,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                let reason =
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY";
                return Err(Error::Notify(reason));
            }
        };
    }
    Ok(flags)
}
