use std::time::Duration;

use anyhow::Result;
use berth_integration::{leak::Kind, pod, wait};

use crate::fixture::{OBEYS, Shell};

#[tokio::test(flavor = "multi_thread")]
async fn pods_have_addresses_of_their_own_and_reach_each_other() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let server = "while :; do echo hello | nc -l -p 8080; done";
    let one = shell.pod("server", server).await?;
    let two = shell.pod("client", OBEYS).await?;
    let address = async |pod: &str| -> Result<String> {
        Ok(node.pod_status(pod).await?.network.unwrap_or_default().ip)
    };
    let (first, second) = (address(&one.id).await?, address(&two.id).await?);
    assert!(!first.is_empty() && !second.is_empty() && first != second);

    let script = format!("nc -w 5 {first} 8080 </dev/null || true");
    wait::until("the other pod answers", Duration::from_secs(10), || async {
        let answer = node.sh(&two.container, &script).await?;
        Ok((answer == "hello\n").then_some(()))
    })
    .await?;
    let route = node.sh(&two.container, "ip route show default").await?;
    assert!(route.starts_with("default via "), "{route}");
    let links = node.sh(&two.container, "ip -o link show | wc -l").await?;
    assert_eq!(links.trim(), "2", "lo and one device");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_its_gateway_and_loopback_is_its_own() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("gateway", OBEYS).await?;
    // Only the agent's own namespace has this port on its loopback address.
    let port = shell.registry.address().port();
    let refused = format!("wget -T 3 -q -O - http://127.0.0.1:{port}/v2/ && exit 9; exit 0");
    node.sh(&pod.container, &refused).await?;
    let script =
        "ping -c 1 -W 5 $(ip route show | awk '/^default/ { print $3 }') >/dev/null && echo up";
    assert_eq!(node.sh(&pod.container, script).await?, "up\n");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_free_again_when_its_pod_is_gone() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut seen = std::collections::BTreeSet::new();
    let before = node.traces()?;
    for index in 0..5 {
        let config = pod::sandbox(node, &format!("again-{index}"));
        let pod = node.run_pod(&config).await?;
        let status = node.pod_status(&pod).await?;
        seen.insert(status.network.unwrap_or_default().ip);
        node.stop_pod(&pod).await?;
        node.remove_pod(&pod).await?;
    }
    assert!(!seen.contains(""));
    let links = |traces: &[(Kind, String)]| {
        let links = traces.iter().filter(|(kind, _)| *kind == Kind::Link);
        // The bridge stays while the agent runs.
        links.filter(|(_, name)| name.contains('@')).count()
    };
    wait::until_true("all links are gone", Duration::from_secs(5), || {
        Ok(links(&node.traces()?) == links(&before))
    })
    .await?;
    shell.finish().await
}
