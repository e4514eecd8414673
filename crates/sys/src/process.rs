//! Processes: pidfds, waiting, attributes of the caller, execve.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use crate::{check, check_int};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It called exit with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

impl Ending {
    /// The code as a shell says it: 128 + N for signal N.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }

    /// The signal, 0 if it exited by itself.
    #[must_use]
    pub fn signal(self) -> i32 {
        match self {
            Self::Exited(_) => 0,
            Self::Signaled(signal) => signal,
        }
    }

    fn from_siginfo(code: i32, status: i32) -> Self {
        match code {
            libc::CLD_EXITED => Self::Exited(status),
            _ => Self::Signaled(status),
        }
    }

    fn from_wait_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// Opens a descriptor for process `pid`.
///
/// # Errors
/// ESRCH if there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends `signal` to the process behind `pidfd`; 0 only checks that it is there.
///
/// # Errors
/// ESRCH if it is gone.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no siginfo is passed, so only integers are.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Reaps the child behind `pidfd` if it has ended.
///
/// # Errors
/// ECHILD if it is not this process's child.
pub fn try_wait_pidfd(pidfd: impl AsFd) -> io::Result<Option<Ending>> {
    let id = pidfd.as_fd().as_raw_fd() as libc::id_t;
    // SAFETY: an all-zero siginfo_t is a valid value of that plain C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is writable and of the right type.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                id,
                &raw mut info,
                libc::WEXITED | libc::WNOHANG,
            )
        };
        match check_int(result) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: waitid filled the SIGCHLD members, or left the zeroes of above.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok((pid != 0).then(|| Ending::from_siginfo(info.si_code, status)))
}

/// Whether the process behind `pidfd`, ended or not, is a child of the caller. Reaps nothing.
///
/// # Errors
/// ECHILD if it is not.
pub fn has_child(pidfd: impl AsFd) -> io::Result<()> {
    let id = pidfd.as_fd().as_raw_fd() as libc::id_t;
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: no siginfo is wanted, so only integers are passed.
    check_int(unsafe { libc::waitid(libc::P_PIDFD, id, std::ptr::null_mut(), flags) }).map(drop)
}

/// Waits for the child behind `pidfd` and reaps it.
///
/// # Errors
/// ECHILD if it is not this process's child.
pub fn wait_pidfd(pidfd: impl AsFd) -> io::Result<Ending> {
    loop {
        if let Some(ending) = try_wait_pidfd(pidfd.as_fd())? {
            return Ok(ending);
        }
        wait_readable(pidfd.as_fd(), -1)?;
    }
}

/// Waits until `fd` is readable; `false` after `timeout_ms` (negative: no limit).
///
/// # Errors
/// The errno of poll(2), EINTR excepted.
pub fn wait_readable(fd: impl AsFd, timeout_ms: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd, as the count says.
        match check_int(unsafe { libc::poll(&raw mut poll, 1, timeout_ms) }) {
            Ok(count) => return Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps any ended child without waiting.
///
/// # Errors
/// Every errno of waitpid(2) but ECHILD.
pub fn try_wait_any() -> io::Result<Option<(i32, Ending)>> {
    let mut status = 0;
    // SAFETY: `status` is a writable int.
    match check_int(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some((pid, Ending::from_wait_status(status)))),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Exit status of a process that need be neither child nor reaped, read from a
/// held pidfd after its end (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
///
/// # Errors
/// ENOTTY on older kernels; ESRCH while it still runs on some.
pub fn pidfd_exit_status(pidfd: impl AsFd) -> io::Result<Option<Ending>> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, 64 bytes): the first published size of struct pidfd_info,
    // which ends with the exit code.
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the ioctl number says 64 bytes, which is the size of the struct.
    check_int(unsafe { libc::ioctl(fd, PIDFD_GET_INFO, &raw mut info) })?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| Ending::from_wait_status(info.exit_code)))
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since
/// boot. Together with the pid it names a process for as long as the machine runs.
///
/// # Errors
/// ENOENT or ESRCH if it is gone; InvalidData if the file is not as proc(5) says.
pub fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, so fields count from the last ')'.
    let rest = stat
        .iter()
        .rposition(|&b| b == b')')
        .map(|at| &stat[at + 1..]);
    rest.and_then(|rest| std::str::from_utf8(rest).ok())
        .and_then(|rest| rest.split_ascii_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))
}

