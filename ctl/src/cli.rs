//! The command line: what can be asked, and how it is explained.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum as _};

use crate::{output::Format, time::parse_duration, verb};

/// The version; a packager may set a longer one, with the commit, at build time.
pub(crate) const VERSION: &str = match option_env!("BERTH_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

const AFTER_HELP: &str = "\
Containers and pods may be named by id, by the beginning of an id, by name, or as POD/CONTAINER.

Which agent: --endpoint, else $BERTH_HOST, else $CONTAINER_RUNTIME_ENDPOINT, else `endpoint` in
~/.config/berth/ctl.toml or /etc/berth/ctl.toml, else unix:///run/berth/agent.sock. The verbs that
CRI can express work with any CRI runtime.

Formats: json and yaml are the CRI messages in protobuf's JSON form (camelCase names, 64-bit
numbers as strings). Tables escape control characters; what a container writes (logs, exec, run)
is passed on byte for byte. NO_COLOR is honoured.

Exit codes: 0 done; 1 the request failed; 2 wrong usage; 141 the reader of the output went away.
run: 125 not created or not started, 126 the command cannot be executed, 127 there is no such
command. run and exec otherwise exit with the container's code.";

const EXAMPLES: &str = "\
Examples:
  berthctl run --rm alpine echo hello
  berthctl run -d --name web -v /srv/www:/www:ro nginx
  berthctl logs -f --tail 10 web
  berthctl ps -a
  berthctl -H unix:///run/containerd/containerd.sock ps";

/// Look at a node's pods, containers and images, and run containers on it.
#[derive(Debug, Parser)]
#[command(
    name = "berthctl",
    version = VERSION,
    after_help = EXAMPLES,
    after_long_help = long_help(),
    max_term_width = 100,
    infer_long_args = false,
    disable_help_subcommand = false
)]
pub(crate) struct Cli {
    /// The agent's socket: unix:///PATH
    #[arg(short = 'H', long, global = true, value_name = "ENDPOINT")]
    pub(crate) endpoint: Option<String>,

    /// How long each request may take [default: 10s to read, 2m to change]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// Form of the result [default: table]
    // A string, as `save -o FILE` is: clap hands the values of global arguments
    // up and down, and they must then be of one type.
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = Format::names())]
    output: Option<String>,

    /// Whole ids in tables
    #[arg(long, global = true)]
    pub(crate) no_trunc: bool,

    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Cli {
    /// The form of the result.
    pub(crate) fn format(&self) -> Format {
        let given = self.output.as_deref();
        // What is no format is another argument with this letter.
        given
            .and_then(|name| Format::from_str(name, false).ok())
            .unwrap_or(Format::Table)
    }
}

fn long_help() -> String {
    format!("{EXAMPLES}\n\n{AFTER_HELP}")
}

/// One variant per verb; its arguments are with the verb.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Versions of berthctl and of the runtime
    Version(verb::version::Args),
    /// What this node is and how it does
    Info,
    /// List pods
    #[command(alias = "pod")]
    Pods(verb::pods::Args),
    /// List containers
    #[command(alias = "containers")]
    Ps(verb::ps::Args),
    /// List images
    #[command(alias = "image", alias = "img")]
    Images(verb::images::Args),
    /// Fetch images from their registry
    Pull(verb::pull::Args),
    /// Make an image from an archive, a root file system or a directory
    Import(verb::import::Args),
    /// Send an image to its registry
    Push(verb::push::Args),
    /// Give an image a further name
    Tag(verb::tag::Args),
    /// Take names away from images
    Untag(verb::untag::Args),
    /// Write images into an archive
    Save(verb::save::Args),
    /// Read images from an archive
    Load(verb::load::Args),
    /// Keep the credentials for a registry
    Login(verb::login::Args),
    /// Forget the credentials for a registry
    Logout(verb::logout::Args),
    /// Remove images
    Rmi(verb::rmi::Args),
    /// Everything that is known of a container, pod or image, as JSON
    Inspect(verb::inspect::Args),
    /// The same as `inspect --type pod`
    #[command(hide = true)]
    Inspectp(verb::inspect::Names),
    /// The same as `inspect --type image`
    #[command(hide = true)]
    Inspecti(verb::inspect::Names),
    /// Run a command in a new pod with one container
    Run(Box<verb::run::Args>),
    /// Run a command in a running container and show its output
    Exec(verb::exec::Args),
    /// Connect to the input and output of a running container
    Attach(verb::attach::Args),
    /// Make ports of this machine lead into a pod
    PortForward(verb::port_forward::Args),
    /// Show what a container has written
    Logs(verb::logs::Args),
    /// Use of CPU, memory and disk
    Stats(verb::stats::Args),
    /// Operations in flight, and what each is waiting for
    Ops,
    /// Check this machine, and look for what nobody owns on it
    Doctor(verb::doctor::Args),
    /// What was done to a pod, container or image, phase by phase
    Explain(verb::explain::Args),
    /// Why a container ended
    Why(verb::why::Args),
    /// Create a pod from a configuration file
    Runp(verb::runp::Args),
    /// Create a container in a pod from configuration files
    Create(verb::create::Args),
    /// Start created containers
    Start(verb::start::Args),
    /// Stop containers
    Stop(verb::stop::Args),
    /// Change the limits of containers
    Update(verb::update::Args),
    /// Remove containers
    Rm(verb::rm::Args),
    /// Stop pods
    Stopp(verb::stopp::Args),
    /// Remove pods
    Rmp(verb::rmp::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_image_belongs_to_the_container() {
        let cli = Cli::try_parse_from([
            "berthctl",
            "run",
            "-d",
            "--name=web",
            "alpine",
            "--name",
            "x",
            "-d",
            "--",
            "-H",
        ])
        .unwrap();
        let Verb::Run(args) = cli.verb else {
            panic!("not run");
        };
        assert_eq!(
            args.image_and_command,
            ["alpine", "--name", "x", "-d", "--", "-H"]
        );
        assert_eq!(args.name.as_deref(), Some("web"));
    }

    #[test]
    fn a_misspelt_verb_or_flag_is_answered_with_the_right_one() {
        let told = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().to_string();
        assert!(told(&["berthctl", "staats"]).contains("'stats'"));
        assert!(told(&["berthctl", "logs", "--follows", "x"]).contains("--follow"));
    }

    #[test]
    fn a_grace_period_is_not_the_limit_of_the_request() {
        let cli =
            Cli::try_parse_from(["berthctl", "--timeout", "5s", "stop", "--timeout", "3", "x"])
                .unwrap();
        assert_eq!(cli.timeout, Some(Duration::from_secs(5)));
    }
}
