//! As much of the eBPF instruction set as a device program needs.

/// One eBPF instruction (struct bpf_insn).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    /// Of a jump in instructions, of a load in bytes.
    pub(crate) offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: destination | source << 4,
            offset,
            immediate,
        }
    }

    /// Register `to` = the u32 at `offset` bytes behind register `from`.
    pub(crate) const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    /// 32-bit: register `to` = register `from`.
    pub(crate) const fn move_register(to: u8, from: u8) -> Self {
        Self::new(0xbc, to, from, 0, 0)
    }

    /// 32-bit: register `to` = `value`.
    pub(crate) const fn set(to: u8, value: i32) -> Self {
        Self::new(0xb4, to, 0, 0, value)
    }

    /// 32-bit: register `to` &= `value`.
    pub(crate) const fn and(to: u8, value: i32) -> Self {
        Self::new(0x54, to, 0, 0, value)
    }

    /// 32-bit: register `to` >>= `bits`.
    pub(crate) const fn shift_right(to: u8, bits: i32) -> Self {
        Self::new(0x74, to, 0, 0, bits)
    }

    /// 32-bit: skips `offset` instructions unless register `of` is `value`.
    pub(crate) const fn jump_unless_equal(of: u8, value: i32, offset: i16) -> Self {
        Self::new(0x56, of, 0, offset, value)
    }

    /// 32-bit: skips `offset` instructions if register `of` is `value`.
    pub(crate) const fn jump_if_equal(of: u8, value: i32, offset: i16) -> Self {
        Self::new(0x16, of, 0, offset, value)
    }

    /// Returns register 0.
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }

    /// The kernel's form, in host byte order.
    pub(crate) fn encode(self) -> u64 {
        let [o0, o1] = self.offset.to_ne_bytes();
        let [i0, i1, i2, i3] = self.immediate.to_ne_bytes();
        u64::from_ne_bytes([self.code, self.registers, o0, o1, i0, i1, i2, i3])
    }
}

/// Runs a program on a context of three words.
#[cfg(test)]
pub(crate) fn interpret(program: &[Instruction], context: [u32; 3]) -> u32 {
    let mut registers = [0_u32; 11];
    let mut at = 0_usize;
    loop {
        let i = program[at];
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let value = i.immediate as u32;
        at += 1;
        let jump = match i.code {
            0x61 => {
                registers[to] = context[i.offset as usize / 4];
                false
            }
            0xbc => {
                registers[to] = registers[from];
                false
            }
            0xb4 => {
                registers[to] = value;
                false
            }
            0x54 => {
                registers[to] &= value;
                false
            }
            0x74 => {
                registers[to] >>= value;
                false
            }
            0x56 => registers[to] != value,
            0x16 => registers[to] == value,
            0x95 => return registers[0],
            other => panic!("instruction {other:#x}"),
        };
        if jump {
            at += i.offset as usize;
        }
    }
}
