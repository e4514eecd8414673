//! An image of five layers of 200 MB from the registry on the loopback address:
//! cold, with half of the bytes present through another image, and once more
//! when it is there.

use std::time::Instant;

use anyhow::Result;

use super::{Bench, milliseconds};
use crate::images::{HALF, LARGE};

const SUITE: &str = "pull";

pub(crate) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    // Once for the page cache of the registry and the first use of each store.
    for peer in 0..bench.peers.len() {
        let host = bench.host.clone();
        let mut client = bench.peers[peer].client.clone();
        client.pull(&format!("{host}/{LARGE}")).await?;
        client.remove_image(&format!("{host}/{LARGE}")).await?;
    }
    for round in 0..bench.rounds.div_ceil(2) {
        for peer in bench.order(round) {
            let large = format!("{}/{LARGE}", bench.host);
            let half = format!("{}/{HALF}", bench.host);
            bench.begin_profile(peer)?;
            measured(bench, peer, &large, "cold").await?;
            bench.end_profile()?;
            measured(bench, peer, &large, "all layers present").await?;
            let mut client = bench.peers[peer].client.clone();
            client.remove_image(&large).await?;
            client.pull(&half).await?;
            measured(bench, peer, &large, "half of the bytes present").await?;
            client.remove_image(&large).await?;
            client.remove_image(&half).await?;
        }
    }
    Ok(())
}

async fn measured(bench: &mut Bench<'_>, peer: usize, image: &str, name: &str) -> Result<()> {
    // What the one before left to be written must not be paid by this one.
    nix::unistd::sync();
    let mut client = bench.peers[peer].client.clone();
    let before = bench.peers[peer].cpu()?;
    let start = Instant::now();
    client.pull(image).await?;
    let time = milliseconds(start);
    let cpu = bench.peers[peer].cpu()? - before;
    bench.add(SUITE, name, "ms", peer, vec![time]);
    bench.add(SUITE, &format!("{name}, CPU"), "ms CPU", peer, vec![cpu]);
    Ok(())
}
