//! One layer: its bytes from the registry, or from an earlier try, into the store.

use std::{io::Read as _, sync::Arc};

use berth_phase::{Phase, Tracker};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    LayerState,
    arriving::{Arriving, Part, beginning},
    transfer::{Key, Transfer},
};
use crate::{
    Error, Kind,
    document::Descriptor,
    name::{Digest, Reference},
    registry::{Action, Auth, RegistryError, Session, Shared},
    store::{Inner, Partial, layer_key},
    unpack::{Expected, Keep, receive, unpack},
};

/// Chunks on their way from the network to the disk: with 16 KiB each at most 512 KiB per layer.
const CHUNKS_AHEAD: usize = 32;
/// Between two reports of progress.
const REPORT_BYTES: u64 = 128 << 10;

/// Where a pull's layers come from.
pub(super) struct Target {
    pub(super) store: Arc<Inner>,
    pub(super) reference: Reference,
    auth: Auth,
    /// Hosts and what they accepted last; one token serves all layers.
    shared: Arc<Shared>,
}

impl Target {
    pub(super) fn new(store: &Arc<Inner>, reference: Reference, auth: Auth) -> Self {
        Self {
            store: Arc::clone(store),
            reference,
            auth,
            shared: Arc::default(),
        }
    }

    pub(super) fn session(&self) -> Result<Session<'_>, Error> {
        Ok(Session::new(
            &self.store.clients,
            &self.reference,
            self.auth.clone(),
            Arc::clone(&self.shared),
            Action::Pull,
        )?)
    }
}

/// A layer that a pull wants.
pub(super) struct LayerJob {
    pub(super) tracker: Tracker,
    pub(super) target: Arc<Target>,
    pub(super) layer: Descriptor,
    /// None for a blob that is only kept.
    pub(super) unpacking: Option<Unpacking>,
}

/// What a layer is unpacked to.
pub(super) struct Unpacking {
    pub(super) diff_id: Digest,
    /// The name it has if it was completed for this image.
    pub(super) chain: String,
}

/// What of a layer is not in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Nothing,
    /// It is unpacked, but its bytes are not there to be pushed or saved.
    Blob,
    /// Its bytes are there, for instance since its directory was damaged.
    Directory,
    Both,
}

impl LayerJob {
    pub(super) fn key(&self) -> Key {
        Key {
            blob: self.layer.digest.clone(),
            diff_id: self.diff_id().cloned(),
        }
    }

    pub(super) fn diff_id(&self) -> Option<&Digest> {
        self.unpacking.as_ref().map(|unpacking| &unpacking.diff_id)
    }

    /// What is to be done. Blocks.
    pub(super) fn missing(&self) -> Result<Missing, Error> {
        let store = &self.target.store;
        let directory = match &self.unpacking {
            Some(Unpacking { diff_id, chain }) => {
                store.layer(chain)?.is_some() || store.layer(&layer_key(diff_id))?.is_some()
            }
            None => true,
        };
        let blob = match store.open_blob(&self.layer.digest)? {
            Some(file) => file
                .metadata()
                .is_ok_and(|meta| meta.len() == self.layer.size),
            None => false,
        };
        Ok(match (directory, blob) {
            (true, true) => Missing::Nothing,
            (true, false) if !store.keep_blobs && self.unpacking.is_some() => Missing::Nothing,
            (true, false) => Missing::Blob,
            (false, true) => Missing::Directory,
            (false, false) => Missing::Both,
        })
    }

