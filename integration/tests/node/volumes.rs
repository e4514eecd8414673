//! Images as volumes, and containers that look at another's processes.

use anyhow::{Context as _, Result};
use berth_integration::{image, pod};
use berth_proto::cri;
use tonic::Code;

use crate::fixture::{OBEYS, Shell, assert_refused, ready};

fn volume(image: &str, at: &str, sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: at.into(),
        readonly: true,
        image: Some(cri::ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_volume_whole_or_in_part_and_outlives_its_name() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let other = shell
        .registry
        .add("test/volume", "1", &image::Image::overlaying()?);
    let id = node.pull(&other).await?;
    let config = pod::sandbox(node, "volumes");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    container.mounts = vec![
        volume(&other, "/whole", ""),
        volume(&other, "/part", "bin"),
        volume(&other, "/tool/busybox", "bin/busybox"),
    ];
    let main = node.run(&pod, &container, &config).await?;
    ready(node, &main).await?;
    node.sh(
        &main,
        "/whole/bin/busybox true && /part/busybox true && /tool/busybox true",
    )
    .await?;
    for write in ["touch /whole/x", "rm /part/busybox", "echo > /tool/busybox"] {
        assert!(node.sh(&main, write).await.is_err(), "{write}");
    }
    // The status tells what the name stood for, whatever it stands for later.
    let status = node.status(&main).await?;
    assert_eq!(status.mounts.len(), 3);
    for mount in &status.mounts {
        let image = mount.image.as_ref().context("no image")?;
        assert_eq!((&image.image, &image.image_ref), (&other, &id));
    }
    node.remove_image(&other).await?;
    node.sh(&main, "/tool/busybox true").await?;
    node.remove_container(&main).await?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_a_volume_is_refused_by_the_word_that_kubelets_know() -> Result<()>
{
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "refused");
    let pod = node.run_pod(&config).await?;
    let before = node.traces()?;
    let good = || volume(&shell.image, "/v", "");
    let cases = [
        (volume("registry.invalid/none:1", "/v", ""), Code::NotFound),
        (volume(&shell.image, "/v", "../etc"), Code::InvalidArgument),
        (volume(&shell.image, "/v", "no/such"), Code::InvalidArgument),
        (
            cri::Mount {
                readonly: false,
                ..good()
            },
            Code::InvalidArgument,
        ),
        (
            cri::Mount {
                host_path: "/tmp".into(),
                ..good()
            },
            Code::InvalidArgument,
        ),
    ];
    for (mount, code) in cases {
        let mut container = shell.container("main", OBEYS);
        container.mounts = vec![mount];
        let refused = node.create(&pod, &container, &config).await.unwrap_err();
        assert!(
            refused.message().starts_with("ImageVolumeMountFailed"),
            "{refused:?}"
        );
        assert_refused(Err::<(), _>(refused), &[code], &["/v"]);
    }
    assert_eq!(node.traces()?, before);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_see_the_processes_of_another_one_of_its_pod() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("debugged", OBEYS).await?;
    let target = |id: &str| {
        let mut container = shell.container("debug", OBEYS);
        let options = pod::security(&mut container).namespace_options.as_mut();
        let options = options.expect("made by shell()");
        options.set_pid(cri::NamespaceMode::Target);
        options.target_id = id.to_owned();
        container
    };
    let debug = target(&pod.container);
    let debug = node.run(&pod.id, &debug, &pod.config).await?;
    let seen = node.sh(&debug, "cat /proc/1/cmdline").await?;
    assert!(seen.contains("trap"), "{seen:?}");
    let space = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    assert_eq!(
        space(node.pid(&debug).await?)?,
        space(node.pid(&pod.container).await?)?
    );

    let other = shell.pod("other", OBEYS).await?;
    let refused = [
        (String::new(), Code::InvalidArgument, "target_id"),
        (
            other.container.clone(),
            Code::InvalidArgument,
            "another pod",
        ),
        ("0".repeat(64), Code::NotFound, "no container"),
    ];
    node.remove_container(&debug).await?;
    for (id, code, word) in refused {
        let made = node.create(&pod.id, &target(&id), &pod.config).await;
        assert_refused(made, &[code], &[word]);
    }
    node.stop_container(&pod.container, 5).await?;
    let late = node
        .create(&pod.id, &target(&pod.container), &pod.config)
        .await;
    assert_refused(late, &[Code::FailedPrecondition], &["not running"]);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_answer_is_told_by_the_word_that_kubelets_know() -> Result<()> {
    let shell = Shell::start().await?;
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: "registry.invalid/none:1".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let told = shell.node.images()?.pull_image(request).await.unwrap_err();
    // Kubelets read the words of errors without a code only.
    assert_eq!(told.code(), Code::Unknown);
    assert!(
        told.message().starts_with("RegistryUnavailable: "),
        "{told:?}"
    );
    shell.finish().await
}
