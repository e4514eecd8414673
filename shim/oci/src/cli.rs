//! The command line: the verbs and options of an OCI runtime.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Version of the runtime specification whose configurations are understood.
pub(crate) const SPEC_VERSION: &str = "1.2.0";

/// Runs containers from OCI bundles.
#[derive(Debug, Parser)]
#[command(
    name = "berth-oci",
    disable_version_flag = true,
    disable_help_subcommand = true,
    subcommand_required = false,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Directory of the containers' records (a tmpfs: they do not survive a reboot)
    #[arg(long, value_name = "DIR", default_value = "/run/berth-oci")]
    pub(crate) root: PathBuf,
    /// Write debug messages too
    #[arg(long)]
    pub(crate) debug: bool,
    /// Append log messages to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of log messages
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Make control groups through systemd (cgroupsPath is SLICE:PREFIX:NAME)
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Run without root: only "false" and "auto" are possible
    #[arg(long, value_name = "WHETHER", default_value = "auto")]
    pub(crate) rootless: String,
    /// Print the version
    #[arg(short = 'v', long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a container, which waits to be started
    Create(Create),
    /// Start a created container
    Start(Id),
    /// Print the state of a container as JSON
    State(Id),
    /// Send a signal to a container's init
    Kill(Kill),
    /// Remove a stopped container
    Delete(Delete),
    /// Create and start a container
    Run(Run),
    /// Run a process in a container
    Exec(Exec),
    /// Show the processes of a container
    Ps(Ps),
    /// Show the containers
    List(List),
    /// Show statistics and events of a container
    Events(Events),
    /// Freeze the processes of a container
    Pause(Id),
    /// Let the processes of a container go on
    Resume(Id),
    /// Change the limits of a container
    Update(Update),
    /// Print what this runtime can do as JSON
    Features,
    /// Write a configuration to begin with
    Spec(Spec),
}

#[derive(Args, Debug)]
pub(crate) struct Id {
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Socket that receives the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that receives the process id of the init
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Pass this many descriptors beyond the standard streams
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Do not use pivot_root (not needed: the root is a mount of its own)
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Do not use a new session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait for the end of the container
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the record of the container after its end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Not needed: orphans of the container are reaped where there is a PID namespace
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Kill {
    /// Send it to every process of the container
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// Kill it first if it runs; it is no error if there is none
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// Socket that receives the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Environment beyond the container's: NAME=value
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User and group ids: UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Further group ids
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// File with the process as JSON, instead of arguments
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// File that receives its process id
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Set no_new_privs
    #[arg(long, alias = "no-new-privileges")]
    pub(crate) no_new_privs: bool,
    /// Capabilities beyond the container's
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Pass this many descriptors beyond the standard streams
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Group below the container's: [CONTROLLER,...:]PATH
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Vec<String>,
    /// Also in a container that is paused
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
    /// Program and arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Ps {
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) format: Format,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
    /// Options of ps(1), -ef if there are none
    #[arg(
        value_name = "PS OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) options: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) format: Format,
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Time between two lines of statistics, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) interval: String,
    /// Print statistics once and end
    #[arg(long)]
    pub(crate) stats: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct Spec {
    /// Directory to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Limits as JSON, from a file or - for standard input; excludes the other options
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Bytes of memory; -1 for no limit; suffixes k, m, g
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Bytes of memory and swap together; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Bytes that are spared while memory is short
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Bytes of kernel memory (the kernel has no such limit any more)
    #[arg(long, value_name = "BYTES", hide = true)]
    pub(crate) kernel_memory: Option<String>,
    /// As above, for TCP buffers
    #[arg(long, value_name = "BYTES", hide = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// Length of a period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time in a period in microseconds; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Accumulated CPU time beyond the quota in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_burst: Option<u64>,
    /// Weight against others, 2 to 262144
    #[arg(long, visible_alias = "cpu-shares", value_name = "SHARES")]
    pub(crate) cpu_share: Option<u64>,
    /// Period of real-time processes in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// CPU time of real-time processes in a period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// 1 to run only when nothing else wants to
    #[arg(long, value_name = "0 OR 1", allow_hyphen_values = true)]
    pub(crate) cpu_idle: Option<i64>,
    /// CPUs, such as 0-3,8
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes, such as 0,1
    #[arg(long, value_name = "NODES")]
    pub(crate) cpuset_mems: Option<String>,
    /// Weight of block I/O
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Name of the container
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: String,
}

/// In the form that callers parse.
pub(crate) fn print_version() {
    crate::verb::print(&format!(
        "berth-oci version {}\nspec: {SPEC_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    ));
}
