//! The life of a pod sandbox, as it is written down.
//!
//! ```text
//!              Networked            Ready             Stopped, Lost
//!   Reserved ────────────► Networked ──────► Ready ─────────────────► NotReady ─┐ Unnetworked,
//!       │                      │                                      ▲     ▲   │ Stopped, Lost
//!       └──────────────────────┴──────── Stopped, Lost ───────────────┘     └───┘
//! ```
//!
//! Reserved and Networked are hidden from callers: the operation that made them
//! either reaches Ready or takes everything back. Where taking back failed, the
//! sandbox becomes NotReady, so that it is listed and can be removed.

use std::net::IpAddr;

use berth_proto::cri;
use serde::{Deserialize, Serialize};

use crate::{error::Error, ids::Process};

/// Where a sandbox is in its life, with the facts that hold there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// The name is taken; what the ledger holds for this id may exist.
    Reserved,
    /// Namespaces and network exist; nothing runs yet.
    Networked {
        /// The pod's network.
        network: Network,
        /// The pod's namespaces.
        #[serde(default)]
        namespaces: Namespaces,
    },
    /// Containers may be created in it.
    Ready {
        /// The pod's network.
        network: Network,
        /// The pod's namespaces.
        #[serde(default)]
        namespaces: Namespaces,
        /// Since when, in Unix nanoseconds.
        since: i64,
    },
    /// Nothing runs in it any more, and nothing will.
    NotReady {
        /// Why.
        why: NotReady,
        /// Since when, in Unix nanoseconds.
        since: i64,
        /// The network that is still to be undone; none once that has succeeded.
        #[serde(default)]
        network: Option<Network>,
    },
}

/// Why a sandbox is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotReady {
    /// Somebody stopped it.
    Stopped,
    /// The node was started anew.
    Rebooted,
    /// Its namespaces or its init are gone; the text says what was missing.
    Lost(String),
}

/// A sandbox's network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Network {
    /// Whether it is the node's own; everything else is empty then.
    pub(crate) host: bool,
    /// The pod's addresses, the primary one first.
    pub(crate) addresses: Vec<IpAddr>,
    /// The interface inside, such as `eth0`.
    pub(crate) interface: String,
    /// Its peer on the node; empty if there is none or it is not known.
    pub(crate) host_interface: String,
    /// The bridge that the peer is a port of; empty if there is none.
    pub(crate) bridge: String,
    /// Default gateways.
    pub(crate) gateways: Vec<IpAddr>,
    /// Hardware address of the interface inside.
    pub(crate) mac: String,
    /// What the network plugins answered, as it must be handed to them for the undoing.
    pub(crate) cni_result: Option<serde_json::Value>,
}

/// The namespaces of a sandbox by inode number, as `/proc/PID/ns` shows them;
/// 0 where it uses the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Namespaces {
    /// Network.
    pub(crate) net: u64,
    /// System V IPC and message queues.
    pub(crate) ipc: u64,
    /// Host name.
    pub(crate) uts: u64,
    /// Process ids.
    pub(crate) pid: u64,
    /// The init of a pod whose containers share one PID namespace.
    pub(crate) init: Option<Process>,
}

/// What happens to a sandbox. Times are Unix nanoseconds.
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, consumed at once; a box would only be another allocation"
)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Namespaces and network are there.
    Networked {
        /// The pod's network.
        network: Network,
        /// The pod's namespaces.
        namespaces: Namespaces,
    },
    /// It is complete.
    Ready {
        /// When.
        at: i64,
    },
    /// Somebody stops it: from now on it is not ready, whatever is still to be undone.
    Stopped {
        /// When.
        at: i64,
    },
    /// It is found to be gone.
    Lost {
        /// When that was found.
        at: i64,
        /// Why; not [`NotReady::Stopped`].
        why: NotReady,
    },
    /// Its network is undone.
    Unnetworked,
}

/// An event that cannot happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {state} cannot become {event}")]
pub(crate) struct IllegalTransition {
    /// Name of the state.
    pub(crate) state: &'static str,
    /// Name of the event.
    pub(crate) event: &'static str,
}

impl From<IllegalTransition> for Error {
    fn from(error: IllegalTransition) -> Self {
        Self::precondition(error.to_string())
    }
}

