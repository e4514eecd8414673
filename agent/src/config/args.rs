//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{Config, Finding, schema};

/// The node agent of Berth: serves CRI to a kubelet and berth.v1 to people.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "berth-agent", version)]
pub(crate) struct Args {
    /// Configuration file; `config.d/*.toml` beside it is read after it
    /// [default: /etc/berth/config.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Directory for what survives a reboot [default: /var/lib/berth]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) root: Option<PathBuf>,
    /// Directory for what does not [default: /run/berth]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) run_dir: Option<PathBuf>,
    /// Endpoint to serve on; may be given several times
    /// [default: unix://RUN_DIR/agent.sock]
    #[arg(long, value_name = "unix:///PATH", global = true)]
    pub(crate) listen: Vec<String>,
    /// The shim's program [default: berth-shim beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) shim: Option<PathBuf>,
    /// error, warn, info, debug, trace, or directives such as info,berth_agent=debug
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<String>,
    /// What to do; without it, serve
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What the agent can do besides serving.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Print or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at this machine and for what nobody owns, while no agent runs
    Doctor(DoctorCommand),
}

/// `berth-agent doctor`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DoctorCommand {
    /// Undo what nobody owns
    #[arg(long)]
    pub(crate) fix: bool,
    /// berth.v1's DoctorResponse as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `berth-agent config ...`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the default configuration with every key explained
    Default,
    /// Check a configuration and report every mistake at once
    Check {
        /// The file; that of --config by default
        file: Option<PathBuf>,
    },
}

impl Args {
    /// Applies the flags, which win over files; returns what is wrong with them.
    pub(super) fn apply(&self, config: &mut Config) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(root) = self.root.clone() {
            set(
                &mut config.root,
                "--root",
                schema::directory(root),
                &mut findings,
            );
        }
        if let Some(run) = self.run_dir.clone() {
            set(
                &mut config.run_dir,
                "--run-dir",
                schema::directory(run),
                &mut findings,
            );
        }
        if !self.listen.is_empty() {
            let given = schema::endpoints(self.listen.clone());
            set(&mut config.listen, "--listen", given, &mut findings);
        }
        if let Some(level) = self.log_level.clone() {
            let target = &mut config.telemetry.log_level;
            set(
                target,
                "--log-level",
                schema::log_level(level),
                &mut findings,
            );
        }
        findings
    }
}

fn set<T>(target: &mut T, flag: &str, value: Result<T, String>, findings: &mut Vec<Finding>) {
    match value {
        Ok(value) => *target = value,
        Err(message) => findings.push(Finding {
            file: None,
            line: None,
            message: format!("{flag}: {message}"),
        }),
    }
}
