//! The v2 form of a device table: a program that the kernel asks before each open
//! and mknod.

use crate::devices::{ALL_ACCESS, Table};

/// One `struct bpf_insn`: code, registers, jump offset, constant.
struct Instruction(u8, u8, u8, i16, i32);

impl Instruction {
    /// In host byte order. The two register nibbles are laid out as on
    /// little-endian machines, which are all that Berth is built for.
    fn encode(&self) -> u64 {
        let Self(code, to, from, offset, constant) = *self;
        u64::from(code)
            | u64::from(to | from << 4) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(constant.cast_unsigned()) << 32
    }
}

// Codes of linux/bpf.h and linux/bpf_common.h, class and operation together.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb4;
const AND_CONSTANT: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_IF_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
/// On entry the address of `struct bpf_cgroup_dev_ctx`, then free for use.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// BPF_DEVCG_DEV_*
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// The instructions that decide by `table`, in host byte order.
pub(crate) fn assemble(table: &Table) -> Vec<u64> {
    let mut program = vec![
        // access_type: what is wanted in the upper half, the kind in the lower.
        Instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        Instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        Instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        Instruction(MOVE, WANTED, KIND, 0, 0),
        Instruction(SHIFT_RIGHT, WANTED, 0, 0, 16),
        Instruction(AND_CONSTANT, KIND, 0, 0, 0xffff),
    ];
    for exception in &table.exceptions {
        let kind = if exception.block { BLOCK } else { CHAR };
        let numbers = [(MAJOR, exception.major), (MINOR, exception.minor)];
        // Registers that must equal a constant; another rule is tried where one differs.
        let mut tests = vec![(KIND, kind)];
        for (register, number) in numbers {
            // Checked to be far below 2^31 when the table was made.
            tests.extend(
                number
                    .and_then(|n| i32::try_from(n).ok())
                    .map(|n| (register, n)),
            );
        }
        let access = i32::from(exception.access);
        let masked = exception.access != ALL_ACCESS;
        let tail = if masked { 5 } else { 2 };
        let length = tests.len() + tail;
        for (index, (register, constant)) in tests.into_iter().enumerate() {
            let skip = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
            program.push(Instruction(JUMP_UNLESS_EQUAL, register, 0, skip, constant));
        }
        if masked {
            program.push(Instruction(MOVE, CONTEXT, WANTED, 0, 0));
            if table.default_allow {
                // Forbidden if any of what is wanted is.
                program.push(Instruction(AND_CONSTANT, CONTEXT, 0, 0, access));
                program.push(Instruction(JUMP_IF_EQUAL, CONTEXT, 0, 2, 0));
            } else {
                // Allowed if all of what is wanted is.
                program.push(Instruction(AND_CONSTANT, CONTEXT, 0, 0, !access));
                program.push(Instruction(JUMP_UNLESS_EQUAL, CONTEXT, 0, 2, 0));
            }
        }
        decide(&mut program, !table.default_allow);
    }
    decide(&mut program, table.default_allow);
    program.iter().map(Instruction::encode).collect()
}