    /// Brings the layer into the store; the work of one transfer.
    pub(super) async fn run(self: Arc<Self>, transfer: Arc<Transfer>) -> Result<(), Error> {
        let store = &self.target.store;
        let cancel = &transfer.cancel;
        let _turn = tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            turn = store.turn(self.target.reference.registry()) => turn?,
        };
        // Another transfer of the blob or the layer may be just stopping. Always in this
        // order: a blob can be claimed for several layers, and a layer have several blobs.
        let blob = store.maker(&self.layer.digest.to_string());
        let layer = self
            .diff_id()
            .map(|diff_id| store.maker(&layer_key(diff_id)));
        let both = async {
            let blob = blob.lock_owned().await;
            let layer = match layer {
                Some(layer) => Some(layer.lock_owned().await),
                None => None,
            };
            (blob, layer)
        };
        let _making = tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            both = both => both,
        };
        let looking = Arc::clone(&self);
        let missing = tokio::task::spawn_blocking(move || looking.missing())
            .await
            .map_err(Error::Worker)??;
        match missing {
            Missing::Nothing => {
                transfer.fetched(self.layer.size);
                transfer.state(LayerState::Exists);
                return Ok(());
            }
            Missing::Directory => {
                transfer.fetched(self.layer.size);
                transfer.state(LayerState::Unpacking);
                match self.from_blob(cancel).await {
                    Err(error) if error.is_about_content() => {
                        tracing::warn!(layer = %self.layer.digest, %error, "a blob is damaged and is fetched again");
                        store.discard_blob(&self.layer.digest)?;
                    }
                    other => return other.map(|()| transfer.state(LayerState::Done)),
                }
            }
            Missing::Blob | Missing::Both => {}
        }
        let unpacking = self.unpacking.as_ref();
        let unpacking = unpacking.filter(|_| missing != Missing::Blob).is_some();
        if let Err((error, resumed)) = self.transfer(&transfer, unpacking).await {
            if !error.is_about_content() {
                return Err(error);
            }
            let mirrored = self.target.session()?.distrust_mirrors();
            if !resumed && !mirrored {
                return Err(error);
            }
            tracing::info!(layer = %self.layer.digest, %error, resumed, mirrored, "what an earlier transfer left or a mirror sent does not fit and is fetched again");
            self.transfer(&transfer, unpacking)
                .await
                .map_err(|(error, _)| error)?;
        }
        store.promises.used(&self.key(), 1000);
        transfer.state(LayerState::Done);
        Ok(())
    }

    /// Fetches what an earlier try has not. With an error comes whether there was such a try.
    async fn transfer(
        self: &Arc<Self>,
        transfer: &Transfer,
        unpacking: bool,
    ) -> Result<(), (Error, bool)> {
        self.enter(Phase::Fetch).map_err(|error| (error, false))?;
        let opening = Arc::clone(self);
        let partial = tokio::task::spawn_blocking(move || {
            Partial::open(
                &opening.target.store,
                &opening.layer.digest,
                opening.layer.size,
            )
        })
        .await
        .map_err(Error::Worker)
        .flatten()
        .map_err(|error| (error, false))?;
        let from = partial.length;
        transfer.fetched(from);
        transfer.state(LayerState::Fetching);
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let job = Arc::clone(self);
        let cancel = transfer.cancel.clone();
        let receiving = tokio::task::spawn_blocking(move || {
            let result = job.receive(&partial, receiver, unpacking, &cancel);
            job.leave(partial, result)
        });
        let fetched = tokio::select! {
            biased;
            () = transfer.cancel.cancelled() => Err(Error::Cancelled),
            fetched = self.fetch(transfer, from, &sender) => fetched,
        };
        // The thread sees that the stream was torn if it has not ended.
        drop(sender);
        // It holds the file, so there is no going on without it.
        let received = receiving.await.map_err(Error::Worker).flatten();
        // A torn stream is the consequence of the network's error, not the cause.
        fetched.and(received).map_err(|error| (error, from > 0))
    }

    fn enter(&self, phase: Phase) -> Result<(), Error> {
        Ok(self.tracker.enter(phase, "layer")?)
    }

    async fn fetch(
        &self,
        transfer: &Transfer,
        from: u64,
        sender: &mpsc::Sender<Part>,
    ) -> Result<(), Error> {
        let session = self.target.session()?;
        let mut blob = session.blob(&self.layer, from);
        let (mut fetched, mut reported) = (from, from);
        let key = self.key();
        while let Some(chunk) = blob.next().await? {
            fetched += chunk.len() as u64;
            if sender.send(Part::Bytes(chunk)).await.is_err() {
                // The thread has given up and says why.
                return Ok(());
            }
            if fetched >= reported + REPORT_BYTES {
                reported = fetched;
                transfer.fetched(fetched);
                // What is unpacked comes a little behind; it is on the disk at the end only.
                let thousandths = fetched.saturating_mul(999) / self.layer.size.max(1);
                self.target.store.promises.used(&key, thousandths);
            }
        }
        transfer.fetched(fetched);
        transfer.state(LayerState::Unpacking);
        // A thread that is gone has an error of its own.
        drop(sender.send(Part::End).await);
        Ok(())
    }

    fn expected(&self) -> Expected {
        Expected {
            blob: self.layer.digest.clone(),
            check_blob: true,
            diff_id: self.diff_id().cloned(),
        }
    }

    /// Unpacks what comes and names it when it is right. Blocks.
    fn receive(
        &self,
        partial: &Partial,
        receiver: mpsc::Receiver<Part>,
        unpacking: bool,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let store = &self.target.store;
        let copy = || {
            let copy = partial.file.try_clone();
            copy.map_err(Error::store_io("open", "partial"))
        };
        let keep = Keep {
            file: copy()?,
            length: partial.length,
        };
        let stream = beginning(copy()?, partial.length).chain(Arriving::new(receiver));
        let digest = &self.layer.digest;
        if !unpacking {
            receive(store, stream, keep, digest, cancel)?;
            self.enter(Phase::Publish)?;
            return store.publish_blob(&partial.file, partial.kept(digest));
        }
        self.enter(Phase::Unpack)?;
        let unpacked = unpack(store, stream, Some(keep), &self.expected(), cancel)?;
        self.enter(Phase::Publish)?;
        let kept = store.keep_blobs.then(|| partial.kept(digest));
        let key = layer_key(&unpacked.meta.diff_id);
        store.publish_layer(&unpacked.work, &key, &unpacked.meta, kept)
    }

    /// Keeps or removes what has arrived.
    fn leave(&self, partial: Partial, result: Result<(), Error>) -> Result<(), Error> {
        let keep = match &result {
            // It has its name as a blob now, or nobody wants it.
            Ok(()) => self.target.store.keep_blobs,
            Err(error) => !spoils(error),
        };
        if !keep && let Err(error) = partial.discard() {
            tracing::warn!(%error, "cannot remove the beginning of a blob");
        }
        result
    }

    /// Unpacks the layer from its blob in the store.
    async fn from_blob(self: &Arc<Self>, cancel: &CancellationToken) -> Result<(), Error> {
        let (job, cancel) = (Arc::clone(self), cancel.clone());
        let work = move || {
            let store = &job.target.store;
            job.enter(Phase::Unpack)?;
            let missing = || Error::store("open", "blobs")(rustix::io::Errno::NOENT);
            let file = store.open_blob(&job.layer.digest)?.ok_or_else(missing)?;
            let stream = beginning(file, job.layer.size);
            let unpacked = unpack(store, stream, None, &job.expected(), &cancel)?;
            job.enter(Phase::Publish)?;
            let key = layer_key(&unpacked.meta.diff_id);
            store.publish_layer(&unpacked.work, &key, &unpacked.meta, None)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(Error::Worker)?
    }
}

/// Whether bytes that led to `error` are of no use to the next try.
fn spoils(error: &Error) -> bool {
    let longer = matches!(error, Error::Registry(RegistryError::Longer { .. }));
    let other = matches!(error, Error::DiffId { .. });
    // On a full disk they are in the way of everybody.
    longer || other || error.is_about_content() || error.kind() == Kind::NoSpace
}
