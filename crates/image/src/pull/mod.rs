//! From a reference to an image in the store.
//!
//! A pull resolves the reference, then asks for its layers. Each layer is a
//! [`Transfer`](transfer) that pulls share: whoever wants the same blob meanwhile
//! joins it, and it ends early only when nobody wants it any more. What has
//! arrived by then is kept for the next try.

mod admission;
mod arriving;
mod layer;
mod promise;
mod resolve;
mod transfer;

pub(crate) use promise::Promises;
pub(crate) use transfer::Transfers;

use std::{sync::Arc, time::Duration};

use berth_phase::{Phase, Tracker};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::{
    layer::{LayerJob, Target, Unpacking},
    resolve::Whole,
    transfer::{Step, Ticket},
};
use crate::{
    Error,
    document::{self, Descriptor, Manifest},
    image::{Documents, Others, StoredImage, assemble},
    name::{Digest, Platform, Reference},
    registry::Auth,
    store::{Hold, Inner, Store, chain_keys},
};

/// A transfer's threads look at their cancellation with every chunk; a slow disk may hold
/// one in a write. Nothing is lost by not waiting longer.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How often a pull that joined somebody else's transfer, which failed, begins again. Its own
/// transfer's failure is final; each of these was another pull's.
const JOINS_MAX: u32 = 4;

/// What to pull, as whom, for which machine.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// What to pull.
    pub reference: Reference,
    /// Credentials for its registry.
    pub auth: Option<Auth>,
    /// The machine; [`Platform::host`] for this one.
    pub platform: Platform,
    /// Whether the images of all other platforms are kept too, not unpacked, so that the
    /// index can be pushed or saved as a whole.
    pub all_platforms: bool,
}

/// How far a pull is.
#[derive(Clone, Debug, Default)]
pub struct PullProgress {
    /// What the pull as a whole is doing.
    pub phase: Option<Phase>,
    /// Every layer, in the manifest's order: lowest first. Blobs of other platforms' images
    /// follow.
    pub layers: Vec<LayerProgress>,
}

/// How far one layer of a pull is.
#[derive(Clone, Debug)]
pub struct LayerProgress {
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// What is being done.
    pub state: LayerState,
    /// Compressed bytes received.
    pub fetched: u64,
    /// Compressed bytes in all.
    pub total: u64,
}

/// What is being done with one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Other layers come first.
    Waiting,
    /// It arrives and is unpacked on the way.
    Fetching,
    /// All of it is here; the rest is being unpacked and verified.
    Unpacking,
    /// It is in the store.
    Done,
    /// It was in the store already.
    Exists,
}

impl Store {
    /// Pulls an image. On success it is complete and synced; on failure nothing
    /// half-made stays, but layers that were finished do, and the bytes of others,
    /// for the next try.
    ///
    /// Dropping the future cancels; `cancel` does too and waits for the threads
    /// that unpack. Layers that another pull wants too go on.
    ///
    /// # Errors
    /// [`Error`]; its [`kind`](Error::kind) says whether it may work later.
    pub async fn pull(
        &self,
        request: PullRequest,
        tracker: &Tracker,
        progress: watch::Sender<PullProgress>,
        cancel: CancellationToken,
    ) -> Result<StoredImage, Error> {
        let pull = Pull {
            store: Arc::clone(&self.0),
            tracker: tracker.clone(),
            progress: Arc::new(progress),
        };
        pull.run(request, &cancel).await
    }
}

/// What is known of an image before its layers are fetched.
struct Prepared {
    target: Arc<Target>,
    manifest: Manifest,
    documents: Documents,
    /// Blobs of other platforms' images.
    others: Vec<Descriptor>,
    hold: Hold,
}

#[derive(Clone)]
struct Pull {
    store: Arc<Inner>,
    tracker: Tracker,
    progress: Arc<watch::Sender<PullProgress>>,
}

impl Pull {
    fn enter(&self, phase: Phase, step: &'static str) -> Result<(), Error> {
        self.progress
            .send_modify(|progress| progress.phase = Some(phase));
        Ok(self.tracker.enter(phase, step)?)
    }

