//! Programs that keep secrets: `docker-credential-NAME get|store|erase`.
//!
//! What is asked for, and secrets, go over standard input; answers come on
//! standard output. Nothing secret is ever an argument.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::failure::{Failure, Outcome};

/// A helper may have to ask a person to unlock a key ring.
const LIMIT: Duration = Duration::from_secs(60);
/// Tokens are a few kilobytes.
const ANSWER_MAX: u64 = 1 << 20;
/// The user name with which a secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers answer, with an exit code, if they know nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// What a helper keeps for one registry.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// User name and secret.
pub(super) struct Pair {
    pub(super) username: String,
    pub(super) secret: String,
}

impl Pair {
    pub(super) fn is_token(&self) -> bool {
        self.username == TOKEN_USER
    }
}

/// What helper `name` has for `key`.
pub(super) async fn get(name: &str, key: &str) -> Outcome<Option<Pair>> {
    let answer = match call(name, "get", key).await? {
        Ok(answer) => answer,
        Err(said) if said.trim() == NOT_FOUND => return Ok(None),
        Err(said) => return Err(refused(name, "get", &said)),
    };
    let kept: Kept = serde_json::from_str(&answer).map_err(|_secret| {
        Failure::new(
            what(name, "get"),
            "its answer is not the JSON that it should be",
        )
    })?;
    Ok((!kept.secret.is_empty()).then_some(Pair {
        username: kept.username,
        secret: kept.secret,
    }))
}

/// Gives helper `name` something to keep.
pub(super) async fn store(name: &str, key: &str, username: &str, secret: &str) -> Outcome<()> {
    let input = json!({ "ServerURL": key, "Username": username, "Secret": secret });
    match call(name, "store", &input.to_string()).await? {
        Ok(_) => Ok(()),
        Err(said) => Err(refused(name, "store", &said)),
    }
}

/// Makes helper `name` forget `key`; says whether it knew it.
pub(super) async fn erase(name: &str, key: &str) -> Outcome<bool> {
    match call(name, "erase", key).await? {
        Ok(_) => Ok(true),
        Err(said) if said.trim() == NOT_FOUND => Ok(false),
        Err(said) => Err(refused(name, "erase", &said)),
    }
}

/// Runs a helper: what it wrote, or what it wrote when it failed.
async fn call(name: &str, action: &str, input: &str) -> Outcome<Result<String, String>> {
    let failed = |why: String| Failure::new(what(name, action), why);
    // It becomes part of a program's name, which is then looked for in PATH.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(failed("this is not a helper's name".to_owned()));
    }
    let program = format!("docker-credential-{name}");
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("{program} cannot be started: {error}")))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed("it has no standard streams".to_owned()));
    };
    let talk = async {
        // A helper that does not read its input may still answer.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        let mut answer = Vec::new();
        stdout.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>((child.wait().await?, answer))
    };
    let (status, answer) = tokio::time::timeout(LIMIT, talk)
        .await
        .map_err(|_elapsed| failed(format!("no answer within {} s", LIMIT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(if status.success() {
        Ok(answer)
    } else {
        Err(answer)
    })
}

fn what(name: &str, action: &str) -> String {
    format!("the credential helper {name:?} failed to {action}")
}

/// Its own words, unless they could hold what it keeps.
fn refused(name: &str, action: &str, said: &str) -> Failure {
    let line = said.lines().next().unwrap_or_default().trim();
    let why = match line {
        "" => "it said nothing",
        line if line.contains('{') => "it failed in the middle of an answer",
        line => line,
    };
    Failure::new(
        what(name, action),
        why.chars().take(300).collect::<String>(),
    )
}