fn decide(program: &mut Vec<Instruction>, allow: bool) {
    program.push(Instruction(MOVE_CONSTANT, RESULT, 0, 0, i32::from(allow)));
    program.push(Instruction(EXIT, 0, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{DeviceKind, DeviceRule};

    /// Interprets what [`assemble`] can emit; `None` for anything else.
    fn run(program: &[u64], wanted: u8, block: bool, major: u32, minor: u32) -> Option<bool> {
        let kind: u32 = if block { 1 } else { 2 };
        let context = [u32::from(wanted) << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let word = *program.get(at)?;
            let [code, pair, ..] = word.to_le_bytes();
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let offset = (word >> 16) as u16 as i16;
            let constant = (word >> 32) as u32;
            let wide = i64::from(constant as i32) as u64;
            at += 1;
            match code {
                LOAD_WORD => {
                    let index = usize::try_from(offset).ok()? / 4;
                    registers[to] = u64::from(context[index]);
                }
                MOVE => registers[to] = u64::from(registers[from] as u32),
                MOVE_CONSTANT => registers[to] = u64::from(constant),
                AND_CONSTANT => registers[to] = u64::from(registers[to] as u32 & constant),
                SHIFT_RIGHT => registers[to] = u64::from(registers[to] as u32 >> constant),
                JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL => {
                    if (registers[to] == wide) == (code == JUMP_IF_EQUAL) {
                        at = at.checked_add_signed(isize::from(offset))?;
                    }
                }
                EXIT => return Some(registers[0] == 1),
                _ => return None,
            }
        }
    }

    /// What the rules mean, said without a table.
    fn meant(rules: &[DeviceRule], wanted: u8, block: bool, major: u32, minor: u32) -> bool {
        let mut allowed = 0_u8;
        for rule in rules {
            let kind = match rule.kind {
                DeviceKind::All => true,
                DeviceKind::Char => !block,
                DeviceKind::Block => block,
            };
            let hit = kind
                && rule.major.is_none_or(|number| number == major)
                && rule.minor.is_none_or(|number| number == minor);
            let bits = [(rule.read, 2), (rule.write, 4), (rule.mknod, 1)];
            let bits = bits
                .iter()
                .filter(|bit| bit.0)
                .fold(0, |all, bit| all | bit.1);
            if hit && rule.allow {
                allowed |= bits;
            } else if hit {
                allowed &= !bits;
            }
        }
        wanted & !allowed == 0
    }

    fn compare(rules: &[DeviceRule]) {
        let program = assemble(&Table::from_rules(rules).unwrap());
        for wanted in 1..8 {
            for block in [false, true] {
                for (major, minor) in [(1, 3), (1, 5), (8, 0), (8, 3), (4095, (1 << 20) - 1)] {
                    assert_eq!(
                        run(&program, wanted, block, major, minor),
                        Some(meant(rules, wanted, block, major, minor)),
                        "{rules:?} for {wanted} {block} {major}:{minor}"
                    );
                }
            }
        }
    }

    fn rule(allow: bool, kind: DeviceKind, numbers: [i64; 2], access: &str) -> DeviceRule {
        DeviceRule {
            allow,
            kind,
            major: u32::try_from(numbers[0]).ok(),
            minor: u32::try_from(numbers[1]).ok(),
            read: access.contains('r'),
            write: access.contains('w'),
            mknod: access.contains('m'),
        }
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        use DeviceKind::{All, Block, Char};
        let none = DeviceRule::everything(false);
        let all = DeviceRule::everything(true);
        compare(&[]);
        compare(&[none]);
        compare(&[all]);
        compare(&[none, rule(true, Char, [1, 3], "rwm")]);
        compare(&[
            none,
            rule(true, Char, [1, 3], "rw"),
            rule(true, Block, [8, -1], "r"),
        ]);
        compare(&[
            none,
            rule(true, All, [-1, -1], "m"),
            rule(true, Char, [1, -1], "rwm"),
        ]);
        compare(&[
            none,
            rule(true, Char, [-1, 3], "w"),
            rule(true, Char, [4095, (1 << 20) - 1], "r"),
        ]);
        compare(&[all, rule(false, Block, [8, 0], "w")]);
        compare(&[
            all,
            rule(false, Char, [-1, -1], "rwm"),
            rule(false, Block, [8, 3], "rm"),
        ]);
    }

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        let word = Instruction(JUMP_UNLESS_EQUAL, 2, 3, 5, -1).encode();
        assert_eq!(
            word.to_le_bytes(),
            [0x55, 0x32, 5, 0, 0xff, 0xff, 0xff, 0xff]
        );
        let back = Instruction(LOAD_WORD, 4, 1, -2, 7).encode();
        assert_eq!(back.to_le_bytes(), [0x61, 0x14, 0xfe, 0xff, 7, 0, 0, 0]);
    }
}
