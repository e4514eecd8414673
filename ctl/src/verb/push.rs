//! `push`: sends images to their registries, with the progress of each layer.

use berth_proto::berth::v1::{PushProgress, PushRequest, pushed_blob::State};
use serde_json::json;

use super::{Context, pull::refused};
use crate::{
    connect::Connection,
    credentials::{self, Registry},
    failure::{EXIT_FAILED, Failure, Outcome},
    listing,
    lookup::nearest,
    output::{self, Format},
    progress::{Blobs, Step},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to send, by its name: [HOST[:PORT]/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME")]
    name: String,
    /// All tags that the repository has here
    #[arg(short, long)]
    all_tags: bool,
    /// Only the digest, no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let names = match args.all_tags {
        true => all_tags(&connection, &args.name).await?,
        false => vec![args.name.clone()],
    };
    let mut exit = 0;
    let mut results = Vec::new();
    for name in &names {
        match push(&connection, name, args.quiet).await {
            Err(failure) => {
                failure.print();
                exit = EXIT_FAILED;
            }
            Ok(pushed) if args.quiet => output::line(&pushed.digest)?,
            Ok(pushed) if context.format != Format::Table => results.push(json!({
                "reference": pushed.reference,
                "digest": pushed.digest,
                "size": pushed.size,
            })),
            Ok(pushed) => output::line(&format!(
                "{}: digest: {} size: {}",
                tag_of(&pushed.reference),
                pushed.digest,
                pushed.size
            ))?,
        }
    }
    if context.format != Format::Table && !args.quiet {
        output::value(context.format, &json!({"images": results}))?;
    }
    Ok(exit)
}

/// The complete names that a repository has here.
async fn all_tags(connection: &Connection, name: &str) -> Outcome<Vec<String>> {
    let (registry, repository) = Registry::of_image(name);
    let whole = format!("{}/{repository}", registry.name());
    let bare = name.rsplit('/').next().unwrap_or(name);
    if bare.contains([':', '@']) {
        return Err(Failure::usage(
            format!("cannot push all tags of {name}"),
            "that names one of them",
        )
        .next(format!("berthctl push --all-tags {whole}")));
    }
    let images = listing::images(connection, None).await?;
    let tags = images.iter().flat_map(|image| &image.repo_tags);
    let mut tags: Vec<String> = tags
        .filter(|tag| tag.rsplit_once(':').is_some_and(|(of, _)| of == whole))
        .cloned()
        .collect();
    tags.sort();
    if tags.is_empty() {
        return Err(
            Failure::new(format!("cannot push {whole}"), "it has no tag here")
                .next(format!("berthctl tag IMAGE {whole}:TAG")),
        );
    }
    Ok(tags)
}

async fn push(connection: &Connection, name: &str, quiet: bool) -> Outcome<PushProgress> {
    let request = PushRequest {
        reference: name.to_owned(),
        auth: credentials::for_image(name).await,
    };
    let (registry, repository) = Registry::of_image(name);
    let title = format!("Pushing to repository {}/{repository}", registry.name());
    let mut progress = None;
    let last = async {
        let request = connection.open_ended(request);
        let mut stream = connection.node().push(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            // Not before the agent has found the image.
            let progress = progress.get_or_insert_with(|| Blobs::new(&title, quiet));
            show(progress, &message);
            if !message.digest.is_empty() {
                return Ok(message);
            }
        }
        Err(tonic::Status::data_loss(
            "the agent ended the push without saying what it sent",
        ))
    };
    let last = last.await;
    if let Some(progress) = &progress {
        progress.end();
    }
    match last {
        Ok(last) => {
            for note in &last.notes {
                output::note(&format!("note: {note}"));
            }
            Ok(last)
        }
        Err(status) => Err(match status.code() {
            tonic::Code::NotFound => no_such_name(connection, name).await?,
            _ => None,
        }
        .unwrap_or_else(|| refused("push", name, &status))),
    }
}

/// If no image here has the name: says which name was meant, perhaps.
async fn no_such_name(connection: &Connection, name: &str) -> Outcome<Option<Failure>> {
    let images = listing::images(connection, None).await?;
    let (registry, repository) = Registry::of_image(name);
    let whole = format!("{}/{repository}:{}", registry.name(), tag_of(name));
    let tags = || images.iter().flat_map(|image| &image.repo_tags);
    if tags().any(|tag| *tag == whole) {
        return Ok(None);
    }
    let same_repository = |tag: &&String| {
        let last = repository.rsplit('/').next().unwrap_or_default();
        let (of, _) = tag.rsplit_once(':').unwrap_or((tag, ""));
        of.rsplit('/').next() == Some(last)
    };
    let failure = Failure::new(format!("cannot push {name}"), "no image here has this name");
    if let Some(near) = nearest(&whole, tags().map(String::as_str)) {
        let next = format!("berthctl push {near}; or first: berthctl tag {near} {name}");
        return Ok(Some(failure.next(next)));
    }
    let known = tags().find(same_repository).map_or("IMAGE", String::as_str);
    Ok(Some(failure.next(format!("berthctl tag {known} {name}"))))
}

fn tag_of(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

fn show(progress: &mut Blobs, message: &PushProgress) {
    for blob in &message.blobs {
        let state = blob.state();
        let word = match state {
            State::Waiting => "waiting".to_owned(),
            State::Checking => "checking".to_owned(),
            State::Sending => "sending".to_owned(),
            State::Sent => "sent".to_owned(),
            State::Exists => "is there".to_owned(),
            State::Mounted => format!("from {}", blob.from),
        };
        progress.show(
            &blob.digest,
            &Step {
                word: &word,
                size: (state == State::Sending).then_some(blob.total),
                position: blob.sent,
                total: blob.total,
                begun: !matches!(state, State::Waiting | State::Checking),
                ended: matches!(state, State::Sent | State::Exists | State::Mounted),
            },
        );
    }
}
