//! Pods' addresses and links: the built-in bridge with the store behind it.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use berth_network::{Attachment, Bridge, Ipam, NetworkConfig};
use berth_phase::Tracker;

use crate::{
    error::{Error, Kind, Result},
    ids::SandboxId,
    node::blocking,
    sandbox::state::Network,
    store::AddressRecord,
};

/// The built-in network.
#[derive(Clone, Debug)]
pub(crate) struct PodNetwork {
    bridge: Arc<Bridge>,
    ipam: Arc<Mutex<Ipam>>,
    /// Why pods cannot be connected, as of the last look.
    problem: Arc<Mutex<Option<String>>>,
}

/// How often the bridge is looked at: somebody may flush its rules.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl PodNetwork {
    /// Opens the network with the addresses that the store knows.
    ///
    /// # Errors
    /// InvalidArgument for a configuration that cannot be.
    pub(crate) fn open(config: NetworkConfig, addresses: &[AddressRecord]) -> Result<Self> {
        let mut ipam = Ipam::new(config.subnet);
        for record in addresses {
            let IpAddr::V4(ip) = record.ip else { continue };
            // An address of another subnet, from before the configuration was changed.
            if ipam.reserve(ip).is_err() {
                continue;
            }
            if let Some(freed) = record.freed_at {
                let at = UNIX_EPOCH + Duration::from_nanos(u64::try_from(freed).unwrap_or(0));
                ipam.release(ip, at).map_err(convert_ipam)?;
            }
        }
        let bridge = Bridge::open(config).map_err(convert)?;
        Ok(Self {
            bridge: Arc::new(bridge),
            ipam: Arc::new(Mutex::new(ipam)),
            problem: Arc::default(),
        })
    }

    /// The bridge's name.
    pub(crate) fn name(&self) -> String {
        self.bridge.config().bridge.clone()
    }

    /// Takes an address.
    ///
    /// # Errors
    /// ResourceExhausted if there is none left.
    pub(crate) fn allocate(&self) -> Result<Ipv4Addr> {
        self.ipam().allocate().map_err(convert_ipam)
    }

    /// Gives an address back.
    pub(crate) fn release(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip
            && let Err(error) = self.ipam().release(ip, SystemTime::now())
        {
            tracing::debug!(%ip, %error, "address was free already");
        }
    }

    fn ipam(&self) -> std::sync::MutexGuard<'_, Ipam> {
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects the namespace of pod `id`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn attach(
        &self,
        tracker: &Tracker,
        netns: OwnedFd,
        id: &SandboxId,
        address: Ipv4Addr,
    ) -> Result<Network> {
        let bridge = self.bridge.clone();
        let tracker = tracker.clone();
        let id = id.to_string();
        let name = self.bridge.config().bridge.clone();
        blocking("connect a pod", move || {
            let attachment = bridge
                .attach(&tracker, netns.as_fd(), &id, address)
                .map_err(convert)?;
            Ok(describe(attachment, name))
        })
        .await
    }

    /// Deletes what is left of a pod's link, if anything is.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn purge(&self, id: &str) -> Result<bool> {
        let bridge = self.bridge.clone();
        let id = id.to_owned();
        blocking("purge a link", move || bridge.purge(&id).map_err(convert)).await
    }

    /// Ids, as far as links tell, of the pods whose links are there.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn linked_pods(&self) -> Result<Vec<String>> {
        let bridge = self.bridge.clone();
        blocking("list links", move || {
            let links = bridge.links().map_err(convert)?;
            Ok(links.into_iter().map(|link| link.pod_id_part).collect())
        })
        .await
    }

    /// Removes bridge and rules when no pod is attached.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn remove(&self) -> Result<bool> {
        let bridge = self.bridge.clone();
        blocking("remove the bridge", move || {
            bridge.remove().map_err(convert)
        })
        .await
    }

    /// Sets the bridge up where it is not, and remembers what stands in the way.
    pub(crate) async fn look(&self) {
        let bridge = self.bridge.clone();
        let outcome = blocking("look at the bridge", move || {
            if !bridge.is_intact().map_err(convert)? {
                let done = bridge.ensure().map_err(convert)?;
                tracing::info!(?done, "the pods' bridge is set up");
            }
            Ok(())
        })
        .await;
        let problem = outcome.err().map(|error| error.sentence());
        let mut last = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|p| last.as_ref() != Some(p)) {
            tracing::warn!(problem, "pods cannot be connected");
        }
        *last = problem;
    }

    /// Looks again and again.
    pub(crate) async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look().await;
        }
    }

    /// Why pods cannot be connected, if they cannot.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn describe(attachment: Attachment, bridge: String) -> Network {
    Network {
        host: false,
        addresses: vec![attachment.address.into()],
        interface: attachment.interface,
        host_interface: attachment.host_interface,
        bridge,
        gateways: vec![attachment.gateway.into()],
        mac: attachment.mac,
        cni_result: None,
    }
}

fn convert(error: berth_network::Error) -> Error {
    use berth_network::Error as E;
    let kind = match &error {
        E::BridgeFull { .. } => Kind::ResourceExhausted,
        _ => Kind::Internal,
    };
    Error::new(kind, "network of the pod").with_source(error)
}

fn convert_ipam(error: berth_network::IpamError) -> Error {
    Error::new(Kind::ResourceExhausted, "address for the pod")
        .with_source(error)
        .with_remedy("remove pods, or configure a larger `network.subnet`")
}
