//! Stand-ins for the images that critest pulls, under their original names.
//!
//! Each is like the original in what the suite looks at: programs, users,
//! kind of manifest, and which names share one image. Only the image that the
//! suite names by a fixed digest cannot be made.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    image::{self, Entry, Image, Layer, architecture},
    registry::Registry,
};

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// OCI's media types, and Docker's for the same.
const DOCKER_NAMES: [(&str, &str); 3] = [
    (image::MANIFEST, DOCKER_MANIFEST),
    (
        image::CONFIG,
        "application/vnd.docker.container.image.v1+json",
    ),
    (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      www-data:x:33:33:www-data:/var/www:/bin/false\n\
                      default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\n\
                     daemon:x:1:\n\
                     www-data:x:33:\n\
                     default-user:x:1000:\n\
                     group-defined-in-image:x:50000:default-user\n\
                     nobody:x:65534:\n";

/// Which kind of list an image is offered in.
#[derive(Clone, Copy)]
enum Kind {
    Docker,
    Oci,
}

/// An image under one of its names.
#[derive(Debug)]
pub struct Offer {
    /// The registry in the name, such as `registry.k8s.io`.
    pub host: &'static str,
    /// The repository, as `e2e-test-images/busybox`.
    pub repository: String,
    /// The tag.
    pub tag: &'static str,
    /// An image for this machine's architecture and a second one.
    pub image: Image,
}

/// All images of the suite, from the programs in `parts` that `prepare.sh` makes.
///
/// # Errors
/// If a program is missing.
pub fn offers(parts: &Path) -> Result<Vec<Offer>> {
    let base = base(parts)?;
    let shell = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin:/sbin"] });
    let nginx = |port| -> Result<Image> {
        let layer = Layer::gzip(&nginx(parts, port)?)?;
        let config = json!({
            "Cmd": ["nginx", "-g", "daemon off;"],
            "Env": ["PATH=/usr/sbin:/bin"],
            "StopSignal": "SIGQUIT",
        });
        both(Kind::Docker, &[base.clone(), layer], config)
    };
    let marked = |mark: &str| -> Result<Image> {
        let layer = Layer::gzip(&[Entry::file(mark, 0o644, "")])?;
        both(Kind::Docker, &[base.clone(), layer], shell.clone())
    };
    let user = |name: &str| -> Result<Image> {
        let mut config = shell.clone();
        config["User"] = name.into();
        both(Kind::Docker, std::slice::from_ref(&base), config)
    };

    let k8s = "registry.k8s.io";
    let mut all = Vec::new();
    let mut offer = |host, repository: &str, tag, image: Image| {
        all.push(Offer {
            host,
            repository: repository.to_owned(),
            tag,
            image,
        });
    };
    let busybox = both(Kind::Docker, std::slice::from_ref(&base), shell.clone())?;
    offer(k8s, "e2e-test-images/busybox", "1.29-2", busybox);
    offer(k8s, "e2e-test-images/nginx", "1.14-2", nginx(80)?);
    offer(k8s, "e2e-test-images/httpd", "2.4.39-4", httpd(&base)?);
    offer(
        k8s,
        "e2e-test-images/nonewprivs",
        "1.3",
        nonewprivs(parts, &base)?,
    );
    let pause = both(
        Kind::Oci,
        std::slice::from_ref(&base),
        json!({ "Entrypoint": ["/bin/sleep", "100000000"] }),
    )?;
    offer(k8s, "pause", "3.9", pause.clone());
    offer("k8s.gcr.io", "pause", "3.9", pause);

    let gcr = "gcr.io";
    let staging = |name: &str| format!("k8s-staging-cri-tools/{name}");
    let hostnet = staging(&format!("hostnet-nginx-{}", architecture()));
    offer(gcr, &hostnet, "latest", nginx(12003)?);
    for (name, id) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:www-data"),
        ("test-image-predefined-group", "1000"),
    ] {
        offer(gcr, &staging(name), "latest", user(id)?);
    }
    for name in [
        "test-image-latest",
        "test-image-1",
        "test-image-2",
        "test-image-3",
    ] {
        offer(gcr, &staging(name), "latest", marked(name)?);
    }
    for tag in ["test", "all"] {
        offer(gcr, &staging("test-image-tag"), tag, marked(tag)?);
    }
    let tags = marked("tags")?;
    for tag in ["1", "2", "3"] {
        offer(gcr, &staging("test-image-tags"), tag, tags.clone());
    }

    // For the suite's benchmark of images.
    for tag in ["1.35.0-glibc", "1-uclibc", "1", "1-glibc", "1-musl"] {
        let layer = Layer::gzip(&[Entry::file(tag, 0o644, "")])?;
        let image = both(Kind::Oci, &[base.clone(), layer], shell.clone())?;
        offer("public.ecr.aws", "docker/library/busybox", tag, image);
    }
    Ok(all)
}

/// Offers all of `offers` in `registry`; returns the registries in their names.
///
/// # Errors
/// If a manifest has no media type.
pub fn publish(offers: &[Offer], registry: &Registry) -> Result<BTreeSet<&'static str>> {
    for offer in offers {
        registry.add(&offer.repository, offer.tag, &offer.image);
        for (digest, bytes) in &offer.image.manifests {
            let manifest: Value = serde_json::from_slice(bytes)?;
            let media_type = manifest["mediaType"].as_str().context("no media type")?;
            registry.add_manifest(&offer.repository, digest, media_type, bytes);
        }
    }
    Ok(offers.iter().map(|offer| offer.host).collect())
}

