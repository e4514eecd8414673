//! Images that are mounted as volumes.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use berth_image::Hold;
use berth_proto::cri::{ContainerConfig, Mount};
use berth_sys::{
    mount::{self, attr},
    resolve::{self, Scope},
};
use nix::libc;

use crate::{
    error::{Error, Result},
    node::Node,
    spec,
    store::ImageRecord,
};

/// An image that becomes a volume, its layers kept from deletion until it is dropped.
#[derive(Debug)]
pub(super) struct ImageVolume {
    pub(super) image: Arc<ImageRecord>,
    _layers: Hold,
    /// Below the image's root; empty for all of it.
    sub_path: PathBuf,
    /// Where it is mounted in the container, for errors.
    at: String,
}

/// Whether a mount is of an image.
pub(super) fn is_image(mount: &Mount) -> bool {
    mount
        .image
        .as_ref()
        .is_some_and(|image| !image.image.is_empty())
}

/// The images among the mounts of `config`, in their order.
///
/// # Errors
/// NotFound for an image that is not here; InvalidArgument for a path that leads out.
pub(super) fn find(node: &Node, config: &ContainerConfig) -> Result<Vec<ImageVolume>> {
    let wanted = config.mounts.iter().filter(|mount| is_image(mount));
    wanted
        .map(|mount| {
            let at = &mount.container_path;
            let name = mount.image.clone().unwrap_or_default().image;
            let held = node.images.hold(&name)?.ok_or_else(|| {
                Error::not_found(format!(
                    "{}: mount at {at:?}: image {name:?} is not on this node",
                    spec::IMAGE_VOLUME_FAILED
                ))
                .with_remedy("pull it first")
            })?;
            let sub_path = Path::new(&mount.image_sub_path);
            let inside = sub_path
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !inside || mount.image_sub_path.contains('\0') {
                return Err(Error::invalid(format!(
                    "{}: mount at {at:?}: image_sub_path {:?}: expected a relative path without \"..\"",
                    spec::IMAGE_VOLUME_FAILED, mount.image_sub_path
                )));
            }
            let (image, layers) = held;
            Ok(ImageVolume {
                image,
                _layers: layers,
                sub_path: sub_path.to_owned(),
                at: at.clone(),
            })
        })
        .collect()
}

impl ImageVolume {
    /// A detached tree of the volume, read-only; `users` are those of the pod, if they
    /// are not the node's. `images` is the directory of all layers. Blocks.
    ///
    /// # Errors
    /// InvalidArgument for a sub-path that is not there.
    pub(super) fn open(&self, images: &Path, users: Option<&OwnedFd>) -> Result<OwnedFd> {
        let whole = self
            .layers(images, users)
            .and_then(|layers| match &layers[..] {
                // Overlay wants two; what is one alone is the whole already.
                [only] => mount::clone_tree(only, c"", false),
                _ => mount::overlay(&layers),
            })
            .map_err(|error| Error::io(self.what("mount the image"), error))?;
        let tree = if self.sub_path.as_os_str().is_empty() {
            whole
        } else {
            self.below(&whole)?
        };
        mount::set_attributes(&tree, attr::RDONLY, 0, libc::MS_PRIVATE, false)
            .map_err(|error| Error::io(self.what("make it read-only"), error))?;
        Ok(tree)
    }

    /// Whether it is a file and no directory.
    ///
    /// # Errors
    /// As [`ImageVolume::open`].
    pub(super) fn is_file(&self, images: &Path) -> Result<bool> {
        let tree = self.open(images, None)?;
        let kind =
            resolve::file_type(&tree).map_err(|error| Error::io(self.what("look at it"), error))?;
        Ok(kind != libc::S_IFDIR)
    }

    /// Uppermost first.
    fn layers(&self, images: &Path, users: Option<&OwnedFd>) -> io::Result<Vec<OwnedFd>> {
        let uppermost_first = self.image.layers.iter().rev();
        uppermost_first
            .map(|layer| {
                let directory = File::open(images.join(layer))?;
                let Some(users) = users else {
                    return Ok(directory.into());
                };
                let tree = mount::clone_tree(directory.as_fd(), c"", false)?;
                mount::map_ids(&tree, users, false)?;
                Ok(tree)
            })
            .collect()
    }

    /// Links of the image lead nowhere but below its own root.
    fn below(&self, whole: &OwnedFd) -> Result<OwnedFd> {
        let opened = resolve::open_path(whole, &self.sub_path, Scope::InRoot);
        let found = opened.map_err(|error| {
            let what = self.what(&format!("image_sub_path {:?}", self.sub_path));
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    Error::invalid(what).with_source(error)
                }
                _ => Error::io(what, error),
            }
        })?;
        mount::clone_tree(&found, c"", false).map_err(|error| {
            let what = self.what(&format!("image_sub_path {:?}", self.sub_path));
            match error.raw_os_error() {
                Some(libc::EINVAL) => Error::precondition(what)
                    .with_source(error)
                    .with_remedy("Linux 6.15 can mount a part of an image; mount the whole"),
                _ => Error::io(what, error),
            }
        })
    }

    fn what(&self, doing: &str) -> String {
        let reason = spec::IMAGE_VOLUME_FAILED;
        format!("{reason}: mount at {:?}: {doing}", self.at)
    }
}
