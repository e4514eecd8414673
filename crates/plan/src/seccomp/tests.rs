//! The compiled program is run by an interpreter of classic BPF and compared with a
//! plain reading of the profile, for every number of every table and its neighbours.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
    LinuxSyscall,
};
use proptest::prelude::*;

use super::{
    abi::X32_BIT,
    condition::Condition,
    program::{
        AND, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, RETURN,
    },
    *,
};
use crate::capability::{Cap, CapSet};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 0x0005_0000 | 38;
const EPERM: u32 = 0x0005_0000 | 1;

#[derive(Clone, Copy, Debug, Default)]
struct Call {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

impl Call {
    fn data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        data[0..4].copy_from_slice(&self.number.to_le_bytes());
        data[4..8].copy_from_slice(&self.arch.to_le_bytes());
        for (place, argument) in self.arguments.iter().enumerate() {
            data[16 + 8 * place..24 + 8 * place].copy_from_slice(&argument.to_le_bytes());
        }
        data
    }
}

/// Runs a program as the kernel does, and counts its steps.
fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let data = call.data();
    let (mut at, mut register, mut steps) = (0_usize, 0_u32, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let taken = match code {
            LOAD => {
                assert!(k % 4 == 0 && k < 64, "the kernel refuses such a load");
                let place = k as usize;
                register = u32::from_le_bytes(data[place..place + 4].try_into().unwrap());
                continue;
            }
            AND => {
                register &= k;
                continue;
            }
            JUMP => {
                at += k as usize;
                continue;
            }
            RETURN => return (k, steps),
            JUMP_EQUAL => register == k,
            JUMP_GREATER => register > k,
            JUMP_GREATER_OR_EQUAL => register >= k,
            other => panic!("unknown instruction {other:#x}"),
        };
        at += usize::from(if taken { jt } else { jf });
    }
}

/// A plain reading of the profile, rule by rule, that shares no code with the tables.
fn naive(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let listed = profile.architectures().clone().unwrap_or_default();
    let (abi, wide) = match (call.arch, call.number & X32_BIT != 0) {
        (X86_64, false) => (Abi::X86_64, true),
        // Every number with the bit, and those beyond, are x32's.
        (X86_64, true) if listed.contains(&Arch::ScmpArchX32) => (Abi::X32, true),
        (I386, _) if listed.contains(&Arch::ScmpArchX86) => (Abi::X86, false),
        _ => return ENOSYS,
    };
    let abi = if call.arch == X86_64 && call.number >= X32_BIT {
        if !listed.contains(&Arch::ScmpArchX32) {
            return ENOSYS;
        }
        Abi::X32
    } else {
        abi
    };
    let default = Verdict::new(profile.default_action(), profile.default_errno_ret()).unwrap();
    let (mut conditional, mut plain): (Option<Verdict>, Option<Verdict>) = (None, None);
    let mut newest = None;
    let stricter = |old: Option<Verdict>, new| Some(old.map_or(new, |old: Verdict| old.min(new)));
    for syscall in profile.syscalls().iter().flatten() {
        let verdict = Verdict::new(syscall.action(), syscall.errno_ret()).unwrap();
        let conditions: Vec<Condition> = syscall
            .args()
            .iter()
            .flatten()
            .map(|arg| Condition::new(arg).unwrap())
            .map(|condition| if wide { condition } else { condition.narrow() })
            .collect();
        for name in syscall.names() {
            for number in abi.numbers(name) {
                if abi.grows_at(number) {
                    newest = newest.max(Some(number));
                }
                if number != call.number {
                    continue;
                }
                if conditions.is_empty() {
                    plain = stricter(plain, verdict);
                } else {
                    let mut indices: Vec<u8> = conditions.iter().map(|c| c.argument).collect();
                    indices.sort_unstable();
                    indices.dedup();
                    let mut holding = conditions.iter().map(|c| c.holds(&call.arguments));
                    let applies = if indices.len() == conditions.len() {
                        holding.all(|holds| holds)
                    } else {
                        holding.any(|holds| holds)
                    };
                    if applies {
                        conditional = stricter(conditional, verdict);
                    }
                }
            }
        }
    }
    if let Some(verdict) = conditional.or(plain) {
        return verdict.code();
    }
    match newest.and_then(|newest| abi.future(newest)) {
        Some((from, to)) if !default.permits() && (from..=to).contains(&call.number) => ENOSYS,
        _ => default.code(),
    }
}