/// A system of busybox's applets, each a hard link: with symlinks, a test that
/// masks `/bin/ls` would mask them all.
fn base(parts: &Path) -> Result<Layer> {
    let program = parts.join("busybox");
    let bytes = read(&program)?;
    let output = std::process::Command::new(&program)
        .arg("--list")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "busybox --list: {}", output.status);
    let mut entries = vec![
        Entry::directory("bin", 0o755),
        Entry::file("bin/busybox", 0o755, bytes),
    ];
    for applet in String::from_utf8(output.stdout)?.lines() {
        if applet != "busybox" {
            entries.push(Entry::hard_link(&format!("bin/{applet}"), "bin/busybox"));
        }
    }
    entries.extend([
        Entry::directory("etc", 0o755),
        Entry::file("etc/passwd", 0o644, PASSWD),
        Entry::file("etc/group", 0o644, GROUP),
        Entry::directory("home", 0o755),
        Entry::directory("home/default-user", 0o755).owner(1000, 1000),
        Entry::directory("mnt", 0o755),
        Entry::directory("root", 0o700),
        Entry::directory("tmp", 0o1777),
        Entry::directory("usr", 0o755),
        Entry::directory("var", 0o755),
        Entry::directory("var/run", 0o755),
        Entry::directory("var/log", 0o755),
    ]);
    Layer::gzip(&entries)
}

/// nginx with the libraries that it is linked with, answering on `port`.
fn nginx(parts: &Path, port: u16) -> Result<Vec<Entry>> {
    let tree = parts.join("nginx");
    let mut entries = Vec::new();
    for directory in ["lib", "lib64", "usr/sbin"] {
        entries.push(Entry::directory(directory, 0o755));
        let mut files: Vec<_> = fs::read_dir(tree.join(directory))
            .with_context(|| format!("read {}", tree.join(directory).display()))?
            .collect::<std::io::Result<_>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let path = format!("{directory}/{}", file.file_name().to_string_lossy());
            entries.push(Entry::file(&path, 0o755, read(&file.path())?));
        }
    }
    let config = format!(
        "user www-data;\n\
         pid /var/run/nginx.pid;\n\
         error_log stderr;\n\
         events {{}}\n\
         http {{\n\
         access_log /dev/stdout;\n\
         server {{ listen {port}; location / {{ return 200 \"Welcome to nginx\\n\"; }} }}\n\
         }}\n"
    );
    entries.extend([
        Entry::directory("etc/nginx", 0o755),
        Entry::file("etc/nginx/nginx.conf", 0o644, config),
        Entry::directory("usr/share", 0o755),
        Entry::directory("var/lib", 0o755),
        Entry::directory("var/lib/nginx", 0o755),
        Entry::directory("var/log/nginx", 0o755),
    ]);
    Ok(entries)
}

fn httpd(base: &Layer) -> Result<Image> {
    let layer = Layer::gzip(&[
        Entry::directory("www", 0o755),
        Entry::file("www/index.html", 0o644, "It works!\n"),
    ])?;
    // The suite looks for the server's name in its log.
    let command = "echo httpd: ready; exec httpd -f -p 80 -h /www";
    let config = json!({ "Cmd": ["sh", "-c", command], "Env": ["PATH=/bin"] });
    both(Kind::Docker, &[base.clone(), layer], config)
}

fn nonewprivs(parts: &Path, base: &Layer) -> Result<Image> {
    let program = read(&parts.join("nonewprivs"))?;
    let layer = Layer::gzip(&[Entry::file("nnp", 0o4755, program)])?;
    both(
        Kind::Docker,
        &[base.clone(), layer],
        json!({ "Cmd": ["/nnp"] }),
    )
}

/// The image for this machine, beside one for an architecture that it does not have.
fn both(kind: Kind, layers: &[Layer], config: Value) -> Result<Image> {
    let foreign = if architecture() == "arm64" {
        "amd64"
    } else {
        "arm64"
    };
    let layer = Layer::gzip(&[Entry::file("not-for-this-machine", 0o644, "")])?;
    let images = [
        (architecture(), Image::new(layers, config.clone())?),
        (foreign, Image::for_platform(&[layer], config, foreign)?),
    ];
    match kind {
        Kind::Oci => Image::index(&images),
        Kind::Docker => {
            let [(here, own), (there, other)] = images;
            let index = Image::index(&[(here, docker(own)?), (there, docker(other)?)])?;
            listed(index)
        }
    }
}

/// The same image in Docker's words.
fn docker(mut image: Image) -> Result<Image> {
    image.manifest = renamed(image.manifest)?;
    image.media_type = DOCKER_MANIFEST;
    Ok(image)
}

fn listed(mut index: Image) -> Result<Image> {
    let text = String::from_utf8(renamed(index.manifest)?)?;
    index.manifest = text.replace(image::INDEX, DOCKER_LIST).into_bytes();
    index.media_type = DOCKER_LIST;
    Ok(index)
}

fn renamed(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut text = String::from_utf8(bytes)?;
    for (oci, docker) in DOCKER_NAMES {
        text = text.replace(oci, docker);
    }
    Ok(text.into_bytes())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_in_dockers_words_has_no_media_type_of_ocis() {
        let layer = Layer::gzip(&[Entry::file("f", 0o644, "")]).unwrap();
        let image = both(Kind::Docker, &[layer], json!({})).unwrap();
        assert_eq!(image.media_type, DOCKER_LIST);
        assert_eq!(image.manifests.len(), 2);
        for bytes in image.manifests.values().chain([&image.manifest]) {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(!text.contains("vnd.oci"), "{text}");
        }
        // The list names its manifests by the digests they have now.
        for digest in image.manifests.keys() {
            let text = String::from_utf8(image.manifest.clone()).unwrap();
            assert!(text.contains(digest.as_str()), "{text}");
        }
    }
}
