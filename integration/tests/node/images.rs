use anyhow::Result;
use berth_integration::{
    Node,
    image::{self, Image, Layer},
    leak::{Kind, Snapshot},
    pod,
    registry::Registry,
};
use berth_proto::berth::v1 as berth;
use serde_json::json;

use crate::fixture::{OBEYS, Pod, Shell};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_one_id_whatever_name_it_is_asked_for_by() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let image = image::busybox()?;
    assert_eq!(shell.image_id, image.id);
    let second = shell.registry.add("test/other", "2", &image);
    assert_eq!(node.pull(&second).await?, image.id);
    let by_digest = format!("{}/test/shell@{}", shell.registry.address(), image.digest());

    let images = node.list_images().await?;
    assert_eq!(images.len(), 1);
    let listed = &images[0];
    assert_eq!(listed.id, image.id);
    assert_eq!(listed.repo_tags.len(), 2, "{:?}", listed.repo_tags);
    assert!(listed.size > 0);
    for name in [&image.id, &shell.image, &second, &by_digest] {
        let status = node.image_status(name).await?;
        assert_eq!(status.as_ref().map(|i| &i.id), Some(&image.id), "{name}");
        assert_eq!(status.as_ref(), Some(listed), "{name}");
    }
    assert_eq!(node.image_status("no/such:image").await?, None);
    // CRI's meaning: every name goes.
    node.remove_image(&second).await?;
    assert!(node.list_images().await?.is_empty());
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_change_each_other_are_one_file_system() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/overlaying", "1", &Image::overlaying()?);
    node.pull(&reference).await?;
    let config = pod::sandbox(&node, "layers");
    let pod = node.run_pod(&config).await?;
    let container = pod::shell("main", &reference, OBEYS);
    let container = node.run(&pod, &container, &config).await?;
    let all = Pod {
        config,
        id: pod,
        container,
    };
    let expect = async |script: &str, wanted: &str| -> Result<()> {
        let got = node.sh(&all.container, script).await?;
        assert_eq!(got, wanted, "{script}");
        Ok(())
    };
    expect("cat /data/keep", "kept\n").await?;
    expect("ls /data | tr '\\n' ' '", "keep linked noted replaced ").await?;
    expect(
        "cat /data/replaced; stat -c %a /data/replaced",
        "new\n600\n",
    )
    .await?;
    expect("ls /opaque", "above\n").await?;
    expect(
        "cat /data/linked; stat -c '%u:%g %a' /data/linked",
        "kept\n1000:50000 640\n",
    )
    .await?;
    expect(
        "readlink /lib; cat /usr/lib/above /usr/lib/below",
        "usr/lib\nabove\nbelow\n",
    )
    .await?;
    expect(
        "stat -c '%a %u:%g' /private; cat /private/inner",
        "700 1000:1000\ninner\n",
    )
    .await?;
    expect("stat -c %a /bin/setuid", "4755\n").await?;
    expect("ls -d /data/.wh* /opaque/.wh* 2>/dev/null | wc -l", "0\n").await?;
    // Writes go to the container, not to the image.
    node.sh(&all.container, "rm -r /data /usr/lib; echo x >/bin/setuid")
        .await?;
    let fresh = pod::shell("fresh", &reference, OBEYS);
    let fresh = node.run(&all.id, &fresh, &all.config).await?;
    assert_eq!(
        node.sh(&fresh, "cat /data/keep /lib/above").await?,
        "kept\nabove\n"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_of_this_machine() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let own = image::busybox()?;
    let other = Image::for_platform(&[], json!({}), "s390x")?;
    let index = Image::index(&[("s390x", other), (image::architecture(), own.clone())])?;
    let reference = registry.add("test/index", "1", &index);
    assert_eq!(node.pull(&reference).await?, own.id);
    let status = node.image_status(&reference).await?.unwrap();
    let digest = format!("@{}", index.digest());
    assert!(
        status.repo_digests.iter().any(|d| d.ends_with(&digest)),
        "{:?}",
        status.repo_digests
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_fetched_once_for_all_images_that_have_it() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let base = image::busybox()?;
    let layer = base.layers[0].clone();
    let before = shell.registry.count(&layer);
    let second = Image {
        id: String::new(),
        ..base.clone()
    };
    // The same layers under another configuration.
    let configuration: serde_json::Value = serde_json::from_slice(&base.blobs[&base.id])?;
    let mut changed = configuration.clone();
    changed["config"]["Env"] = json!(["PATH=/bin", "SECOND=1"]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&second.manifest)?;
    let bytes = serde_json::to_vec(&changed)?;
    manifest["config"]["digest"] = json!(image::digest(&bytes));
    manifest["config"]["size"] = json!(bytes.len());
    let mut second = second;
    second.id = image::digest(&bytes);
    second.manifest = serde_json::to_vec(&manifest)?;
    second.blobs.insert(second.id.clone(), bytes);
    let reference = shell.registry.add("test/second", "1", &second);
    assert_eq!(node.pull(&reference).await?, second.id);
    assert_eq!(
        shell.registry.count(&layer),
        before,
        "the layer was fetched again"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_pulls_of_one_image_at_once_fetch_it_once() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let reference = registry.add("test/once", "1", &image);
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut images = node.images()?;
        let request = berth_proto::cri::PullImageRequest {
            image: Some(berth_proto::cri::ImageSpec {
                image: reference.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        pulls.spawn(async move { images.pull_image(request).await });
    }
    while let Some(pull) = pulls.join_next().await {
        assert_eq!(pull??.into_inner().image_ref, image.id);
    }
    assert_eq!(registry.count(&image.layers[0]), 1);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_can_be_removed_and_goes_when_its_last_user_does() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("in-use", OBEYS).await?;
    match node.remove_image(&shell.image).await {
        // Gone from the lists; the container keeps what it stands on.
        Ok(()) => assert!(node.list_images().await?.is_empty()),
        Err(status) => assert_eq!(status.code(), tonic::Code::FailedPrecondition),
    }
    assert_eq!(
        node.sh(&pod.container, "echo still here").await?,
        "still here\n"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_can_be_imported_and_run() -> Result<()> {
    let node = Node::start().await?;
    let image = image::busybox()?;
    let archive = image.layout_tar("latest")?;
    let header = berth::ImportHeader {
        format: berth::import_header::Format::Auto.into(),
        reference: "imported:1".into(),
        config: Vec::new(),
        replace: false,
        platform: String::new(),
    };
    let imported = import(&node, header, &archive).await?;
    assert_eq!(imported.images.len(), 1);
    assert_eq!(imported.images[0].image_id, image.id);

    // A bare root file system becomes an image with the given configuration.
    let layer = Layer::gzip(&[image::Entry::file("hello", 0o644, "hi\n")])?;
    let header = berth::ImportHeader {
        format: berth::import_header::Format::Rootfs.into(),
        reference: "root:1".into(),
        config: serde_json::to_vec(&json!({ "config": { "Cmd": ["/hello"] } }))?,
        replace: false,
        platform: String::new(),
    };
    let root = import(&node, header, &layer.stored()?).await?;
    assert_eq!(root.images.len(), 1);
    assert_eq!(node.list_images().await?.len(), 2);

    let config = pod::sandbox(&node, "imported");
    let pod = node.run_pod(&config).await?;
    let id = node
        .run(&pod, &pod::shell("main", "imported:1", OBEYS), &config)
        .await?;
    assert_eq!(node.sh(&id, "echo works").await?, "works\n");
    node.finish().await
}

async fn import(
    node: &Node,
    header: berth::ImportHeader,
    bytes: &[u8],
) -> Result<berth::ImportResponse> {
    let first = berth::ImportRequest {
        part: Some(berth::import_request::Part::Header(header)),
    };
    let chunks = bytes.chunks(64 << 10).map(|chunk| berth::ImportRequest {
        part: Some(berth::import_request::Part::Chunk(chunk.to_vec())),
    });
    let requests: Vec<_> = std::iter::once(first).chain(chunks).collect();
    let response = node.berth()?.import(tokio_stream::iter(requests)).await?;
    Ok(response.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_the_last_image_gives_the_disk_back() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let files = |node: &Node| -> Result<usize> {
        let counts = Snapshot::take(&node.scope())?.counts();
        Ok(counts.get(&Kind::File).copied().unwrap_or_default())
    };
    let before = files(&node)?;
    let reference = registry.add("test/space", "1", &Image::overlaying()?);
    let id = node.pull(&reference).await?;
    assert!(files(&node)? > before);
    let info = node
        .images()?
        .image_fs_info(berth_proto::cri::ImageFsInfoRequest {})
        .await?
        .into_inner();
    let usage = &info.image_filesystems[0];
    assert!(usage.used_bytes.unwrap_or_default().value > 1_000_000);
    let mountpoint = usage.fs_id.clone().unwrap_or_default().mountpoint;
    assert!(std::path::Path::new(&mountpoint).is_dir(), "{mountpoint}");
    node.remove_image(&id).await?;
    berth_integration::wait::until_true(
        "the layers are gone",
        std::time::Duration::from_secs(10),
        || Ok(files(&node)? == before),
    )
    .await?;
    node.finish().await
}