impl State {
    /// The state after `event`. Pure.
    ///
    /// Stopping or losing what is not ready already changes nothing, so that both may be repeated.
    ///
    /// # Errors
    /// [`IllegalTransition`] if it cannot happen here.
    pub(crate) fn next(self, event: Event) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (
                Self::Reserved,
                Event::Networked {
                    network,
                    namespaces,
                },
            ) => Ok(Self::Networked {
                network,
                namespaces,
            }),
            (
                Self::Networked {
                    network,
                    namespaces,
                },
                Event::Ready { at },
            ) => Ok(Self::Ready {
                network,
                namespaces,
                since: at,
            }),
            (state @ (Self::Reserved | Self::Networked { .. } | Self::Ready { .. }), event) => {
                let (since, why) = match event {
                    Event::Stopped { at } => (at, NotReady::Stopped),
                    Event::Lost { at, why } => (at, why),
                    Event::Networked { .. } | Event::Ready { .. } | Event::Unnetworked => {
                        return Err(IllegalTransition {
                            state: state.name(),
                            event: event.name(),
                        });
                    }
                };
                let (network, since) = match state {
                    // The wall clock may have been set back meanwhile.
                    Self::Ready {
                        network,
                        since: ready,
                        ..
                    } => (Some(network), since.max(ready)),
                    Self::Networked { network, .. } => (Some(network), since),
                    Self::Reserved | Self::NotReady { .. } => (None, since),
                };
                Ok(Self::NotReady {
                    why,
                    since,
                    network,
                })
            }
            (Self::NotReady { why, since, .. }, Event::Unnetworked) => Ok(Self::NotReady {
                why,
                since,
                network: None,
            }),
            (state @ Self::NotReady { .. }, Event::Stopped { .. } | Event::Lost { .. }) => {
                Ok(state)
            }
            (
                state @ Self::NotReady { .. },
                event @ (Event::Networked { .. } | Event::Ready { .. }),
            ) => Err(IllegalTransition {
                state: state.name(),
                event: event.name(),
            }),
        }
    }

    /// The stable lower-case name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Networked { .. } => "networked",
            Self::Ready { .. } => "ready",
            Self::NotReady { .. } => "not ready",
        }
    }

    /// As CRI callers see it; none while they must not see it.
    pub(crate) fn cri(&self) -> Option<cri::PodSandboxState> {
        match self {
            Self::Reserved | Self::Networked { .. } => None,
            Self::Ready { .. } => Some(cri::PodSandboxState::SandboxReady),
            Self::NotReady { .. } => Some(cri::PodSandboxState::SandboxNotready),
        }
    }

    /// Whether containers may be created and started in it.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// The network that exists, or may exist in part.
    pub(crate) fn network(&self) -> Option<&Network> {
        match self {
            Self::Reserved => None,
            Self::Networked { network, .. } | Self::Ready { network, .. } => Some(network),
            Self::NotReady { network, .. } => network.as_ref(),
        }
    }

    /// The addresses to report: none unless ready, since a kubelet must not
    /// publish those of a sandbox that is gone.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Ready { network, .. } => &network.addresses,
            Self::Reserved | Self::Networked { .. } | Self::NotReady { .. } => &[],
        }
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Networked { .. } => "networked",
            Self::Ready { .. } => "ready",
            Self::Stopped { .. } => "stopped",
            Self::Lost { .. } => "lost",
            Self::Unnetworked => "unnetworked",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network() -> Network {
        Network {
            addresses: vec!["10.88.0.2".parse().unwrap()],
            interface: "eth0".to_owned(),
            ..Network::default()
        }
    }

    fn states() -> [State; 5] {
        let namespaces = Namespaces::default();
        [
            State::Reserved,
            State::Networked {
                network: network(),
                namespaces: namespaces.clone(),
            },
            State::Ready {
                network: network(),
                namespaces,
                since: 5,
            },
            State::NotReady {
                why: NotReady::Stopped,
                since: 6,
                network: Some(network()),
            },
            State::NotReady {
                why: NotReady::Rebooted,
                since: 6,
                network: None,
            },
        ]
    }

    fn events(at: i64) -> [Event; 5] {
        [
            Event::Networked {
                network: network(),
                namespaces: Namespaces::default(),
            },
            Event::Ready { at },
            Event::Stopped { at },
            Event::Lost {
                at,
                why: NotReady::Rebooted,
            },
            Event::Unnetworked,
        ]
    }

    #[test]
    fn each_state_accepts_exactly_the_events_of_the_diagram() {
        const NO: &str = "-";
        // Columns: networked, ready, stopped, lost, unnetworked.
        let table = [
            ["networked", NO, "not ready", "not ready", NO],
            [NO, "ready", "not ready", "not ready", NO],
            [NO, NO, "not ready", "not ready", NO],
            [NO, NO, "not ready", "not ready", "not ready"],
            [NO, NO, "not ready", "not ready", "not ready"],
        ];
        for (state, row) in states().into_iter().zip(table) {
            for (event, expected) in events(9).into_iter().zip(row) {
                let next = state.clone().next(event.clone());
                let name = next.as_ref().map_or(NO, State::name);
                assert_eq!(name, expected, "{state:?} + {event:?}");
            }
        }
    }

    #[test]
    fn a_stop_keeps_the_network_until_it_is_undone_but_reports_no_address() {
        let ready = states()[2].clone();
        assert_eq!(ready.addresses().len(), 1);
        let stopped = ready.next(Event::Stopped { at: 9 }).unwrap();
        assert!(stopped.addresses().is_empty());
        assert!(stopped.network().is_some());
        assert!(
            stopped
                .next(Event::Unnetworked)
                .unwrap()
                .network()
                .is_none()
        );
    }

    #[test]
    fn the_first_reason_for_not_being_ready_stays() {
        let stopped = states()[2].clone().next(Event::Stopped { at: 9 }).unwrap();
        let again = stopped.clone().next(events(20)[3].clone()).unwrap();
        assert_eq!(again, stopped);
    }

    proptest! {
        #[test]
        fn no_sequence_revives_a_sandbox_or_loses_a_network_that_exists(
            steps in proptest::collection::vec((0..5_usize, 0..100_i64), 0..20)
        ) {
            let mut state = State::Reserved;
            let mut dead = false;
            let mut network_exists = false;
            for (which, at) in steps {
                let event = events(at)[which].clone();
                let Ok(next) = state.clone().next(event.clone()) else { continue };
                network_exists |= matches!(event, Event::Networked { .. });
                network_exists &= event != Event::Unnetworked;
                prop_assert_eq!(next.network().is_some(), network_exists);
                if dead {
                    prop_assert_eq!(next.cri(), Some(cri::PodSandboxState::SandboxNotready));
                }
                dead |= matches!(next, State::NotReady { .. });
                let json = serde_json::to_string(&next).unwrap();
                prop_assert_eq!(&serde_json::from_str::<State>(&json).unwrap(), &next);
                state = next;
            }
        }
    }
}
