//! Section `[container]`.

/// What a container gets that does not ask for anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerDefaults {
    /// Most processes and threads; 0 is no limit.
    pub(crate) pids_limit: u64,
    /// Longest piece of a log line in bytes; longer lines are split into
    /// partial ones. 16 KiB is what readers of CRI logs expect.
    pub(crate) max_log_line: usize,
    /// Size of a pod's `/dev/shm` in bytes.
    pub(crate) shm_bytes: u64,
}

impl Default for ContainerDefaults {
    fn default() -> Self {
        Self {
            pids_limit: 16384,
            max_log_line: 16384,
            shm_bytes: 64 << 20,
        }
    }
}
