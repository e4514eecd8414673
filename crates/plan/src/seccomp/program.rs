//! Classic BPF, written from its last instruction to its first.
//!
//! All jumps of BPF go forward, so that writing backwards every target is known
//! when the jump to it is written.

use super::{
    condition::{Condition, Test},
    verdict::Verdict,
};

/// `struct sock_filter` (include/uapi/linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

// BPF_LD | BPF_W | BPF_ABS and its kin (include/uapi/linux/bpf_common.h).
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// BPF_MAXINSNS.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

// struct seccomp_data
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// An instruction's distance from the end of the program, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(usize);

/// Which half of an argument.
#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

#[derive(Debug, Default)]
pub(super) struct Program {
    /// Last instruction first.
    reversed: Vec<Instruction>,
}

impl Program {
    pub(super) fn give(&mut self, verdict: Verdict) -> Place {
        self.push(RETURN, 0, 0, verdict.code())
    }

    pub(super) fn load_number(&mut self, next: Place) -> Place {
        self.straight(LOAD, OFFSET_NUMBER, next)
    }

    pub(super) fn load_arch(&mut self, next: Place) -> Place {
        self.straight(LOAD, OFFSET_ARCH, next)
    }

    pub(super) fn if_equal(&mut self, k: u32, then: Place, otherwise: Place) -> Place {
        self.branch(JUMP_EQUAL, k, then, otherwise)
    }

    pub(super) fn if_at_least(&mut self, k: u32, then: Place, otherwise: Place) -> Place {
        self.branch(JUMP_GREATER_OR_EQUAL, k, then, otherwise)
    }

    /// `wide`: compare all 64 bits, half by half; BPF's registers have 32.
    pub(super) fn if_holds(
        &mut self,
        condition: Condition,
        wide: bool,
        then: Place,
        otherwise: Place,
    ) -> Place {
        let argument = condition.argument;
        let condition = if wide { condition } else { condition.narrow() };
        match condition.test {
            Test::NotEqual(value) => self.masked(argument, wide, u64::MAX, value, otherwise, then),
            Test::Equal(value) => self.masked(argument, wide, u64::MAX, value, then, otherwise),
            Test::Masked { mask, value } => {
                self.masked(argument, wide, mask, value, then, otherwise)
            }
            Test::Greater(value) => {
                self.ordered(argument, wide, JUMP_GREATER, value, then, otherwise)
            }
            Test::LessOrEqual(value) => {
                self.ordered(argument, wide, JUMP_GREATER, value, otherwise, then)
            }
            Test::GreaterOrEqual(value) => self.ordered(
                argument,
                wide,
                JUMP_GREATER_OR_EQUAL,
                value,
                then,
                otherwise,
            ),
            Test::Less(value) => self.ordered(
                argument,
                wide,
                JUMP_GREATER_OR_EQUAL,
                value,
                otherwise,
                then,
            ),
        }
    }

    fn masked(
        &mut self,
        argument: u8,
        wide: bool,
        mask: u64,
        value: u64,
        then: Place,
        otherwise: Place,
    ) -> Place {
        let low = self.half_equals(argument, Half::Low, mask, value, then, otherwise);
        if wide {
            self.half_equals(argument, Half::High, mask, value, low, otherwise)
        } else {
            low
        }
    }

    fn half_equals(
        &mut self,
        argument: u8,
        half: Half,
        mask: u64,
        value: u64,
        then: Place,
        otherwise: Place,
    ) -> Place {
        let (mask, value) = (part(mask, half), part(value, half));
        // Nothing to look at; Condition keeps no value outside its mask.
        if mask == 0 {
            return then;
        }
        let mut place = self.if_equal(value, then, otherwise);
        if mask != u32::MAX {
            place = self.straight(AND, mask, place);
        }
        self.load_argument(argument, half, place)
    }

    /// `jump` is what decides on the lower half; on the upper it is always "greater".
    fn ordered(
        &mut self,
        argument: u8,
        wide: bool,
        jump: u16,
        value: u64,
        then: Place,
        otherwise: Place,
    ) -> Place {
        let low = self.branch(jump, part(value, Half::Low), then, otherwise);
        let low = self.load_argument(argument, Half::Low, low);
        if !wide {
            return low;
        }
        let high = part(value, Half::High);
        let equal = self.if_equal(high, low, otherwise);
        let greater = self.branch(JUMP_GREATER, high, then, equal);
        self.load_argument(argument, Half::High, greater)
    }

    // Both kinds of machine are little-endian.
    fn load_argument(&mut self, argument: u8, half: Half, next: Place) -> Place {
        let upper = match half {
            Half::Low => 0,
            Half::High => 4,
        };
        self.straight(
            LOAD,
            OFFSET_ARGUMENTS + 8 * u32::from(argument) + upper,
            next,
        )
    }

    /// An instruction that is followed by the one at `next`.
    fn straight(&mut self, code: u16, k: u32, next: Place) -> Place {
        if self.distance(next) != 0 {
            self.far(next);
        }
        self.push(code, 0, 0, k)
    }

    fn branch(&mut self, code: u16, k: u32, then: Place, otherwise: Place) -> Place {
        let (mut then, mut otherwise) = (then, otherwise);
        // Conditional jumps reach 255 instructions. Bringing one target near moves
        // the other one step away, hence the margin of one.
        if self.distance(then) + 1 > usize::from(u8::MAX) {
            then = self.far(then);
        }
        if self.distance(otherwise) + 1 > usize::from(u8::MAX) {
            otherwise = self.far(otherwise);
        }
        let near = |distance: usize| u8::try_from(distance).unwrap_or(u8::MAX);
        let (jt, jf) = (near(self.distance(then)), near(self.distance(otherwise)));
        self.push(code, jt, jf, k)
    }

    /// A step here that leads to `target`. Returns are repeated instead: as short, and
    /// one instruction less to run.
    fn far(&mut self, target: Place) -> Place {
        let there = self.reversed[target.0 - 1];
        if there.code == RETURN {
            self.reversed.push(there);
            return Place(self.reversed.len());
        }
        // Within BPF_MAXINSNS, which is checked in the end.
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    /// How many instructions a jump written now would skip.
    fn distance(&self, target: Place) -> usize {
        self.reversed.len() - target.0
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(Instruction { code, jt, jf, k });
        Place(self.reversed.len())
    }

    /// The program in the order in which it runs.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}

fn part(value: u64, half: Half) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match half {
        Half::Low => u32::from_le_bytes([a, b, c, d]),
        Half::High => u32::from_le_bytes([e, f, g, h]),
    }
}

/// As an array of `struct sock_filter` in host order.
pub(super) fn encode(instructions: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(instructions.len() * 8);
    for instruction in instructions {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}
