//! Conditions on the arguments of a call.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use super::Error;

/// How an argument is compared. Unsigned, as the kernel's filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// `argument & mask == value`
    Masked {
        mask: u64,
        value: u64,
    },
}

/// A comparison of one argument, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) test: Test,
}

impl Condition {
    pub(super) fn new(arg: &LinuxSeccompArg) -> Result<Self, Error> {
        let argument = match u8::try_from(arg.index()) {
            Ok(index @ 0..6) => index,
            _ => return Err(Error::Argument { index: arg.index() }),
        };
        let value = arg.value();
        let test = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
            LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
            LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
            LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
            LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
            LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
            // `value` is the mask and `valueTwo` what must remain.
            LinuxSeccompOperator::ScmpCmpMaskedEq => Test::Masked {
                mask: value,
                value: arg.value_two().unwrap_or(0) & value,
            },
        };
        Ok(Self { argument, test })
    }

    /// The same for registers of 32 bits, in which a negative number of the profile
    /// arrives without its upper half.
    pub(super) fn narrow(self) -> Self {
        let low = |value: u64| value & u64::from(u32::MAX);
        let test = match self.test {
            Test::Equal(value) => Test::Equal(low(value)),
            Test::NotEqual(value) => Test::NotEqual(low(value)),
            Test::Less(value) => Test::Less(low(value)),
            Test::LessOrEqual(value) => Test::LessOrEqual(low(value)),
            Test::Greater(value) => Test::Greater(low(value)),
            Test::GreaterOrEqual(value) => Test::GreaterOrEqual(low(value)),
            Test::Masked { mask, value } => Test::Masked {
                mask: low(mask),
                value: low(value),
            },
        };
        Self { test, ..self }
    }

    #[cfg(test)]
    pub(super) fn holds(self, arguments: &[u64; 6]) -> bool {
        let argument = arguments[usize::from(self.argument)];
        match self.test {
            Test::Equal(value) => argument == value,
            Test::NotEqual(value) => argument != value,
            Test::Less(value) => argument < value,
            Test::LessOrEqual(value) => argument <= value,
            Test::Greater(value) => argument > value,
            Test::GreaterOrEqual(value) => argument >= value,
            Test::Masked { mask, value } => argument & mask == value,
        }
    }
}