/// All numbers that any table has, and what lies between and beyond.
fn numbers() -> impl Iterator<Item = u32> {
    (0..620).chain(X32_BIT - 2..X32_BIT + 620).chain([
        1000,
        0x000f_0005,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ])
}

fn condition(index: usize, op: Op, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let text = serde_json::json!({ "index": index, "op": op, "value": value, "valueTwo": second });
    serde_json::from_value(text).unwrap()
}

fn rule(names: &[&str], action: Action, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names.iter().map(|&name| name.to_owned()).collect())
        .set_action(action)
        .set_args((!args.is_empty()).then_some(args));
    syscall
}

fn profile(default: Action, arches: Vec<Arch>, syscalls: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(default)
        .set_architectures(Some(arches))
        .set_syscalls(Some(syscalls));
    profile
}

fn verdict(profile: &LinuxSeccomp, arch: u32, number: u32, first: u64) -> u32 {
    let machine = if arch == AARCH64 || arch == ARM {
        Machine::Aarch64
    } else {
        Machine::X86_64
    };
    let call = Call {
        number,
        arch,
        arguments: [first, 0, 0, 0, 0, 0],
    };
    run(&instructions(profile, machine).unwrap(), &call).0
}

fn default_for(names: &[&str]) -> LinuxSeccomp {
    let caps = names.iter().map(|name| Cap::parse(name).unwrap()).collect();
    default_profile(caps, Machine::X86_64)
}

fn native(name: &str) -> u32 {
    Abi::X86_64.numbers(name)[0]
}

fn i386(name: &str) -> u32 {
    Abi::X86.numbers(name)[0]
}

#[test]
fn the_default_profile_says_the_same_compiled_and_read_rule_by_rule() {
    let sets = [CapSet::EMPTY, CapSet::all(), CapSet::from_bits(0xa804_25fb)];
    // Values that conditions of the profile look at, and others around them.
    let values = [
        0,
        1,
        2,
        8,
        38,
        39,
        40,
        41,
        0x11,
        0x2_0000,
        0x2_0008,
        0x7e02_0000,
        0x1000_0011,
        0xffff_ffff,
        0x1_0000_0026,
        0x1_0000_0000,
        u64::MAX,
    ];
    for caps in sets {
        let profile = default_profile(caps, Machine::X86_64);
        let program = instructions(&profile, Machine::X86_64).unwrap();
        for arch in [X86_64, I386, AARCH64, 0] {
            for number in numbers() {
                // The multiplexers are not rules of the profile; see their own test.
                if arch == I386 && matches!(number, 102 | 117) {
                    continue;
                }
                let looked_at = [17, 41, 56, 120, 135, 136, 359].contains(&number);
                for value in &values[..if looked_at { values.len() } else { 1 }] {
                    let value = *value;
                    let call = Call {
                        number,
                        arch,
                        arguments: [if arch == I386 {
                            value & 0xffff_ffff
                        } else {
                            value
                        }; 6],
                    };
                    let (got, _) = run(&program, &call);
                    assert_eq!(got, naive(&profile, &call), "{call:x?} with {caps:?}");
                }
            }
        }
    }
}

