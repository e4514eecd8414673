//! `login`: credentials for a registry, kept once the registry has accepted them.

use std::io::{self, Read as _};

use berth_proto::{berth::v1::CheckLoginRequest, cri::AuthConfig};

use super::Context;
use crate::{
    credentials::{self, Registry},
    failure::{Failure, Outcome},
    listing::is_missing,
    output, prompt,
};

/// Tokens are a few kilobytes.
const SECRET_MAX: u64 = 64 << 10;
/// As a shell reports a program that SIGINT has ended.
const EXIT_INTERRUPTED: u8 = 130;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT] of the registry [default: docker.io]
    server: Option<String>,
    /// User name; asked for at the terminal if missing
    #[arg(short, long)]
    username: Option<String>,
    /// Password or token; others on this machine can see it, so rather use --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password or token from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

impl std::fmt::Debug for Args {
    // No secret in any log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Args")
            .field("server", &self.server)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Outcome<u8> {
    let registry = server(args.server.as_deref())?;
    let what = format!("cannot log in to {}", registry.name());
    let auth = AuthConfig {
        server_address: registry.key().to_owned(),
        ..ask(&registry, &what, args).await?
    };
    let connection = context.connect().await?;
    let request = CheckLoginRequest {
        registry: registry.name().to_owned(),
        auth: Some(auth.clone()),
    };
    connection
        .node()
        .check_login(connection.change(request))
        .await
        .map_err(|status| match is_missing(&status) {
            true => Failure::new(
                &what,
                "only Berth's agent can ask a registry whether it accepts them",
            ),
            false => Failure::refused(&what, &status),
        })?;
    let kept = credentials::keep(&registry, &auth).await?;
    if kept.plain {
        output::note(&format!(
            "warning: the password lies unencrypted in {}; a credential helper (`credsStore` in \
             that file) would keep it better",
            kept.path.display()
        ));
    }
    output::line("Login Succeeded")?;
    Ok(0)
}

/// The registry that an argument means.
pub(super) fn server(given: Option<&str>) -> Outcome<Registry> {
    let given = given.unwrap_or("docker.io");
    Registry::of_server(given).ok_or_else(|| {
        Failure::usage(
            format!("{given:?} is no registry"),
            "a registry is HOST or HOST:PORT",
        )
        .next("leave out the repository; for Docker Hub leave out the argument")
    })
}

async fn ask(registry: &Registry, what: &str, args: Args) -> Outcome<AuthConfig> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::told().exit(EXIT_INTERRUPTED),
        io::ErrorKind::UnexpectedEof => Failure::new(what, "nothing was entered"),
        _ => Failure::new(what, error.to_string()),
    };
    let nobody = || {
        Failure::usage(what, "there is no terminal to ask at").next(format!(
            "berthctl login -u USER --password-stdin {} < FILE",
            registry.name()
        ))
    };
    let username = match args.username {
        Some(username) => username,
        None if !prompt::possible() => return Err(nobody()),
        None => {
            let known = credentials::known_user(registry).await;
            prompt::line("Username", known.as_deref()).map_err(failed)?
        }
    };
    let password = if args.password_stdin {
        let mut secret = String::new();
        io::stdin()
            .take(SECRET_MAX)
            .read_to_string(&mut secret)
            .map_err(failed)?;
        secret.trim_end_matches(['\r', '\n']).to_owned()
    } else if let Some(password) = args.password {
        output::note(
            "warning: a password in the arguments can be seen by others on this machine; use --password-stdin",
        );
        password
    } else if prompt::possible() {
        prompt::hidden("Password").map_err(failed)?
    } else {
        return Err(nobody());
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::usage(
            what,
            "user name and password must not be empty",
        ));
    }
    if username.contains(':') {
        return Err(Failure::usage(what, "a user name cannot have a colon"));
    }
    Ok(AuthConfig {
        username,
        password,
        ..AuthConfig::default()
    })
}
