//! Credentials that people keep, against a registry that wants them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::Result;
use berth_integration::{
    Node,
    distribution::{Distribution, PASSWORD, USER, Wants, skopeo},
    image,
};

use crate::fixture::{Done, ctl, ctl_from, ok};

/// `berthctl login` with a password on its standard input.
pub fn login(node: &Node, host: &str, password: &str) -> Result<Done> {
    let file = node.home().join("password");
    fs::write(&file, password)?;
    let input = fs::File::open(&file)?;
    fs::remove_file(file)?;
    ctl_from(
        node,
        &["login", "-u", USER, "--password-stdin", host],
        input.into(),
    )
}

/// A node that trusts the authority of a registry with TLS and a password.
pub async fn secure(config: &str) -> Result<(Node, Distribution)> {
    let mut node = Node::prepare("")?;
    let wants = Wants {
        password: true,
        tls: true,
    };
    let registry = Distribution::start(node.netns(), 5443, wants).await?;
    node.configure(&format!(
        "[image]\ntls_registries = [\"{}\"]\nextra_ca = [\"{}/ca.crt\"]\n{config}",
        registry.host(),
        registry.authority().display()
    ))?;
    node.launch(&[]).await?;
    Ok((node, registry))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_kept_when_the_registry_has_accepted_it_and_until_logout() -> Result<()> {
    let (node, registry) = secure("").await?;
    let file = node.home().join("image.tar");
    let image = image::busybox()?;
    fs::write(&file, image.layout_tar("latest")?)?;
    let name = format!("{}/team/private:1", registry.host());
    let certificates = registry.authority().display().to_string();
    let to = format!("docker://{name}");
    let from = format!("oci-archive:{}:latest", file.display());
    let copy = [
        "copy",
        "--dest-cert-dir",
        &certificates,
        "--dest-creds",
        "me:pa55:word",
        &from,
        &to,
    ];
    skopeo(node.netns(), &copy)?;

    let refused = ctl(&node, &["pull", &name])?;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("berthctl login 127.0.0.1:5443"),
        "{}",
        refused.err
    );
    let wrong = login(&node, registry.host(), "wrong")?;
    assert_eq!(wrong.code, 1, "{}", wrong.err);
    assert!(
        wrong.err.contains("does not accept the password"),
        "{}",
        wrong.err
    );
    let kept = node.home().join(".docker/config.json");
    assert!(!kept.exists());
    let done = login(&node, registry.host(), PASSWORD)?;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "Login Succeeded"),
        "{}",
        done.err
    );
    assert_eq!(fs::metadata(&kept)?.permissions().mode() & 0o777, 0o600);
    assert!(ok(&node, &["pull", &name])?.out.contains(&image.id));

    let out = ok(&node, &["logout", registry.host()])?.out;
    assert!(out.starts_with("Removed the credentials"), "{out}");
    assert_eq!(ctl(&node, &["pull", &name])?.code, 1);
    assert!(
        !node.log()?.contains(PASSWORD),
        "the password is in the log"
    );
    // No registry at all.
    assert_eq!(login(&node, "127.0.0.1:9", PASSWORD)?.code, 1);
    drop(registry);
    fs::remove_file(file)?;
    fs::remove_dir_all(node.home().join(".docker"))?;
    node.finish().await
}
