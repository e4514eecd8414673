//! PullImage, and images from bytes that a caller sends.

use std::{collections::HashSet, fs::File, sync::Arc};

use berth_image::{
    Auth, ImportOptions, LayerState, Platform, PullProgress, PullRequest, Reference, StoredImage,
};
use berth_phase::Phase;
use berth_proto::cri::AuthConfig;
use tokio::{sync::watch, time::Instant};

use super::{convert, convert_about, full_name};
use crate::{
    error::{Error, Result},
    node::{Node, blocking, now},
    operation::{Context, Fingerprint, Request, Value, Verb},
    store::{Blob, ImageRecord},
};

/// What a pull resulted in.
#[derive(Clone, Debug)]
pub(crate) struct Pulled {
    /// Digest of the configuration.
    pub(crate) id: String,
    /// With Docker's defaults filled in.
    pub(crate) reference: String,
    /// Digest of the manifest or index that the reference named.
    pub(crate) digest: String,
}

/// For which machines an image is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machines {
    /// Another one than the node's own.
    pub(crate) platform: Option<Platform>,
    /// The images of all platforms are kept beside the one that is unpacked.
    pub(crate) all: bool,
}

impl Machines {
    /// What tells a pull for these from that of the node's own image.
    fn suffix(&self) -> String {
        let platform = self.platform.as_ref();
        let platform = platform.map_or(String::new(), |platform| format!(" for {platform}"));
        let all = if self.all { " for all platforms" } else { "" };
        format!("{platform}{all}")
    }
}

/// Pulls an image. Whoever asks for the same meanwhile waits for the same pull,
/// which ends with its last waiter.
///
/// # Errors
/// The registry's, translated; nothing half-made remains.
pub(crate) async fn pull(
    node: &Arc<Node>,
    name: &str,
    machines: Machines,
    auth: Option<AuthConfig>,
    progress: Option<watch::Sender<PullProgress>>,
    deadline: Option<Instant>,
) -> Result<Pulled> {
    let reference = parse(name)?;
    let full = reference.to_string();
    let auth = credentials(auth, &reference)?;
    let key = format!("{full}{}", machines.suffix());
    let request = Request::new(Verb::Pull, key.clone())
        .fingerprint(fingerprint(&full, auth.as_ref()))
        .deadline(deadline);
    let node_in = node.clone();
    let metrics = node.metrics.clone();
    let (name, shown) = (full_name(&reference), key.clone());
    let work = node.operations.run(request, move |context| async move {
        let (progress, _shown) = node_in.images.pulling.begin(shown);
        let request = PullRequest {
            reference: reference.clone(),
            auth,
            platform: machines
                .platform
                .unwrap_or_else(|| node_in.config.platform()),
            all_platforms: machines.all,
        };
        let seen = progress.subscribe();
        let stored = node_in
            .images
            .store
            .pull(request, &context.tracker, progress, context.cancel.clone())
            .await
            .map_err(|error| convert_about(format!("image {reference}"), error))?;
        node_in.metrics.pulled_bytes(received(&seen.borrow()));
        let names = vec![full_name(&reference), reference.repo_digest(&stored.named)];
        let id = record(&node_in, stored, names, &context).await?;
        Ok(Value::Id(id))
    });
    let outcome = match progress {
        Some(progress) => {
            let outcome = tokio::select! {
                outcome = work => outcome,
                never = node.images.pulling.show(&key, &progress) => match never {},
            };
            if outcome.is_ok() {
                progress.send_modify(finished);
            }
            outcome
        }
        None => work.await,
    };
    metrics.pull_ended(
        outcome
            .as_ref()
            .map_or_else(|error| error.kind().name(), |_| "ok"),
    );
    let id = outcome?.into_id()?;
    let records = node.images.all();
    let record = records.iter().find(|record| record.id == id);
    let digest = record.and_then(|record| record.target(&name));
    Ok(Pulled {
        digest: digest.unwrap_or_default().to_owned(),
        id,
        reference: full,
    })
}

/// What the last report may have been too early for.
fn finished(progress: &mut PullProgress) {
    for layer in &mut progress.layers {
        layer.fetched = layer.total;
        if layer.state != LayerState::Exists {
            layer.state = LayerState::Done;
        }
    }
}

