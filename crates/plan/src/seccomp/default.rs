//! The default profile: what RuntimeDefault stands for.
//!
//! An allow-list. What is not on it was left out because it changes the node as a
//! whole (clock, modules, swap, reboot), makes or enters namespaces and mounts,
//! reaches kernel code with a poor record and no use in a container (keyrings,
//! userfaultfd, io_uring, AF_ALG), or is obsolete. Where a capability is what the
//! kernel asks for anyway, the call comes with it.
//!
//! Names of other machines and newer kernels are ignored where they do not exist,
//! so that one list serves all.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::Machine;
use crate::capability::{Cap, CapSet};

/// Calls that every container may make.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    // Files and directories.
    "access", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "faccessat", "faccessat2", "fadvise64", "fadvise64_64",
    "arm_fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown",
    "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "file_getattr", "file_setattr",
    "flock", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate",
    "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "ioctl", "lchown", "lchown32",
    "link", "linkat", "lseek", "_llseek", "lstat", "lstat64", "mkdir", "mkdirat", "mknod",
    "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "pread64",
    "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readdir",
    "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2", "rmdir", "sendfile",
    "sendfile64", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink",
    "symlinkat", "sync", "sync_file_range", "sync_file_range2", "syncfs", "tee", "truncate",
    "truncate64", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64",
    "utimes", "vmsplice", "write", "writev",
    // Extended attributes.
    "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr",
    "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr",
    "removexattrat", "setxattr", "setxattrat",
    // Watching and waiting.
    "_newselect", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait",
    "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "pipe", "pipe2",
    "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "select", "signalfd",
    "signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64",
    // Memory.
    "brk", "cachestat", "get_thread_area", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mmap2",
    "modify_ldt", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
    "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages", "set_thread_area",
    // Processes and threads.
    "arch_prctl", "breakpoint", "cacheflush", "execve", "execveat", "exit", "exit_group", "fork",
    "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake",
    "get_robust_list", "getcpu", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrlimit", "getrusage", "getsid", "gettid", "kill", "nice", "pause", "pidfd_open",
    "pidfd_send_signal", "prctl", "prlimit64", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "ptrace", "restart_syscall", "rseq", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "set_robust_list", "set_tid_address", "set_tls", "setpgid", "setpriority", "setrlimit",
    "setsid", "tgkill", "tkill", "ugetrlimit", "uprobe", "uretprobe", "vfork", "wait4", "waitid",
    "waitpid", "ioprio_get", "ioprio_set",
    // Credentials, and confining oneself further.
    "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32",
    "getgroups", "getgroups32", "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid",
    "getuid32", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
    "seccomp", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32",
    "setgroups", "setgroups32", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
    "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
    // Signals.
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sigaction", "sigaltstack", "signal", "sigpending", "sigprocmask", "sigreturn", "sigsuspend",
    // Time. Setting the clock needs CAP_SYS_TIME, which adjtimex checks by itself.
    "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "getitimer", "gettimeofday", "nanosleep", "setitimer", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64",
    "timer_settime", "timer_settime64", "times",
    // Sockets. Of socket(2) see below.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg",
    "sendto", "setsockopt", "shutdown", "socket", "socketpair",
    // System V and POSIX inter-process communication.
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
    "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt",
    "shmget",
    // Asynchronous input and output of the old kind.
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
    "io_setup", "io_submit",
    // The system.
    "getrandom", "sysinfo", "uname", "olduname", "oldolduname",
];

/// Calls that come with any one of some capabilities.
const WITH_CAPABILITY: &[(&[&str], &[&str])] = &[
    (&["DAC_READ_SEARCH"], &["open_by_handle_at"]),
    (
        &["SYS_ADMIN"],
        &[
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (&["SYS_ADMIN", "BPF"], &["bpf"]),
    (&["SYS_ADMIN", "PERFMON"], &["perf_event_open"]),
    (&["SYS_ADMIN", "SYSLOG"], &["syslog"]),
    (&["SYS_BOOT"], &["reboot"]),
    (&["SYS_CHROOT"], &["chroot"]),
    (
        &["SYS_MODULE"],
        &["delete_module", "finit_module", "init_module"],
    ),
    (
        &["SYS_NICE"],
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    (&["SYS_PACCT"], &["acct"]),
    (&["SYS_PTRACE"], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&["SYS_RAWIO"], &["ioperm", "iopl"]),
    (
        &["SYS_TIME"],
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    (&["SYS_TTY_CONFIG"], &["vhangup"]),
];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Native, 32-bit, either with the `uname` of Linux 2.6, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// AF_ALG: the kernel's ciphers for everybody. AF_VSOCK: speaks to the hypervisor and
/// is not separated by network namespaces.
const DENIED_FAMILIES: [u64; 2] = [38, 40];

/// The kernel takes these arguments as 32-bit numbers and ignores what a program has
/// in the upper half of the register, so the filter must do the same.
const LOW_HALF: u64 = 0xffff_ffff;

/// The profile for a container with these effective capabilities.
#[must_use]
pub fn default_profile(capabilities: CapSet, machine: Machine) -> LinuxSeccomp {
    let has = |name: &&str| Cap::parse(name).is_some_and(|cap| capabilities.contains(cap));
    let mut syscalls = vec![entry(ALLOWED, Action::ScmpActAllow, None, None)];
    for (wanted, names) in WITH_CAPABILITY {
        if wanted.iter().any(has) {
            syscalls.push(entry(names, Action::ScmpActAllow, None, None));
        }
    }
    for family in DENIED_FAMILIES {
        let condition = masked(LOW_HALF, family);
        let errno = Some(libc::EPERM);
        syscalls.push(entry(
            &["socket"],
            Action::ScmpActErrno,
            errno,
            Some(condition),
        ));
    }
    for personality in PERSONALITIES {
        let condition = masked(LOW_HALF, personality);
        syscalls.push(entry(
            &["personality"],
            Action::ScmpActAllow,
            None,
            Some(condition),
        ));
    }
    if !has(&"SYS_ADMIN") {
        let condition = masked(CLONE_NAMESPACES, 0);
        syscalls.push(entry(
            &["clone"],
            Action::ScmpActAllow,
            None,
            Some(condition),
        ));
        // Its flags lie in memory, where a filter cannot look. Libraries then use clone.
        syscalls.push(entry(
            &["clone3"],
            Action::ScmpActErrno,
            Some(libc::ENOSYS),
            None,
        ));
    }
    // x32 is left out: hardly a kernel has it, and it doubles what could be forgotten.
    let architectures = match machine {
        Machine::X86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        Machine::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
    };
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM.unsigned_abs()))
        .set_architectures(Some(architectures))
        .set_syscalls(Some(syscalls));
    profile
}

fn entry(
    names: &[&str],
    action: Action,
    errno: Option<i32>,
    condition: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names.iter().map(|&name| name.to_owned()).collect())
        .set_action(action)
        .set_errno_ret(errno.map(i32::unsigned_abs))
        .set_args(condition.map(|condition| vec![condition]));
    syscall
}

/// A condition on the first argument.
fn masked(mask: u64, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value)
        .build()
        .expect("the builder has a default for every field")
}