#[test]
fn ordinary_calls_are_allowed_and_dangerous_ones_are_not() {
    let plain = default_for(&["CHOWN", "KILL", "NET_RAW"]);
    for name in [
        "read",
        "openat2",
        "execve",
        "clone",
        "futex_waitv",
        "statx",
        "rseq",
        "ptrace",
    ] {
        assert_eq!(verdict(&plain, X86_64, native(name), 0), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "fsopen",
        "open_tree",
        "move_mount",
        "bpf",
        "keyctl",
        "add_key",
        "userfaultfd",
        "perf_event_open",
        "io_uring_setup",
        "io_uring_enter",
        "kexec_load",
        "init_module",
        "reboot",
        "swapon",
        "open_by_handle_at",
        "syslog",
        "settimeofday",
        "pivot_root",
        "personality_",
    ] {
        if let Some(&number) = Abi::X86_64.numbers(name).first() {
            assert_eq!(verdict(&plain, X86_64, number, 0), EPERM, "{name}");
        }
    }
    let admin = default_for(&["SYS_ADMIN"]);
    for name in ["mount", "unshare", "clone3", "bpf", "setns"] {
        assert_eq!(verdict(&admin, X86_64, native(name), 0), ALLOW, "{name}");
    }
    assert_eq!(verdict(&admin, X86_64, native("io_uring_setup"), 0), EPERM);
    assert_eq!(
        verdict(&default_for(&["SYSLOG"]), X86_64, native("syslog"), 0),
        ALLOW
    );
}

#[test]
fn namespaces_cannot_be_made_by_clone_and_clone3_makes_libraries_fall_back() {
    let plain = default_for(&[]);
    let clone = native("clone");
    assert_eq!(verdict(&plain, X86_64, clone, 0x0050_0f00 | 17), ALLOW);
    for flag in [17, 25, 26, 27, 28, 29, 30].map(|bit| 1_u64 << bit) {
        assert_eq!(
            verdict(&plain, X86_64, clone, flag | 17),
            EPERM,
            "{flag:#x}"
        );
        assert_eq!(
            verdict(&plain, I386, i386("clone"), flag | 17),
            EPERM,
            "{flag:#x}"
        );
    }
    assert_eq!(verdict(&plain, X86_64, native("clone3"), 0), ENOSYS);
}

#[test]
fn denied_socket_families_stay_denied_on_every_way_to_them() {
    let plain = default_for(&[]);
    for family in [38_u64, 40] {
        assert_eq!(verdict(&plain, X86_64, native("socket"), family), EPERM);
        // The kernel takes an int: junk in the upper half must not hide the family.
        assert_eq!(
            verdict(&plain, X86_64, native("socket"), family | 1 << 32),
            EPERM
        );
        assert_eq!(verdict(&plain, I386, i386("socket"), family), EPERM);
        // x32's socket.
        assert_eq!(
            verdict(&plain, X86_64, native("socket") | X32_BIT, family),
            ENOSYS
        );
    }
    for family in [1_u64, 2, 10, 16, 17, 39, 41] {
        assert_eq!(verdict(&plain, X86_64, native("socket"), family), ALLOW);
    }
    // The family lies in memory: socket through socketcall is denied whole, others not.
    assert_eq!(verdict(&plain, I386, i386("socketcall"), 1), EPERM);
    for operation in 2..=20 {
        assert_eq!(
            verdict(&plain, I386, i386("socketcall"), operation),
            ALLOW,
            "{operation}"
        );
    }
    assert_eq!(verdict(&plain, I386, i386("socketcall"), 21), EPERM);
}

#[test]
fn the_version_in_ipcs_selector_hides_nothing() {
    let denies_shm = profile(
        Action::ScmpActAllow,
        vec![Arch::ScmpArchX86],
        vec![rule(&["shmget"], Action::ScmpActErrno, vec![])],
    );
    for version in [0, 1, 7] {
        let selector = 23 | version << 16;
        assert_eq!(verdict(&denies_shm, I386, i386("ipc"), selector), EPERM);
    }
    assert_eq!(verdict(&denies_shm, I386, i386("ipc"), 21), ALLOW);
}

#[test]
fn a_permissive_profile_does_not_let_unlisted_conventions_in() {
    let denies_read = profile(
        Action::ScmpActAllow,
        vec![],
        vec![rule(&["ptrace"], Action::ScmpActKillProcess, vec![])],
    );
    assert_eq!(
        verdict(&denies_read, X86_64, native("ptrace"), 0),
        0x8000_0000
    );
    assert_eq!(verdict(&denies_read, X86_64, 100_000, 0), ALLOW);
    assert_eq!(verdict(&denies_read, I386, i386("ptrace"), 0), ENOSYS);
    assert_eq!(verdict(&denies_read, I386, i386("read"), 0), ENOSYS);
    assert_eq!(verdict(&denies_read, X86_64, X32_BIT, 0), ENOSYS);
    // Where x32 is listed, both of its numbers for a call are covered.
    let mut with_x32 = denies_read.clone();
    with_x32.set_architectures(Some(vec![Arch::ScmpArchX32]));
    for number in [native("ptrace"), 521] {
        assert_eq!(verdict(&with_x32, X86_64, number | X32_BIT, 0), 0x8000_0000);
    }
    assert_eq!(verdict(&with_x32, X86_64, X32_BIT, 0), ALLOW);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist_and_older_unnamed_ones_are_denied() {
    let old = profile(
        Action::ScmpActErrno,
        vec![],
        vec![rule(
            &["read", "getrandom", "no_such_call"],
            Action::ScmpActAllow,
            vec![],
        )],
    );
    assert_eq!(verdict(&old, X86_64, native("getrandom"), 0), ALLOW);
    assert_eq!(verdict(&old, X86_64, native("getrandom") - 1, 0), EPERM);
    assert_eq!(verdict(&old, X86_64, native("getrandom") + 1, 0), ENOSYS);
    assert_eq!(verdict(&old, X86_64, X32_BIT - 1, 0), ENOSYS);
    let arm = default_profile(CapSet::EMPTY, Machine::Aarch64);
    assert_eq!(verdict(&arm, ARM, 0x000f_0005, 0), ALLOW, "set_tls");
    assert_eq!(verdict(&arm, ARM, 0x000f_0004, 0), EPERM);
    assert_eq!(verdict(&arm, ARM, 600, 0), ENOSYS);
    assert_eq!(verdict(&arm, AARCH64, 79, 0), ALLOW, "newfstatat");
    let foreign = Call {
        arch: X86_64,
        ..Call::default()
    };
    let program = instructions(&arm, Machine::Aarch64).unwrap();
    assert_eq!(run(&program, &foreign).0, ENOSYS);
}

#[test]
fn a_stricter_rule_is_never_hidden() {
    let allow_first = profile(
        Action::ScmpActErrno,
        vec![],
        vec![
            rule(&["socket"], Action::ScmpActAllow, vec![]),
            rule(
                &["socket"],
                Action::ScmpActErrno,
                vec![condition(0, Op::ScmpCmpEq, 40, None)],
            ),
            rule(&["mount"], Action::ScmpActAllow, vec![]),
            rule(&["mount"], Action::ScmpActKillProcess, vec![]),
        ],
    );
    assert_eq!(verdict(&allow_first, X86_64, native("socket"), 40), EPERM);
    assert_eq!(verdict(&allow_first, X86_64, native("socket"), 2), ALLOW);
    assert_eq!(
        verdict(&allow_first, X86_64, native("mount"), 0),
        0x8000_0000
    );
}

#[test]
fn a_listener_is_asked_for_by_a_rule_and_found_by_its_path() {
    let with = |call: &str, default, path: Option<&str>| {
        let mut profile = profile(
            default,
            vec![],
            vec![rule(&[call], Action::ScmpActNotify, vec![])],
        );
        profile.set_listener_path(path.map(Into::into));
        profile
    };
    let good = with("mount", Action::ScmpActAllow, Some("/run/listener"));
    assert!(compile(&good, Machine::X86_64).unwrap().listener);
    assert_eq!(verdict(&good, X86_64, native("mount"), 0), 0x7fc0_0000);
    for bad in [
        with("mount", Action::ScmpActAllow, None),
        with("mount", Action::ScmpActAllow, Some("")),
        with("write", Action::ScmpActAllow, Some("/run/listener")),
        with("mount", Action::ScmpActNotify, Some("/run/listener")),
    ] {
        let compiled = compile(&bad, Machine::X86_64);
        assert!(matches!(compiled, Err(Error::Notify(_))), "{compiled:?}");
    }
    let mut alone = profile(Action::ScmpActAllow, vec![], vec![]);
    alone.set_listener_path(Some("/run/listener".into()));
    assert!(!compile(&alone, Machine::X86_64).unwrap().listener);
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let with = |rule: LinuxSyscall| profile(Action::ScmpActAllow, vec![], vec![rule]);
    let mut large = rule(&["mount"], Action::ScmpActErrno, vec![]);
    large.set_errno_ret(Some(4096));
    assert!(matches!(
        compile(&with(large), Machine::X86_64),
        Err(Error::Errno { .. })
    ));
    let sixth = rule(
        &["mount"],
        Action::ScmpActErrno,
        vec![condition(6, Op::ScmpCmpEq, 0, None)],
    );
    assert!(matches!(
        compile(&with(sixth), Machine::X86_64),
        Err(Error::Argument { index: 6 })
    ));
    let many: Vec<_> = (0..3000)
        .map(|value| {
            rule(
                &["mount"],
                Action::ScmpActErrno,
                vec![condition(0, Op::ScmpCmpEq, value, None)],
            )
        })
        .collect();
    let many = profile(Action::ScmpActAllow, vec![], many);
    assert!(matches!(
        compile(&many, Machine::X86_64),
        Err(Error::TooLong { .. })
    ));
}

#[test]
fn the_default_program_is_short_and_quick_to_run() {
    let program = instructions(&default_for(&[]), Machine::X86_64).unwrap();
    assert!(program.len() < 700, "{} instructions", program.len());
    let longest = (0..470)
        .map(|number| {
            let call = Call {
                number,
                arch: X86_64,
                arguments: [0; 6],
            };
            run(&program, &call).1
        })
        .max();
    // A chain of comparisons would take some 400.
    assert!(longest < Some(30), "{longest:?} steps");
}

#[test]
fn equal_profiles_are_compiled_once() {
    let cache = FilterCache::default();
    let first = cache.get(&default_for(&[]), Machine::X86_64).unwrap();
    let again = cache.get(&default_for(&[]), Machine::X86_64).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    let other = cache
        .get(&default_for(&["SYS_ADMIN"]), Machine::X86_64)
        .unwrap();
    assert_ne!(first.program, other.program);
    assert_eq!(first.program.len() % 8, 0);
}

fn any_operator() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ])
}

