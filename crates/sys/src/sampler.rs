//! Samples of what this process spends processor time on.
//!
//! A timer that runs with the processor time of the whole process (`ITIMER_PROF`)
//! sends SIGPROF to the thread that is running. The handler copies that thread's
//! registers and the top of its stack into one of a few places and returns; who
//! called whom is found out later, from the copy, by code that may allocate and
//! that cannot crash the thread. Unwinding in the handler, the alternative, trusts
//! the unwind tables of every library at every instruction; following frame
//! pointers needs all of them, libc included, to be compiled with them.
//!
//! The copy is made by process_vm_readv(2) from this process itself, which says
//! EFAULT where a plain read would be a SIGSEGV.

use std::{
    cell::UnsafeCell,
    fmt, io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::check_int;

/// How much of a stack is copied. Frames of polled futures are large; what lies
/// below this is cut off.
pub const STACK_BYTES: usize = 32 << 10;

/// Samples that wait to be taken: at 100 a second and a reader that comes every 10 ms
/// one is the rule.
const PLACES: usize = 32;

/// Pieces that are read one by one, so that a hole in the memory costs only what is
/// behind it (process_vm_readv(2), NOTES).
const PIECE: usize = 4096;
const PIECES: usize = STACK_BYTES / PIECE;

/// Registers by their number in DWARF (System V ABI of each architecture).
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: usize = 17;
/// Registers by their number in DWARF (System V ABI of each architecture).
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: usize = 33;

/// The number of the stack pointer.
#[cfg(target_arch = "x86_64")]
pub const STACK_POINTER: usize = 7;
/// The number of the stack pointer.
#[cfg(target_arch = "aarch64")]
pub const STACK_POINTER: usize = 31;

/// A thread as it was when its time came.
#[derive(Clone)]
pub struct Sample {
    /// The instruction that would have been next.
    pub pc: u64,
    /// Registers by their number in DWARF.
    pub registers: [u64; REGISTERS],
    /// How many bytes of `stack` there are.
    filled: usize,
    stack: [u8; STACK_BYTES],
}

impl Sample {
    /// The stack from the stack pointer upwards.
    #[must_use]
    pub fn stack(&self) -> &[u8] {
        self.stack.get(..self.filled).unwrap_or_default()
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("pc", &format_args!("{:#x}", self.pc))
            .field("stack", &self.filled)
            .finish_non_exhaustive()
    }
}

const FREE: u8 = 0;
/// A handler writes to it.
const TAKEN: u8 = 1;
const FULL: u8 = 2;

struct Place {
    state: AtomicU8,
    sample: UnsafeCell<Sample>,
}

// SAFETY: `sample` is touched only by who has brought `state` from FREE to TAKEN, or
// has found it FULL while being the only reader (`Sampler` is one at a time).
unsafe impl Sync for Place {}

/// Never freed: a signal may still be on its way to a thread when sampling has ended.
static PLACES_OF_ALL: OnceLock<Box<[Place]>> = OnceLock::new();
static RUNNING: AtomicBool = AtomicBool::new(false);
static LOST: AtomicU64 = AtomicU64::new(0);

/// Sampling that runs until this is dropped. There is one at a time in a process.
#[derive(Debug)]
pub struct Sampler(());

impl Sampler {
    /// Takes a sample each time the process has used `period` of processor time.
    ///
    /// # Errors
    /// EBUSY if samples are being taken already; what sigaction(2) and setitimer(2) say.
    pub fn start(period: Duration) -> io::Result<Self> {
        if RUNNING.swap(true, Ordering::AcqRel) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let sampler = Self(());
        for place in places() {
            // What an earlier sampling has left.
            let left =
                place
                    .state
                    .compare_exchange(FULL, FREE, Ordering::AcqRel, Ordering::Relaxed);
            debug_assert!(left != Err(TAKEN));
        }
        LOST.store(0, Ordering::Relaxed);
        install()?;
        set_timer(period)?;
        Ok(sampler)
    }

    /// Hands all samples that are there to `take`; returns how many there were.
    pub fn drain(&mut self, mut take: impl FnMut(&Sample)) -> usize {
        let mut count = 0;
        for place in places() {
            if place.state.load(Ordering::Acquire) == FULL {
                // SAFETY: FULL is left by readers only, and `&mut self` makes this the one.
                take(unsafe { &*place.sample.get() });
                place.state.store(FREE, Ordering::Release);
                count += 1;
            }
        }
        count
    }

    /// Samples for which there was no place.
    #[must_use]
    pub fn lost(&self) -> u64 {
        LOST.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // Zero disarms it, which does not fail. The handler stays: without one, a
        // signal that is pending would end the process.
        set_timer(Duration::ZERO).ok();
        RUNNING.store(false, Ordering::Release);
    }
}

fn places() -> &'static [Place] {
    PLACES_OF_ALL.get_or_init(|| {
        let empty = || Place {
            state: AtomicU8::new(FREE),
            sample: UnsafeCell::new(Sample {
                pc: 0,
                registers: [0; REGISTERS],
                filled: 0,
                stack: [0; STACK_BYTES],
            }),
        };
        std::iter::repeat_with(empty).take(PLACES).collect()
    })
}

