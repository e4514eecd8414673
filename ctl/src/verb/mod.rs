//! One file per verb. Each has its `Args` and a `run` that returns the exit code.

pub(crate) mod attach;
mod bulk;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod exec;
mod exit;
pub(crate) mod explain;
pub(crate) mod images;
pub(crate) mod import;
mod info;
pub(crate) mod inspect;
mod limits;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
mod ops;
pub(crate) mod pods;
pub(crate) mod port_forward;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod rmp;
pub(crate) mod run;
pub(crate) mod runp;
pub(crate) mod save;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod stopp;
mod streams;
pub(crate) mod tag;
mod tree;
pub(crate) mod untag;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod why;

use std::time::Duration;

use crate::{
    cli::{Cli, Verb},
    connect::Connection,
    endpoint::Endpoint,
    failure::Outcome,
    output::Format,
};

/// What all verbs share.
#[derive(Debug)]
pub(crate) struct Context {
    endpoint: Option<String>,
    timeout: Option<Duration>,
    format: Format,
    no_trunc: bool,
}

impl Context {
    /// Connects to the agent. Done by the verb, so that those that need no
    /// agent work without one.
    async fn connect(&self) -> Outcome<Connection> {
        let endpoint = Endpoint::find(self.endpoint.as_deref())?;
        Connection::open(&endpoint, self.timeout).await
    }
}

/// Carries out what the command line says.
pub(crate) async fn dispatch(cli: Cli) -> Outcome<u8> {
    let context = &Context {
        format: cli.format(),
        endpoint: cli.endpoint,
        timeout: cli.timeout,
        no_trunc: cli.no_trunc,
    };
    match cli.verb {
        Verb::Version(args) => version::run(context, &args).await,
        Verb::Info => info::run(context).await,
        Verb::Pods(args) => pods::run(context, &args).await,
        Verb::Ps(args) => ps::run(context, &args).await,
        Verb::Images(args) => images::run(context, &args).await,
        Verb::Pull(args) => pull::run(context, &args).await,
        Verb::Import(args) => import::run(context, args).await,
        Verb::Load(args) => load::run(context, args).await,
        Verb::Save(args) => save::run(context, &args).await,
        Verb::Tag(args) => tag::run(context, &args).await,
        Verb::Untag(args) => untag::run(context, &args).await,
        Verb::Push(args) => push::run(context, &args).await,
        Verb::Login(args) => login::run(context, args).await,
        Verb::Logout(args) => logout::run(&args).await,
        Verb::Rmi(args) => rmi::run(context, &args).await,
        Verb::Inspect(args) => inspect::run(context, &args).await,
        Verb::Inspectp(names) => inspect::run(context, &names.of(inspect::Type::Pod)).await,
        Verb::Inspecti(names) => inspect::run(context, &names.of(inspect::Type::Image)).await,
        Verb::Run(args) => run::run(context, &args).await,
        Verb::Exec(args) => exec::run(context, args).await,
        Verb::Attach(args) => attach::run(context, &args).await,
        Verb::PortForward(args) => port_forward::run(context, &args).await,
        Verb::Logs(args) => logs::run(context, args).await,
        Verb::Stats(args) => stats::run(context, &args).await,
        Verb::Ops => ops::run(context).await,
        Verb::Doctor(args) => doctor::run(context, &args).await,
        Verb::Explain(args) => explain::run(context, &args).await,
        Verb::Why(args) => why::run(context, &args).await,
        Verb::Runp(args) => runp::run(context, &args).await,
        Verb::Create(args) => create::run(context, &args).await,
        Verb::Start(args) => start::run(context, &args).await,
        Verb::Stop(args) => stop::run(context, &args).await,
        Verb::Update(args) => update::run(context, &args).await,
        Verb::Rm(args) => rm::run(context, &args).await,
        Verb::Stopp(args) => stopp::run(context, &args).await,
        Verb::Rmp(args) => rmp::run(context, &args).await,
    }
}