/// Values near the borders of the halves, since that is where comparisons go wrong.
fn any_value() -> impl Strategy<Value = u64> {
    let part = prop::sample::select(vec![0_u64, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
    (part.clone(), part).prop_map(|(high, low)| high << 32 | low)
}

fn any_action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::ScmpActKillThread,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
        Action::ScmpActErrno,
        Action::ScmpActTrace,
        Action::ScmpActLog,
        Action::ScmpActAllow,
    ])
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    // None of them is an operation of a multiplexer.
    let names = vec![
        "read",
        "write",
        "openat",
        "mount",
        "getrandom",
        "ptrace",
        "clone",
        "mseal",
    ];
    let args = prop::collection::vec((0_usize..3, any_operator(), any_value(), any_value()), 0..3);
    (prop::sample::subsequence(names, 1..5), any_action(), args).prop_map(
        |(names, action, args)| {
            let args = args
                .into_iter()
                .map(|(index, op, value, two)| condition(index, op, value, Some(two)));
            rule(&names, action, args.collect())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_profile_says_the_same_compiled_and_read_rule_by_rule(
        rules in prop::collection::vec(any_rule(), 0..8),
        default in any_action(),
        arches in prop::sample::subsequence(
            vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32], 0..=3),
        arguments in prop::collection::vec(prop::array::uniform3(any_value()), 1..4),
    ) {
        let profile = profile(default, arches, rules);
        let program = instructions(&profile, Machine::X86_64).unwrap();
        for number in numbers() {
            for arch in [X86_64, I386, AARCH64] {
                for [one, two, three] in &arguments {
                    let narrow = if arch == I386 { 0xffff_ffff } else { u64::MAX };
                    let call = Call {
                        number, arch,
                        arguments: [one & narrow, two & narrow, three & narrow, 0, 0, 0],
                    };
                    prop_assert_eq!(run(&program, &call).0, naive(&profile, &call), "{:x?}", call);
                }
            }
        }
    }
}
