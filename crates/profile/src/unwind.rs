//! From a copied stack to the addresses of who called whom.

use berth_sys::sampler::{REGISTERS, STACK_POINTER, Sample};
use gimli::{CfaRule, Register, RegisterRule, UnwindContext};

use crate::maps::Maps;

/// Longest chain that is told; polled futures nest deeply.
const MAX_FRAMES: usize = 192;

/// Where the tables keep the return address (System V ABI of each architecture).
#[cfg(target_arch = "x86_64")]
const RETURN_ADDRESS: usize = 16;
#[cfg(target_arch = "aarch64")]
const RETURN_ADDRESS: usize = 30;

type Registers = [u64; REGISTERS];

/// Addresses from the running function outwards. Those of callers are of the call
/// itself, one byte before where it returns to, as pprof has them.
pub(crate) fn chain(maps: &Maps, sample: &Sample) -> Vec<u64> {
    let bottom = sample.registers[STACK_POINTER];
    let word = |address: u64| {
        let at = usize::try_from(address.checked_sub(bottom)?).ok()?;
        let bytes = sample.stack().get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut chain = vec![sample.pc];
    let mut registers = sample.registers;
    let mut context = UnwindContext::new();
    let mut at = sample.pc;
    while chain.len() < MAX_FRAMES {
        let caller = step(maps, &mut context, at, &registers, word);
        let Some((back, outer)) = caller else { break };
        // The stack only shrinks on the way out; tables that say otherwise go round.
        let outwards = outer[STACK_POINTER] > registers[STACK_POINTER];
        if back == 0 || !outwards {
            break;
        }
        registers = outer;
        at = back - 1;
        chain.push(at);
    }
    chain
}

/// The return address of the function at `at`, and the registers of its caller.
fn step(
    maps: &Maps,
    context: &mut UnwindContext<usize>,
    at: u64,
    registers: &Registers,
    word: impl Fn(u64) -> Option<u64>,
) -> Option<(u64, Registers)> {
    let (_, mapping) = maps.find(at)?;
    let (object, address) = mapping.in_object(at)?;
    let row = object.frame(address, context)?;
    let value = |Register(number): Register| registers.get(usize::from(number)).copied();
    let frame = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            value(*register)?.wrapping_add_signed(*offset)
        }
        // Of the linkage table and hand-written code only.
        CfaRule::Expression(_) => return None,
    };
    let mut outer = *registers;
    for (Register(number), rule) in row.registers() {
        let Some(register) = outer.get_mut(usize::from(*number)) else {
            // A vector register.
            continue;
        };
        *register = match rule {
            RegisterRule::SameValue => continue,
            // How the outermost function says that it has no caller.
            RegisterRule::Undefined => 0,
            RegisterRule::Offset(offset) => word(frame.wrapping_add_signed(*offset))?,
            RegisterRule::ValOffset(offset) => frame.wrapping_add_signed(*offset),
            RegisterRule::Register(other) => value(*other)?,
            RegisterRule::Constant(value) => *value,
            _ => return None,
        };
    }
    outer[STACK_POINTER] = frame;
    Some((outer[RETURN_ADDRESS], outer))
}
