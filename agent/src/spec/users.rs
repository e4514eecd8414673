//! User namespaces of pods: whose ids on the node stand for a pod's users.

use berth_proto::{
    cri::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace},
    shim,
};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::error::{Result, SpecError};

/// The users of a pod, checked: one range of users and one of groups, from 0 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Users {
    uids: IdMapping,
    gids: IdMapping,
}

impl Users {
    /// What a pod's options ask for; none for the node's own users.
    ///
    /// # Errors
    /// InvalidArgument for maps that cannot be, or that would be of no protection.
    pub(crate) fn of(options: &NamespaceOption) -> Result<Option<Self>> {
        let Some(asked) = &options.userns_options else {
            return Ok(None);
        };
        match asked.mode() {
            NamespaceMode::Node => return none_given(asked).map(|()| None),
            NamespaceMode::Pod => {}
            NamespaceMode::Container | NamespaceMode::Target => {
                return Err(SpecError::invalid(
                    "userns_options.mode must be POD or NODE",
                ));
            }
        }
        for (name, mode) in [
            ("network", options.network()),
            ("ipc", options.ipc()),
            ("pid", options.pid()),
        ] {
            if mode == NamespaceMode::Node {
                return Err(SpecError::invalid(format!(
                    "namespace_options.{name} NODE in a pod with users of its own"
                ))
                .with_remedy("what belongs to the node can only be used by the node's users"));
            }
        }
        Ok(Some(Self {
            uids: only("uids", &asked.uids)?,
            gids: only("gids", &asked.gids)?,
        }))
    }

    /// Whether `asked`, of a container, is what its pod has; nothing said is.
    ///
    /// # Errors
    /// InvalidArgument if it is not.
    pub(crate) fn check(pod: Option<&Self>, asked: Option<&UserNamespace>) -> Result<()> {
        let Some(asked) = asked else { return Ok(()) };
        let same = match (pod, asked.mode()) {
            (None, NamespaceMode::Node) => asked.uids.is_empty() && asked.gids.is_empty(),
            // A message of defaults, from a caller that means nothing by it.
            (None, NamespaceMode::Pod) => asked.uids.is_empty() && asked.gids.is_empty(),
            (Some(pod), NamespaceMode::Pod) => {
                let said = |given: &[IdMapping], own: &IdMapping| {
                    given.is_empty() || given == std::slice::from_ref(own)
                };
                said(&asked.uids, &pod.uids) && said(&asked.gids, &pod.gids)
            }
            _ => false,
        };
        if same {
            Ok(())
        } else {
            Err(SpecError::invalid(
                "the container's userns_options are not those of its pod",
            ))
        }
    }

    /// The maps of users and of groups, as the shim protocol has them.
    pub(crate) fn maps(&self) -> (Vec<shim::IdMapping>, Vec<shim::IdMapping>) {
        let map = |one: &IdMapping| {
            vec![shim::IdMapping {
                inside: one.container_id,
                outside: one.host_id,
                count: one.length,
            }]
        };
        (map(&self.uids), map(&self.gids))
    }

    /// The maps of users and of groups, as a specification has them.
    pub(crate) fn oci(&self) -> (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>) {
        let map = |one: &IdMapping| {
            let map = LinuxIdMappingBuilder::default()
                .container_id(one.container_id)
                .host_id(one.host_id)
                .size(one.length)
                .build();
            // Every field is set; without a map the plan would be refused.
            map.into_iter().collect()
        };
        (map(&self.uids), map(&self.gids))
    }

    /// How many groups there are.
    pub(crate) fn groups(&self) -> u32 {
        self.gids.length
    }
}

fn none_given(asked: &UserNamespace) -> Result<()> {
    if asked.uids.is_empty() && asked.gids.is_empty() {
        Ok(())
    } else {
        Err(SpecError::invalid("userns_options NODE with maps of ids"))
    }
}

fn only(field: &str, given: &[IdMapping]) -> Result<IdMapping> {
    let wrong = |why: &str| Err(SpecError::invalid(format!("userns_options.{field}: {why}")));
    let [map] = given else {
        return wrong(&format!("expected one map, found {}", given.len()));
    };
    if map.length == 0 {
        return wrong("a map of no ids");
    }
    if map.container_id != 0 {
        return wrong("id 0 of the pod is not mapped, and its containers begin as that");
    }
    if map.host_id == 0 {
        return wrong("the pod's root would be the node's root");
    }
    // The last number stands for "none" in the kernel.
    if map.host_id.checked_add(map.length).is_none() {
        return wrong("the map ends after the last id there is");
    }
    Ok(*map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut UserNamespace)) -> NamespaceOption {
        let map = || IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        };
        let mut users = UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![map()],
            gids: vec![map()],
        };
        change(&mut users);
        NamespaceOption {
            userns_options: Some(users),
            ..NamespaceOption::default()
        }
    }

    #[test]
    fn a_pod_has_one_map_from_0_on_and_never_the_nodes_root() {
        let users = Users::of(&options(|_| {})).unwrap().unwrap();
        assert_eq!(users.maps().0[0].outside, 100_000);
        assert_eq!(users.groups(), 65_536);
        type Change = fn(&mut UserNamespace);
        let refused: [Change; 8] = [
            |u| u.uids.push(u.uids[0]),
            |u| u.gids.clear(),
            |u| u.uids[0].container_id = 1,
            |u| u.uids[0].host_id = 0,
            |u| u.gids[0].length = 0,
            |u| u.gids[0].length = u32::MAX,
            |u| u.set_mode(NamespaceMode::Container),
            |u| u.set_mode(NamespaceMode::Node),
        ];
        for change in refused {
            assert!(Users::of(&options(change)).is_err());
        }
        let mut of_the_node = options(|_| {});
        of_the_node.set_network(NamespaceMode::Node);
        assert!(Users::of(&of_the_node).is_err());
        assert_eq!(Users::of(&NamespaceOption::default()).unwrap(), None);
    }

    #[test]
    fn a_container_has_the_users_of_its_pod() {
        let asked = |change: fn(&mut UserNamespace)| options(change).userns_options.unwrap();
        let pod = Users::of(&options(|_| {})).unwrap();
        let pod = pod.as_ref();
        assert!(Users::check(pod, None).is_ok());
        assert!(Users::check(pod, Some(&asked(|_| {}))).is_ok());
        assert!(Users::check(pod, Some(&asked(|u| u.uids[0].host_id = 5))).is_err());
        assert!(Users::check(pod, Some(&asked(|u| u.set_mode(NamespaceMode::Node)))).is_err());
        assert!(Users::check(None, Some(&asked(|_| {}))).is_err());
        assert!(Users::check(None, Some(&UserNamespace::default())).is_ok());
    }
}