/// Refuses to go on in a process with more than one thread.
///
/// # Errors
/// InvalidInput if there is a second thread; else the errno of reading /proc.
pub fn assert_single_threaded() -> io::Result<()> {
    // nlink of the directory is 2 + threads, which costs one stat and no listing.
    use std::os::unix::fs::MetadataExt as _;
    let threads = fs::metadata("/proc/self/task")?.nlink().saturating_sub(2);
    if threads == 1 {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{threads} threads where one is required"),
        ))
    }
}

/// Makes the process unreadable for others with its uid (PR_SET_DUMPABLE 0):
/// its exe, memory, environment, root and descriptors are refused.
///
/// # Errors
/// The errno of prctl(2).
pub fn set_undumpable() -> io::Result<()> {
    // SAFETY: prctl with integer arguments.
    check_int(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Sets the name shown by `ps`, at most 15 bytes.
///
/// # Errors
/// The errno of prctl(2).
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads at most 16 bytes of a string that ends with NUL.
    check_int(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// Dies with SIGKILL when the parent does.
///
/// # Errors
/// The errno of prctl(2).
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: prctl with integer arguments.
    check_int(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

/// Takes over the orphans among the descendants, instead of the machine's init.
///
/// # Errors
/// The errno of prctl(2).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl with integer arguments.
    check_int(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Sets no_new_privs for good.
///
/// # Errors
/// The errno of prctl(2).
pub fn set_no_new_privs() -> io::Result<()> {
    // SAFETY: prctl with integer arguments.
    check_int(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Installs a classic BPF filter (seccomp(2), SECCOMP_SET_MODE_FILTER).
///
/// `program` is an array of struct sock_filter, eight bytes each.
///
/// # Errors
/// EINVAL for a program that the kernel refuses; EACCES without
/// no_new_privs or CAP_SYS_ADMIN.
pub fn install_seccomp(program: &[u8], flags: u32) -> io::Result<()> {
    install_filter(program, flags).map(drop)
}

/// As [`install_seccomp`], with a listener for the calls that the filter hands over
/// (SECCOMP_FILTER_FLAG_NEW_LISTENER).
///
/// # Errors
/// As [`install_seccomp`]; EBUSY if an earlier filter has a listener.
pub fn install_seccomp_listener(program: &[u8], flags: u32) -> io::Result<OwnedFd> {
    const NEW_LISTENER: u32 = 1 << 3;
    let fd = install_filter(program, flags | NEW_LISTENER)?;
    // SAFETY: with this flag a fresh descriptor is returned, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn install_filter(program: &[u8], flags: u32) -> io::Result<libc::c_long> {
    let count = program.len() / size_of::<libc::sock_filter>();
    if !program.len().is_multiple_of(size_of::<libc::sock_filter>()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // Copied into properly aligned memory; bytes off the wire need not be.
    let filter: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let fprog = libc::sock_fprog {
        len: u16::try_from(count)
            .map_err(|_too_long| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `fprog` points at `len` filters that live until the call returns.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const fprog,
        )
    })
}

/// The pid that a pidfd stands for, in the namespace of the caller's procfs.
///
/// # Errors
/// ESRCH if the process has ended, or is not in that namespace.
pub fn pid_of(pidfd: impl AsFd) -> io::Result<i32> {
    let number = pidfd.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok())
        .filter(|&pid| pid > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// A duplicate of descriptor `number` of the process behind `pidfd`.
///
/// # Errors
/// EBADF if it has none; EPERM without the right to trace it.
pub fn pidfd_getfd(pidfd: impl AsFd, number: RawFd) -> io::Result<OwnedFd> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the call takes three integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The CPUs that the caller may use: bit N of word M stands for CPU 64 * M + N.
///
/// # Errors
/// The errno of sched_getaffinity(2).
pub fn affinity() -> io::Result<Vec<u64>> {
    // CONFIG_NR_CPUS is at most 8192; the kernel wants room for its own number.
    let mut words = vec![0_u64; 128];
    let length = size_of_val(words.as_slice());
    // SAFETY: the kernel writes at most `length` bytes to `words`, which has as many.
    let written = check(unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, length, words.as_mut_ptr())
    })?;
    words.truncate(usize::try_from(written).unwrap_or(0) / size_of::<u64>());
    Ok(words)
}

/// Lets the caller use these CPUs only, as [`affinity`] counts them.
///
/// # Errors
/// EINVAL if it may use none of them.
pub fn set_affinity(words: &[u64]) -> io::Result<()> {
    let length = size_of_val(words);
    // SAFETY: the kernel reads `length` bytes from `words`, which has as many.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, length, words.as_ptr()) })
        .map(drop)
}

/// Sets where the caller's memory comes from (set_mempolicy(2)): MPOL_* with
/// MPOL_F_*, and nodes in words as in [`affinity`].
///
/// # Errors
/// EINVAL for what does not fit together or is not there; ENOSYS without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = match nodes {
        [] => 0,
        nodes => nodes.len() * 64 + 1,
    };
    let nodes = if bits == 0 {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: the kernel reads `bits - 1` bits from `nodes`, which is null only for 0.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes, bits) }).map(drop)
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The errno of close_range(2).
///
/// # Safety
/// Nothing that is still used may own one of these descriptors.
pub unsafe fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: integers only; the caller vouches for the owners.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on but those of `keep`.
///
/// # Errors
/// The errno of close_range(2).
///
/// # Safety
/// Nothing that is still used, or dropped later, may own one that is closed.
pub unsafe fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 3;
    for kept in keep.into_iter().filter(|&kept| kept >= 3) {
        if kept > first {
            // SAFETY: integers only; the caller vouches for the owners.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) })?;
        }
        first = kept + 1;
    }
    // SAFETY: as above.
    unsafe { close_from(first) }
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// The errno of close_range(2).
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: integers only; nothing is closed before an execve.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Puts a duplicate of `fd` at the number `at`, without close-on-exec.
///
/// # Errors
/// The errno of dup2(2).
///
/// # Safety
/// Nothing that is still used may own the descriptor `at`.
pub unsafe fn dup_onto(fd: impl AsFd, at: RawFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    if fd == at {
        // dup2 would keep close-on-exec.
        // SAFETY: F_SETFD takes an integer.
        return check_int(unsafe { libc::fcntl(at, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: integers only; the caller vouches for the owner of `at`.
    check_int(unsafe { libc::dup2(fd, at) }).map(drop)
}

/// Resets every signal disposition and the mask, as a program expects to find
/// them: Rust ignores SIGPIPE, and an ignored signal survives execve.
///
/// # Errors
/// The errno of sigprocmask(2).
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours. KILL, STOP and libc's own two are
        // refused, which is as it should be.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is a valid value to be initialised.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is writable.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: `none` is initialised; the old mask is not asked for.
    check_int(unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    })
    .map(drop)
}

/// Replaces the program; returns only if that fails.
#[must_use]
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer and point at strings that live on.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces the program by the one behind `fd`; returns only if that fails.
#[must_use]
pub fn execveat(fd: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer and point at strings that live on;
    // the path is empty, which AT_EMPTY_PATH allows.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Starts the program behind `program` as a child, with the streams at /dev/null,
/// `fds` as its descriptors 3, 4, ... and nothing else of the caller's.
///
/// # Errors
/// InvalidInput in a threaded process; the errno of cloning. That the program cannot
/// be executed is seen as the end of the child.
pub fn spawn(
    program: BorrowedFd<'_>,
    args: &[CString],
    fds: &[BorrowedFd<'_>],
) -> io::Result<OwnedFd> {
    assert_single_threaded()?;
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    // SAFETY: the first line proved that there is one thread.
    match unsafe { crate::clone::clone3(crate::clone::Request::default()) }? {
        crate::clone::Side::Parent { pidfd, .. } => Ok(pidfd),
        crate::clone::Side::Child => {
            let error = (|| -> io::Result<io::Error> {
                let first = 3 + RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX);
                // Out of the way of the numbers that are filled below.
                let program = above(program, first)?;
                let null = above(null.as_fd(), first)?;
                let fds = fds.iter().map(|fd| above(fd.as_fd(), first));
                let fds = fds.collect::<io::Result<Vec<_>>>()?;
                reset_signals()?;
                setsid()?;
                cloexec_from(3)?;
                let streams = [&null, &null, &null].into_iter();
                for (number, fd) in streams.chain(&fds).enumerate() {
                    // SAFETY: all that is still used lies above these numbers.
                    unsafe { dup_onto(fd, RawFd::try_from(number).unwrap_or(RawFd::MAX)) }?;
                }
                Ok(execveat(program.as_fd(), args, &[]))
            })();
            drop(error);
            exit_now(127)
        }
    }
}

/// A duplicate of descriptor `number`, which a caller of this program may have passed.
///
/// # Errors
/// EBADF if nothing is open there.
pub fn duplicate(number: RawFd, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only; what is not open is refused.
    let fd = check_int(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, first) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A duplicate, close-on-exec, whose number is at least `first`.
///
/// # Errors
/// EMFILE beyond the limit of descriptors.
pub fn above(fd: BorrowedFd<'_>, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Ends the process at once: no destructor, no handler, no buffer. As pid 1 of a
/// namespace abort would not even end it with the code that is asked for.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Becomes the leader of a session of its own.
///
/// # Errors
/// EPERM if it leads a process group already.
pub fn setsid() -> io::Result<()> {
    // SAFETY: no arguments.
    check_int(unsafe { libc::setsid() }).map(drop)
}

/// Changes the directory to the one behind `fd`.
///
/// # Errors
/// The errno of fchdir(2).
pub fn fchdir(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: an integer only.
    check_int(unsafe { libc::fchdir(fd.as_fd().as_raw_fd()) }).map(drop)
}

/// The directory that `path` names becomes the working directory.
///
/// # Errors
/// The errno of chdir(2).
pub fn chdir(path: &Path) -> io::Result<()> {
    let path = crate::c_string(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends with NUL.
    check_int(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// Sets the file mode creation mask.
pub fn umask(mask: u32) {
    // SAFETY: an integer; the call cannot fail.
    unsafe { libc::umask(mask) };
}

/// Sets the execution domain (personality(2)).
///
/// # Errors
/// The errno of personality(2).
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: an integer only.
    check_int(unsafe { libc::personality(domain.into()) }).map(drop)
}

/// Sets the I/O priority of this process (ioprio_set(2)).
///
/// # Errors
/// EPERM for the real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE.
pub fn set_io_priority(priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

/// How a process is scheduled: struct sched_attr, without its size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scheduling {
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, in nanoseconds, as the next two.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
}

/// Sets how this process is scheduled (sched_setattr(2)).
///
/// # Errors
/// EINVAL for what does not fit together, EPERM without CAP_SYS_NICE.
pub fn set_scheduling(scheduling: &Scheduling) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = Attr {
        size: size_of::<Attr>() as u32,
        policy: scheduling.policy,
        flags: scheduling.flags,
        nice: scheduling.nice,
        priority: scheduling.priority,
        runtime: scheduling.runtime,
        deadline: scheduling.deadline,
        period: scheduling.period,
    };
    // SAFETY: a complete sched_attr of its first published size, which it says itself.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Gives freed memory back to the kernel: of the heap, and of the stack what earlier,
/// deeper calls have left below the caller's frame.
///
/// # Safety
/// The caller is on the stack that the process began with: below that the kernel keeps a
/// gap (`stack_guard_gap`, 1 MiB), below a thread's there may be anything.
#[inline(never)]
pub unsafe fn give_memory_back() {
    // SAFETY: glibc's own bookkeeping; no pointer of ours is affected.
    unsafe { libc::malloc_trim(0) };
    const PAGE: usize = 4096;
    /// Below here lies this frame, that of the call, and the ABI's red zone.
    const MARGIN: usize = PAGE;
    /// The stack of a single-threaded program grows that deep at most in practice.
    const DEPTH: usize = 256 << 10;
    let here = 0_u8;
    let top = (std::ptr::from_ref(&here) as usize - MARGIN) & !(PAGE - 1);
    // SAFETY: the range lies below everything that is on this stack, and ends within the
    // gap; what is there was left by calls that have returned. Where nothing is mapped it is ENOMEM, after
    // what is mapped was done (madvise(2)), and only tells that the stack is shorter.
    unsafe {
        libc::madvise(
            (top - DEPTH) as *mut libc::c_void,
            DEPTH,
            libc::MADV_DONTNEED,
        )
    };
}