fn install() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value of that plain C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the thread's own stack for signals where it has one; system calls go on.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler does what is async-signal-safe only: atomics, one system
    // call, and writes to a place that is its own.
    check_int(unsafe { libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) })?;
    Ok(())
}

fn set_timer(period: Duration) -> io::Result<()> {
    let every = libc::timeval {
        tv_sec: period.as_secs() as libc::time_t,
        tv_usec: period.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: every,
        it_value: every,
    };
    // SAFETY: the struct is read during the call only.
    let done =
        unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
    check_int(done)?;
    Ok(())
}

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno's address is valid for as long as the thread is.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    if RUNNING.load(Ordering::Acquire)
        && let Some(places) = PLACES_OF_ALL.get()
    {
        // SAFETY: with SA_SIGINFO the kernel passes a ucontext_t, which is there
        // until the handler returns.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        if !places.iter().any(|place| fill(place, context)) {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
    // SAFETY: as above. The interrupted code may be about to read it.
    unsafe { *errno = before };
}

/// Whether the sample has found its place here.
fn fill(place: &Place, context: &libc::ucontext_t) -> bool {
    let claimed = place
        .state
        .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed);
    if claimed.is_err() {
        return false;
    }
    // SAFETY: bringing it from FREE to TAKEN made it this handler's.
    let sample = unsafe { &mut *place.sample.get() };
    (sample.pc, sample.registers) = registers(context);
    sample.filled = copy(sample.registers[STACK_POINTER], &mut sample.stack);
    place.state.store(FULL, Ordering::Release);
    true
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (u64, [u64; REGISTERS]) {
    let saved = &context.uc_mcontext.gregs;
    let order = [
        libc::REG_RAX,
        libc::REG_RDX,
        libc::REG_RCX,
        libc::REG_RBX,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_RBP,
        libc::REG_RSP,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
        libc::REG_RIP,
    ];
    let registers = order.map(|index| saved[index as usize] as u64);
    (registers[16], registers)
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (u64, [u64; REGISTERS]) {
    let saved = &context.uc_mcontext;
    let mut registers = [0; REGISTERS];
    registers[..31].copy_from_slice(&saved.regs);
    registers[STACK_POINTER] = saved.sp;
    registers[32] = saved.pc;
    (saved.pc, registers)
}

/// Copies what is readable from `from` upwards; returns how much that is.
fn copy(from: u64, to: &mut [u8; STACK_BYTES]) -> usize {
    let nothing = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut pieces = [nothing; PIECES + 1];
    let mut at = 0;
    for piece in &mut pieces {
        let address = from.wrapping_add(at as u64) as usize;
        let length = (PIECE - address % PIECE).min(STACK_BYTES - at);
        *piece = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: length,
        };
        at += length;
    }
    let local = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: STACK_BYTES,
    };
    // SAFETY: getpid takes nothing.
    let this = unsafe { libc::getpid() };
    // SAFETY: the kernel writes at most `iov_len` bytes to `to`, which is exclusively
    // borrowed, and checks the addresses in `pieces` itself.
    let copied = unsafe {
        libc::process_vm_readv(
            this,
            &raw const local,
            1,
            pieces.as_ptr(),
            pieces.len() as libc::c_ulong,
            0,
        )
    };
    usize::try_from(copied).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[inline(never)]
    fn burn(until: Instant) -> u64 {
        let mut sum = 0u64;
        while Instant::now() < until {
            for n in 0..1000u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
            }
        }
        sum
    }

    // One test, as a process has one sampler.
    #[test]
    fn a_busy_thread_is_sampled_with_its_stack_and_there_is_one_sampler_at_a_time() {
        let mut sampler = Sampler::start(Duration::from_millis(5)).unwrap();
        let second = Sampler::start(Duration::from_millis(5)).unwrap_err();
        assert_eq!(second.raw_os_error(), Some(libc::EBUSY));
        let mut taken = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        while taken.len() < 5 {
            assert!(Instant::now() < end, "no samples in 20 s");
            let worker = std::thread::spawn(|| burn(Instant::now() + Duration::from_millis(100)));
            worker.join().unwrap();
            sampler.drain(|sample| taken.push(sample.clone()));
        }
        for sample in &taken {
            assert!(sample.pc > 0x1000, "{sample:?}");
            let words = sample.stack().len() / 8;
            assert!(words > 16, "{sample:?}");
        }
        drop(sampler);
        burn(Instant::now() + Duration::from_millis(50));
        let mut again = Sampler::start(Duration::from_secs(1)).unwrap();
        assert_eq!(again.drain(|_| {}), 0, "a stopped sampler samples");
    }

    #[test]
    fn a_stack_that_is_not_there_is_empty_and_no_fault() {
        assert_eq!(copy(16, &mut [0; STACK_BYTES]), 0);
    }
}