/// Bytes that came for this pull; those of layers that were there already did not.
fn received(progress: &PullProgress) -> u64 {
    let done = progress
        .layers
        .iter()
        .filter(|layer| layer.state == LayerState::Done);
    done.map(|layer| layer.fetched).sum()
}

/// Makes images from a tar stream in `file`. Names in it that other images here
/// have are taken from those only with `replace`.
///
/// # Errors
/// InvalidArgument for what is no image, AlreadyExists for such a name; nothing
/// half-made remains.
pub(crate) async fn import(
    node: &Arc<Node>,
    file: File,
    options: ImportOptions,
    replace: bool,
) -> Result<Vec<(String, Vec<String>)>> {
    // Two imports are never the same: their bytes are not compared.
    let key = crate::ids::ContainerId::random()?.to_string();
    let chosen = replace || options.reference.is_some();
    let node_in = node.clone();
    let made = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = made.clone();
    node.operations
        .run(Request::new(Verb::Import, key), move |context| async move {
            let store = node_in.images.store.clone();
            let (tracker, cancel) = (context.tracker.clone(), context.cancel.clone());
            let imported = blocking("import an image", move || {
                store
                    .import(file, &options, &tracker, &cancel)
                    .map_err(convert)
            })
            .await?;
            if !chosen {
                untaken(&node_in, &imported)?;
            }
            let mut ids = Vec::new();
            for (stored, references) in imported {
                let names: Vec<String> = references.iter().map(full_name).collect();
                let id = record(&node_in, stored, names.clone(), &context).await?;
                ids.push(id.clone());
                sink.lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push((id, names));
            }
            Ok(Value::Id(ids.join(" ")))
        })
        .await?;
    let made = made
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(made.clone())
}

/// Whoever made an archive has chosen the names in it, and could choose one that
/// pods here are started by.
fn untaken(node: &Node, imported: &[(StoredImage, Vec<Reference>)]) -> Result<()> {
    let images = node.images.all();
    for (stored, references) in imported {
        let id = stored.id.to_string();
        for name in references.iter().map(full_name) {
            let taken = images
                .iter()
                .find(|other| other.id != id && other.names.contains(&name));
            if let Some(other) = taken {
                // What was unpacked has no owner.
                node.images
                    .garbage
                    .store(true, std::sync::atomic::Ordering::Release);
                return Err(Error::already_exists(format!(
                    "the archive has an image {name}, and that is the name of another one here ({})",
                    other.id
                ))
                .with_remedy("use force to give the name to the archive's image"));
            }
        }
    }
    Ok(())
}

/// Writes an image down under `names`, which leave whatever they named before.
async fn record(
    node: &Arc<Node>,
    mut stored: StoredImage,
    names: Vec<String>,
    context: &Context,
) -> Result<String> {
    context.enter(Phase::Record, "")?;
    let _turn = node.images.turn.lock().await;
    let id = stored.id.to_string();
    let before = node.images.all().into_iter().find(|record| record.id == id);
    let mut all = before
        .as_ref()
        .map(|record| record.names.clone())
        .unwrap_or_default();
    for name in &names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    let mut targets = before
        .as_ref()
        .map(|record| record.targets.clone())
        .unwrap_or_default();
    for name in &names {
        targets.insert(name.clone(), stored.named.to_string());
    }
    let config = serde_json::to_value(&stored.config)
        .map_err(|error| Error::internal("record the image").with_source(error))?;
    let mut record = ImageRecord {
        id: id.clone(),
        names: all,
        size: stored.size,
        config,
        // Lowest first in records, as manifests have them.
        layers: stored.layers.iter().rev().cloned().collect(),
        blobs: stored
            .blobs
            .iter()
            .map(|digest| Blob {
                digest: digest.to_string(),
                ..Blob::default()
            })
            .collect(),
        targets,
        pinned: false,
        pulled_at: now(),
    };
    record.forget_targets();
    if let Some(before) = &before {
        // A pull of what is here must not cost a sync of the disk.
        record.pulled_at = before.pulled_at;
        record.pinned = before.pinned;
        // Its other names may stand for other manifests, whose blobs are kept as well.
        let known: HashSet<&str> = record.blobs.iter().map(|blob| &*blob.digest).collect();
        let others = before
            .blobs
            .iter()
            .filter(|blob| !known.contains(&*blob.digest));
        let others: Vec<Blob> = others.cloned().collect();
        record.blobs.extend(others);
    }
    if before.is_none_or(|before| *before != record) {
        record.pulled_at = now();
        node.store.put_image(&record).await?;
        node.images.put(record);
    }
    // Now the record keeps what it is made of.
    stored.release();
    Ok(id)
}