    async fn run(
        self,
        request: PullRequest,
        cancel: &CancellationToken,
    ) -> Result<StoredImage, Error> {
        let prepared = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            prepared = self.prepare(request) => prepared?,
        };
        self.layers(&prepared, cancel).await?;
        let Prepared {
            documents, hold, ..
        } = prepared;
        let (store, tracker) = (Arc::clone(&self.store), self.tracker.clone());
        self.progress
            .send_modify(|progress| progress.phase = Some(Phase::Publish));
        tokio::task::spawn_blocking(move || assemble(&store, documents, hold, &tracker))
            .await
            .map_err(Error::Worker)?
    }

    async fn prepare(&self, request: PullRequest) -> Result<Prepared, Error> {
        self.enter(Phase::Resolve, "manifest")?;
        let target = Arc::new(Target::new(
            &self.store,
            request.reference,
            request.auth.unwrap_or_default(),
        ));
        if request.all_platforms && !self.store.keep_blobs {
            return Err(Error::NotKept);
        }
        let resolved = self.resolve(&target, &request.platform).await?;
        let whole = match request.all_platforms {
            true => self.whole(&target, &resolved).await?,
            false => Whole::default(),
        };

        self.enter(Phase::Fetch, "config")?;
        let wanted = &resolved.manifest.config;
        // Before anything is looked for, or a collection could remove it in between.
        let held = Hold::of_blobs(&self.store, [&wanted.digest]);
        let config = match self.read_blob(&wanted.digest).await? {
            Some(bytes) if bytes.len() as u64 == wanted.size => bytes,
            _ => target.session()?.small_blob(wanted).await?,
        };
        let name = wanted.digest.to_string();
        let count = resolved.manifest.layers.len();
        let parsed = document::parse_config(&config, &name, count, &request.platform)?;
        let documents = Documents {
            config: (wanted.digest.clone(), config),
            manifest: resolved.own,
            indexes: resolved.indexes,
            parsed,
            others: Others {
                documents: whole.documents,
                blobs: whole.blobs.iter().map(|blob| blob.digest.clone()).collect(),
            },
            layers: resolved
                .manifest
                .layers
                .iter()
                .map(Descriptor::layer)
                .collect(),
        };
        let hold = Hold::new(&self.store, documents.names());
        drop((held, resolved.held, whole.held));
        Ok(Prepared {
            target,
            manifest: resolved.manifest,
            documents,
            others: whole.blobs,
            hold,
        })
    }

    /// A document that is here already; a damaged one is not.
    async fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let (store, digest) = (Arc::clone(&self.store), digest.clone());
        let read = move || match store.read_blob(&digest) {
            Err(Error::BlobDigest { .. }) => Ok(None),
            other => other,
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(Error::Worker)?
    }

    async fn layers(&self, prepared: &Prepared, cancel: &CancellationToken) -> Result<(), Error> {
        let (manifest, diff_ids) = (&prepared.manifest, &prepared.documents.parsed.diff_ids);
        let all = manifest.layers.iter().chain(&prepared.others);
        let layers = all.map(|layer| LayerProgress {
            digest: layer.digest.clone(),
            state: LayerState::Waiting,
            fetched: 0,
            total: layer.size,
        });
        let layers = layers.collect();
        self.progress
            .send_modify(|progress| progress.layers = layers);
        let described = manifest.layers.iter().zip(diff_ids);
        let unpacked = described
            .zip(chain_keys(diff_ids))
            .map(|((layer, diff_id), chain)| {
                let diff_id = diff_id.clone();
                (layer, Some(Unpacking { diff_id, chain }))
            });
        let kept = prepared.others.iter().map(|blob| (blob, None));
        let jobs = unpacked.chain(kept).map(|(layer, unpacking)| LayerJob {
            tracker: self.tracker.clone(),
            target: Arc::clone(&prepared.target),
            layer: layer.clone(),
            unpacking,
        });
        let jobs: Vec<Arc<LayerJob>> = jobs.map(Arc::new).collect();
        let (store, wanted) = (Arc::clone(&self.store), jobs.clone());
        let admit = move || admission::admit(&store, &wanted);
        let (missing, _promise) = tokio::task::spawn_blocking(admit)
            .await
            .map_err(Error::Worker)??;
        self.enter(Phase::Fetch, "layers")?;
        let stop = cancel.child_token();
        let mut following = JoinSet::new();
        for (index, job) in jobs.into_iter().enumerate() {
            if missing.get(index) == Some(&false) {
                self.show(index, &Step::new(LayerState::Exists, job.layer.size));
                continue;
            }
            // One layer may occur twice in an image; its second use joins the first.
            let follow = self.clone().follow(index, job, stop.clone());
            following.spawn(follow.in_current_span());
        }
        let mut failure = None;
        while let Some(done) = following.join_next().await {
            let done = done.map_err(Error::Worker).flatten();
            if let (Err(error), None) = (done, &failure) {
                failure = Some(error);
                // The others let go of their transfers, which stop if nobody else wants them.
                stop.cancel();
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Waits for a layer, whoever fetches it.
    async fn follow(
        self,
        index: usize,
        job: Arc<LayerJob>,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let key = job.key();
        let mut joins = 0;
        loop {
            let job = Arc::clone(&job);
            let ticket = Ticket::take(&self.store, &key, |transfer| job.run(transfer));
            let outcome = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    ticket.leave(STOP_MAX).await;
                    return Err(Error::Cancelled);
                }
                outcome = ticket.outcome(|step| self.show(index, step)) => outcome,
            };
            match outcome {
                Ok(()) => return Ok(()),
                // Another pull's credentials, registry or failpoint say nothing about this one's.
                Err(_) if ticket.joined() && joins < JOINS_MAX => joins += 1,
                Err(error) => return Err(Error::Transfer(error)),
            }
        }
    }

    fn show(&self, index: usize, step: &Step) {
        self.progress.send_modify(|progress| {
            if let Some(layer) = progress.layers.get_mut(index) {
                layer.state = step.state;
                layer.fetched = step.fetched.min(layer.total);
            }
        });
    }
}
