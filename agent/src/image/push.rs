//! An image into its registry, and whether a registry lets somebody in.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use berth_image::{Digest, PushProgress, PushRequest, Pushed, Recorded, Reference};
use berth_phase::Phase;
use berth_proto::cri::AuthConfig;
use tokio::{sync::watch, time::Instant};

use super::{
    convert, full_name, parse,
    pull::{credentials, fingerprint},
    save::{recorded, target},
    tag::{put, recorded_now},
};
use crate::{
    error::{Error, Result},
    node::Node,
    operation::{Request, Value, Verb},
};

/// Repositories that a registry is asked to take one blob over from, before it is sent.
const ELSEWHERE_MAX: usize = 3;

/// What a push resulted in.
#[derive(Debug)]
pub(crate) struct Sent {
    /// With Docker's defaults filled in.
    pub(crate) reference: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

/// Pushes the image that has the name `name`. Whoever asks for the same
/// meanwhile waits for the same push, which ends with its last waiter.
///
/// # Errors
/// NotFound without such a name; the registry's, translated.
pub(crate) async fn push(
    node: &Arc<Node>,
    name: &str,
    auth: Option<AuthConfig>,
    progress: watch::Sender<PushProgress>,
    deadline: Option<Instant>,
) -> Result<Sent> {
    let reference = parse(name)?;
    if reference.digest().is_some() {
        return Err(Error::invalid(format!(
            "{name:?} has a digest, which the registry finds out by itself"
        ))
        .with_remedy("push by a tag"));
    }
    let full = full_name(&reference);
    let record = node
        .images
        .all()
        .into_iter()
        .find(|image| image.names.contains(&full));
    let record = record.ok_or_else(|| {
        Error::not_found(format!("no image here has the name {full}"))
            .with_remedy("give it that name first, with tag")
    })?;
    let auth = credentials(auth, &reference)?;
    let mut image = recorded(&record)?;
    image.named = target(&record, Some(&full))?;
    let request = Request::new(Verb::Push, full.clone())
        .fingerprint(fingerprint(&record.id, auth.as_ref()))
        .deadline(deadline);
    let request_in = PushRequest {
        elsewhere: elsewhere(node, &image, &reference),
        image,
        reference: reference.clone(),
        auth,
        chunk: node.config.image.push_chunk_bytes,
    };
    // Every caller that joins reads its answer here, beside its own progress.
    let node_in = node.clone();
    let value = node
        .operations
        .run(request, move |context| async move {
            let Pushed {
                digest,
                size,
                left_out,
            } = node_in
                .images
                .store
                .push(
                    request_in,
                    &context.tracker,
                    progress,
                    context.cancel.clone(),
                )
                .await
                .map_err(convert)?;
            context.enter(Phase::Record, "digest")?;
            let _turn = node_in.images.turn.lock().await;
            let name = reference.repo_digest(&digest);
            // An image that was removed meanwhile needs no name any more.
            if let Ok(mut record) = recorded_now(&node_in, &record.id)
                && !record.names.contains(&name)
            {
                record.targets.insert(name.clone(), digest.to_string());
                record.names.push(name);
                put(&node_in, record).await?;
            }
            Ok(Value::Id(format!("{digest} {size} {left_out}")))
        })
        .await?
        .into_id()?;
    let lost = || Error::internal("a push gave no digest");
    let mut parts = value.split(' ');
    let digest = parts.next().ok_or_else(lost)?.to_owned();
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (size, left_out) = number().zip(number()).ok_or_else(lost)?;
    let notes = (left_out > 0).then(|| {
        format!(
            "the image came from an index that names {left_out} more, which are not all here; \
             this one was pushed alone, and the digest is that of its own manifest. To push \
             them all, pull with --all-platforms first"
        )
    });
    Ok(Sent {
        reference: full,
        digest,
        size,
        notes: notes.into_iter().collect(),
    })
}

/// Where else in its registry each blob of an image may be: in the repositories
/// that images with that blob were pulled from or pushed to.
fn elsewhere(node: &Node, image: &Recorded, target: &Reference) -> HashMap<Digest, Vec<String>> {
    let own: HashSet<String> = image.blobs.iter().map(ToString::to_string).collect();
    let mut elsewhere: HashMap<Digest, Vec<String>> = HashMap::new();
    for other in node.images.all() {
        let shared = other.blobs.iter().filter(|blob| own.contains(&blob.digest));
        let shared: Vec<Digest> = shared.filter_map(|blob| blob.digest.parse().ok()).collect();
        // A tag may be our own idea; a digest was seen there.
        let seen = other.names.iter().filter(|name| name.contains('@'));
        let seen = seen.filter_map(|name| name.parse::<Reference>().ok());
        for from in seen.filter(|from| {
            from.registry() == target.registry() && from.repository() != target.repository()
        }) {
            for digest in &shared {
                let known = elsewhere.entry(digest.clone()).or_default();
                let repository = from.repository().to_owned();
                if known.len() < ELSEWHERE_MAX && !known.contains(&repository) {
                    known.push(repository);
                }
            }
        }
    }
    elsewhere
}

/// Asks a registry whether it accepts credentials.
///
/// # Errors
/// Unauthenticated if not; the registry's, translated.
pub(crate) async fn check_login(
    node: &Arc<Node>,
    registry: &str,
    auth: Option<AuthConfig>,
) -> Result<()> {
    let registry = if registry.is_empty() {
        "docker.io"
    } else {
        registry
    };
    // Any repository: it is not asked for.
    let reference = parse(&format!("{registry}/login"))?;
    if reference.registry() != registry {
        return Err(
            Error::invalid(format!("{registry:?} is not the name of a registry"))
                .with_remedy("a registry is HOST or HOST:PORT"),
        );
    }
    let auth = credentials(auth, &reference)?;
    let auth = auth.ok_or_else(|| Error::invalid("there are no credentials to be checked"))?;
    node.images
        .store
        .check_login(&reference, auth)
        .await
        .map_err(convert)
}
