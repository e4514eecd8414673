//! `pull`: fetches images, with the progress of each layer.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use berth_proto::{
    berth::v1::{self as berth, blob_progress::State},
    cri,
};
use indicatif::ProgressBar;
use serde_json::json;

use super::Context;
use crate::{
    connect::Connection,
    credentials::{self, Registry},
    failure::{EXIT_FAILED, Failure, Outcome},
    listing::is_missing,
    output::{self, Format, text::printable},
    progress::{Blobs, Step},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to fetch: [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The image for this platform instead of the node's own
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<String>,
    /// Keep the images of all platforms, so that they can be pushed and saved together; the
    /// node's own, or that of --platform, is the one that can be run
    #[arg(long)]
    all_platforms: bool,
    /// Only the image's id, no progress
    #[arg(short, long)]
    quiet: bool,
}

/// What is wanted of an image.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    platform: Option<&'a str>,
    all_platforms: bool,
}

impl Wanted<'_> {
    fn is_usual(&self) -> bool {
        self.platform.is_none() && !self.all_platforms
    }
}

/// What a pull ended in.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    image_id: String,
    reference: String,
    digest: String,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let wanted = Wanted {
        platform: args.platform.as_deref(),
        all_platforms: args.all_platforms,
    };
    let mut exit = 0;
    let mut results = Vec::new();
    for image in &args.images {
        match pull_for(&connection, image, wanted, args.quiet).await {
            Err(failure) => {
                failure.print();
                exit = EXIT_FAILED;
            }
            Ok(pulled) if args.quiet => output::line(&pulled.image_id)?,
            Ok(pulled) if context.format != Format::Table => results.push(json!({
                "image": image,
                "reference": pulled.reference,
                "digest": pulled.digest,
                "imageId": pulled.image_id,
            })),
            Ok(pulled) => {
                if !pulled.digest.is_empty() {
                    output::line(&format!("Digest: {}", pulled.digest))?;
                }
                output::line(&format!("Image:  {}", pulled.image_id))?;
                output::line(&format!("Name:   {}", pulled.reference))?;
            }
        }
    }
    if context.format != Format::Table && !args.quiet {
        output::value(context.format, &json!({"images": results}))?;
    }
    Ok(exit)
}

/// Pulls one image. Progress goes to standard error: bars on a terminal, a
/// line for each change otherwise.
pub(super) async fn pull(connection: &Connection, reference: &str, quiet: bool) -> Outcome<Pulled> {
    pull_for(connection, reference, Wanted::default(), quiet).await
}

async fn pull_for(
    connection: &Connection,
    reference: &str,
    wanted: Wanted<'_>,
    quiet: bool,
) -> Outcome<Pulled> {
    let failed = |status: &tonic::Status| refused("pull", reference, status);
    let auth = credentials::for_image(reference).await;
    let request = berth::PullRequest {
        reference: reference.to_owned(),
        auth: auth.clone(),
        platform: wanted.platform.unwrap_or_default().to_owned(),
        all_platforms: wanted.all_platforms,
    };
    let mut stream = match connection.node().pull(connection.open_ended(request)).await {
        Ok(answer) => answer.into_inner(),
        // The CRI has no words for anything else.
        Err(status) if is_missing(&status) && wanted.is_usual() => {
            return pull_by_cri(connection, reference, auth, quiet).await;
        }
        Err(status) => return Err(failed(&status)),
    };
    let mut progress = Blobs::new(&format!("Pulling {reference}"), quiet);
    let mut pulled = Pulled::default();
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                show(&mut progress, &message);
                if !message.image_id.is_empty() {
                    pulled = Pulled {
                        image_id: message.image_id,
                        reference: message.reference,
                        digest: message.digest,
                    };
                }
            }
            Ok(None) => break,
            // A server may answer so only when the stream is read.
            Err(status)
                if is_missing(&status) && pulled.image_id.is_empty() && wanted.is_usual() =>
            {
                progress.end();
                return pull_by_cri(connection, reference, auth, quiet).await;
            }
            Err(status) => {
                progress.end();
                return Err(failed(&status));
            }
        }
    }
    progress.end();
    if pulled.image_id.is_empty() {
        return Err(Failure::new(
            format!("cannot pull {reference}"),
            "the agent ended the pull without naming the image",
        ));
    }
    Ok(pulled)
}

/// A failure that says where to log in, if that is what is missing.
pub(super) fn refused(verb: &str, reference: &str, status: &tonic::Status) -> Failure {
    let failure = Failure::refused(format!("cannot {verb} {reference}"), status);
    match status.code() {
        tonic::Code::Unauthenticated => {
            let (registry, _) = Registry::of_image(reference);
            failure.next(format!("berthctl login {}", registry.name()))
        }
        _ => failure,
    }
}

/// Any other CRI runtime: no progress, and only the image's id in the end.
async fn pull_by_cri(
    connection: &Connection,
    reference: &str,
    auth: Option<cri::AuthConfig>,
    quiet: bool,
) -> Outcome<Pulled> {
    let spinner = if quiet || !io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner().with_message(format!("Pulling {}", printable(reference)))
    };
    spinner.enable_steady_tick(Duration::from_millis(120));
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: reference.to_owned(),
            ..Default::default()
        }),
        auth,
        sandbox_config: None,
    };
    let answer = connection
        .images()
        .pull_image(connection.open_ended(request))
        .await;
    spinner.finish_and_clear();
    let image_ref = answer
        .map_err(|status| refused("pull", reference, &status))?
        .into_inner()
        .image_ref;
    Ok(Pulled {
        image_id: image_ref,
        reference: reference.to_owned(),
        digest: String::new(),
    })
}

/// Shows what a message tells of each layer.
fn show(progress: &mut Blobs, message: &berth::PullProgress) {
    for blob in &message.blobs {
        let state = blob.state();
        progress.show(
            &blob.digest,
            &Step {
                word: word(state),
                size: (state == State::Fetching).then_some(blob.total),
                position: blob.fetched,
                total: blob.total,
                begun: state != State::Waiting,
                ended: matches!(state, State::Done | State::Exists),
            },
        );
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Fetching => "fetching",
        State::Unpacking => "unpacking",
        State::Done => "done",
        State::Exists => "is here",
    }
}