/// A name as people write it.
///
/// # Errors
/// InvalidArgument, saying what is wrong with it.
pub(crate) fn parse(name: &str) -> Result<Reference> {
    name.parse().map_err(|error: berth_image::ReferenceError| {
        Error::invalid("image reference").with_source(error)
    })
}

/// Other credentials are another request: they may see, or do, something else.
pub(super) fn fingerprint(object: &str, auth: Option<&Auth>) -> Fingerprint {
    let pieces = auth.map_or_else(Vec::new, |auth| {
        [
            &auth.username,
            &auth.password,
            &auth.identity_token,
            &auth.registry_token,
        ]
        .map(|part| part.clone().unwrap_or_default())
        .join("\0")
        .into_bytes()
    });
    Fingerprint::of(&[object.as_bytes(), &pieces])
}

/// CRI's forms of credentials, as far as they are for the registry of `reference`.
///
/// # Errors
/// InvalidArgument for what cannot be decoded.
pub(super) fn credentials(auth: Option<AuthConfig>, reference: &Reference) -> Result<Option<Auth>> {
    let Some(auth) = auth else {
        return Ok(None);
    };
    if !is_for(&auth.server_address, reference) {
        // A caller with several sends them one after the other, and these are another's.
        tracing::warn!(
            image = %reference,
            server = auth.server_address,
            "credentials are for another registry and are not used"
        );
        return Ok(None);
    }
    let given = |part: String| (!part.is_empty()).then_some(part);
    let mut converted = Auth {
        username: given(auth.username),
        password: given(auth.password),
        identity_token: given(auth.identity_token),
        registry_token: given(auth.registry_token),
    };
    if converted.username.is_none() && !auth.auth.is_empty() {
        let (user, password) = decode_basic(&auth.auth)
            .ok_or_else(|| Error::invalid("auth.auth is not base64 of user:password"))?;
        converted.username = Some(user);
        converted.password = Some(password);
    }
    let parts = [
        &converted.username,
        &converted.identity_token,
        &converted.registry_token,
    ];
    let any = parts.iter().any(|part| part.is_some());
    Ok(any.then_some(converted))
}

/// Whether a server's address as credential files have it (`https://HOST/v1/`, `HOST`)
/// is that of the registry; none is for any.
fn is_for(server: &str, reference: &Reference) -> bool {
    let bare = server
        .split_once("://")
        .map_or(server, |(_scheme, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    if host.is_empty() {
        return server.is_empty();
    }
    let usual = |host: &str| {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix(":443").unwrap_or(&host).to_owned();
        match host.as_str() {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            _ => host,
        }
    };
    usual(host) == usual(reference.registry())
}

fn decode_basic(text: &str) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_for_the_registry_whose_address_they_have() {
        let reference = |name: &str| name.parse::<Reference>().unwrap();
        for (server, name, expect) in [
            ("", "r.example/a", true),
            ("r.example", "r.example/a", true),
            ("https://R.example/v1/", "r.example/a", true),
            ("https://r.example:443", "r.example/a", true),
            ("r.example:5000", "r.example:5000/a", true),
            ("r.example", "r.example:5000/a", false),
            ("https://r.example.evil", "r.example/a", false),
            ("https://index.docker.io/v1/", "busybox", true),
            ("docker.io", "busybox", true),
            ("https://index.docker.io/v1/", "r.example/a", false),
            ("https://", "r.example/a", false),
        ] {
            assert_eq!(is_for(server, &reference(name)), expect, "{server} {name}");
        }
    }

    #[test]
    fn basic_credentials_are_decoded_or_refused() {
        let decoded = decode_basic("dXNlcjpwYTpzcw==").unwrap();
        assert_eq!(decoded, ("user".to_owned(), "pa:ss".to_owned()));
        for bad in ["", "dXNlcg==", "!!!!"] {
            assert!(decode_basic(bad).is_none(), "{bad}");
        }
    }
}
