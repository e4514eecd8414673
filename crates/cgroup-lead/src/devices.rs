//! Which devices a group may use: lines on v1, a BPF program on v2.

use std::{io, os::fd::OwnedFd};

use berth_sys::bpf as sys;

use crate::bpf::Instruction;

/// What kind of device a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// One rule; later rules win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// What kind of device.
    pub kind: DeviceKind,
    /// None: any.
    pub major: Option<u32>,
    /// None: any.
    pub minor: Option<u32>,
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Making nodes.
    pub mknod: bool,
}

// linux/bpf.h
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

impl DeviceRule {
    fn access(&self) -> i32 {
        [
            (self.mknod, ACCESS_MKNOD),
            (self.read, ACCESS_READ),
            (self.write, ACCESS_WRITE),
        ]
        .into_iter()
        .filter(|(given, _)| *given)
        .fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// Files and lines in the order in which they are written: first everything is
/// denied, so that a group never begins with what its parent allows.
pub(crate) fn v1_lines(rules: &[DeviceRule]) -> Vec<(&'static str, String)> {
    let mut lines = vec![("devices.deny", "a".to_owned())];
    for rule in rules {
        let name = if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        let kinds: &[char] = match rule.kind {
            DeviceKind::All => &['b', 'c'],
            DeviceKind::Block => &['b'],
            DeviceKind::Char => &['c'],
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let mut access = String::new();
        for (given, letter) in [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')] {
            if given {
                access.push(letter);
            }
        }
        let everything = rule.kind == DeviceKind::All
            && rule.major.is_none()
            && rule.minor.is_none()
            && access == "rwm";
        if everything {
            lines.push((name, "a".to_owned()));
            continue;
        }
        for kind in kinds {
            let (major, minor) = (number(rule.major), number(rule.minor));
            lines.push((name, format!("{kind} {major}:{minor} {access}")));
        }
    }
    lines
}

/// Tells our programs from those of others on the same group.
const PROGRAM_NAME: &str = "berth_devices";

/// Replaces the group's program, with no moment in between.
pub(crate) fn attach(dir: &OwnedFd, rules: &[DeviceRule]) -> io::Result<()> {
    let code: Vec<u64> = program(rules)
        .into_iter()
        .map(Instruction::encode)
        .collect();
    let new = sys::load_device_program(&code, PROGRAM_NAME)?;
    let old = sys::device_programs(dir)?
        .into_iter()
        .find(|(_, name)| name == PROGRAM_NAME);
    sys::attach_device_program(dir, &new, old.as_ref().map(|(fd, _)| fd))
}

/// The last rule that matches decides, so the program asks them last to first.
/// Context (struct bpf_cgroup_dev_ctx): u32 type in the low and access in the
/// high half, u32 major, u32 minor.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    // r2 type, r3 access, r4 major, r5 minor.
    let mut code = vec![
        Instruction::load_word(2, 1, 0),
        Instruction::move_register(3, 2),
        Instruction::and(2, 0xffff),
        Instruction::shift_right(3, 16),
        Instruction::load_word(4, 1, 4),
        Instruction::load_word(5, 1, 8),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        match rule.kind {
            DeviceKind::All => {}
            DeviceKind::Block => tests.push((2, TYPE_BLOCK)),
            DeviceKind::Char => tests.push((2, TYPE_CHAR)),
        }
        // An allow rule must grant all that is asked; a deny rule denies if it
        // names any of it.
        let access = rule.access();
        let all = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
        let numbers = [(4, rule.major), (5, rule.minor)];
        let numbers = numbers
            .into_iter()
            .filter_map(|(register, number)| number.map(|n| (register, n.cast_signed())));
        tests.extend(numbers);
        let access_test: &[Instruction] = &if rule.allow {
            [
                Instruction::move_register(0, 3),
                Instruction::and(0, all & !access),
                Instruction::jump_unless_equal(0, 0, 0),
            ]
        } else {
            [
                Instruction::move_register(0, 3),
                Instruction::and(0, access),
                Instruction::jump_if_equal(0, 0, 0),
            ]
        };
        // Each test jumps behind the two instructions of the verdict.
        let length = tests.len() + access_test.len() + 2;
        let mut at = 0;
        for (register, value) in tests {
            at += 1;
            code.push(Instruction::jump_unless_equal(
                register,
                value,
                (length - at) as i16,
            ));
        }
        code.extend_from_slice(&access_test[..2]);
        let mut last = access_test[2];
        last.offset = 2;
        code.push(last);
        code.push(Instruction::set(0, i32::from(rule.allow)));
        code.push(Instruction::exit());
    }
    code.push(Instruction::set(0, 0));
    code.push(Instruction::exit());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: &str,
    ) -> DeviceRule {
        DeviceRule {
            allow,
            kind,
            major,
            minor,
            read: access.contains('r'),
            write: access.contains('w'),
            mknod: access.contains('m'),
        }
    }

    fn sample() -> Vec<DeviceRule> {
        use DeviceKind::{All, Block, Char};
        vec![
            rule(true, All, None, None, "m"),
            rule(true, Char, Some(1), Some(3), "rwm"),
            rule(true, Char, Some(136), None, "rw"),
            rule(true, Block, Some(8), None, "r"),
            rule(false, Block, Some(8), Some(1), "rwm"),
        ]
    }

    /// What the rules say, without a program.
    fn naive(rules: &[DeviceRule], block: bool, major: u32, minor: u32, access: i32) -> bool {
        for rule in rules.iter().rev() {
            let kind = match rule.kind {
                DeviceKind::All => true,
                DeviceKind::Block => block,
                DeviceKind::Char => !block,
            };
            let numbers =
                rule.major.is_none_or(|m| m == major) && rule.minor.is_none_or(|m| m == minor);
            let granted = if rule.allow {
                access & !rule.access() == 0
            } else {
                access & rule.access() != 0
            };
            if kind && numbers && granted {
                return rule.allow;
            }
        }
        false
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        let rules = sample();
        let code = program(&rules);
        for block in [true, false] {
            for major in [0, 1, 8, 136, u32::MAX] {
                for minor in [0, 1, 3] {
                    for access in 1..8 {
                        let kind = if block { 1 } else { 2 };
                        let context = [kind | (access as u32) << 16, major, minor];
                        let expected = naive(&rules, block, major, minor, access);
                        let got = crate::bpf::interpret(&code, context) == 1;
                        assert_eq!(got, expected, "{block} {major}:{minor} {access}");
                    }
                }
            }
        }
    }

    #[test]
    fn v1_denies_everything_first() {
        let lines = v1_lines(&sample());
        assert_eq!(lines[0], ("devices.deny", "a".to_owned()));
        assert!(lines.contains(&("devices.allow", "c 136:* rw".to_owned())));
        assert!(lines.contains(&("devices.deny", "b 8:1 rwm".to_owned())));
        assert!(lines.contains(&("devices.allow", "b *:* m".to_owned())));
    }
}
