//! Whom the container runs as, resolved in the image's own /etc/passwd and /etc/group.

use std::{io, path::Path};

use berth_proto::cri::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use super::{
    Read,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// Larger ids are refused: they exist, but what does not fit a signed 32-bit number
/// has been wrapped to 0, which is root, by one program or another.
const HIGHEST: u32 = i32::MAX.unsigned_abs();

/// Most bytes of either file that are looked at; more is there to hurt.
const LARGEST_FILE: usize = 1024 * 1024;

/// Most groups that setgroups(2) takes (NGROUPS_MAX).
const MOST_GROUPS: usize = 65_536;

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The primary group first, each once.
    pub(crate) groups: Vec<u32>,
}

/// A user or group as somebody wrote it. A number is never looked up as a name, and
/// what only resembles one (`+0`, ` 1`, `0x0`) is neither.
enum Id<'a> {
    Number(u32),
    Name(&'a str),
}

impl<'a> Id<'a> {
    fn parse(field: &str, text: &'a str) -> Result<Self> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let number = text.parse().unwrap_or(i64::MAX);
            return checked(field, number).map(Self::Number);
        }
        // As useradd(8) has it.
        let mut bytes = text.bytes();
        let first = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest =
            bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$'));
        if first && rest {
            return Ok(Self::Name(text));
        }
        Err(
            SpecError::invalid(format!("{field} {text:?} is neither a number nor a name"))
                .with_remedy("use a number"),
        )
    }
}

fn checked(field: &str, number: i64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id <= HIGHEST => Ok(id),
        _ => Err(SpecError::invalid(format!(
            "{field} {number}: expected a number from 0 to {HIGHEST}"
        ))),
    }
}

/// A line of passwd(5).
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// A line of group(5).
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Name before number before the image's USER; then the primary group, then the others.
pub(super) fn resolve(
    context: &LinuxContainerSecurityContext,
    image_user: &str,
    read: Read<'_>,
    provenance: &mut Provenance,
) -> Result<User> {
    let by_request = !context.run_as_username.is_empty() || context.run_as_user.is_some();
    if context.run_as_group.is_some() && !by_request {
        return Err(
            SpecError::invalid("run_as_group without run_as_user or run_as_username")
                .with_remedy("set run_as_user too"),
        );
    }
    let (user, image_group) = wanted(context, image_user)?;
    provenance.set(
        "process.user.uid",
        match (by_request, image_user.is_empty()) {
            (true, _) => Source::Cri,
            (false, false) => Source::Image,
            (false, true) => Source::Default,
        },
    );
    let merge = context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge;
    let group_known = context.run_as_group.is_some() || !image_group.is_empty();
    let account = match user {
        Id::Number(_) if group_known && !merge => None,
        Id::Number(uid) => accounts(read)?
            .into_iter()
            .find(|account| account.uid == uid),
        Id::Name(name) => {
            let found = accounts(read)?
                .into_iter()
                .find(|account| account.name == name);
            Some(found.ok_or_else(|| {
                SpecError::invalid(format!("user {name:?} is not in the image's /etc/passwd"))
                    .with_remedy("use a number, or an image that has this user")
            })?)
        }
    };
    let uid = match (&user, &account) {
        (Id::Number(uid), _) => *uid,
        (Id::Name(_), Some(account)) => account.uid,
        // Looked up above or refused.
        (Id::Name(name), None) => {
            return Err(SpecError::invalid(format!(
                "user {name:?} was not resolved"
            )));
        }
    };
    let member = account
        .as_ref()
        .filter(|_| merge)
        .map(|account| account.name.as_str());
    let groups = if member.is_some() || !image_group.is_empty() {
        groups(read)?
    } else {
        Vec::new()
    };
    let gid = primary(context, image_group, account.as_ref(), &groups, provenance)?;

    let mut all = vec![gid];
    if let Some(name) = member {
        let of_image = groups
            .iter()
            .filter(|group| group.members.iter().any(|one| one == name));
        all.extend(of_image.map(|group| group.gid));
    }
    for gid in &context.supplemental_groups {
        all.push(checked("supplemental_groups", *gid)?);
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    if all.len() > MOST_GROUPS {
        return Err(SpecError::invalid(format!(
            "the user has {} groups, Linux takes {MOST_GROUPS}",
            all.len()
        )));
    }
    let given = !context.supplemental_groups.is_empty();
    provenance.set(
        "process.user.additionalGids",
        if given { Source::Cri } else { Source::Image },
    );
    Ok(User {
        uid,
        gid,
        groups: all,
    })
}

/// Whom `text` means in the files that `read` reads: USER, UID, USER:GROUP or UID:GID.
pub(crate) fn user_in(text: &str, read: Read<'_>) -> Result<User> {
    let nobody = LinuxContainerSecurityContext::default();
    resolve(&nobody, text, read, &mut Provenance::default())
}

/// The user, and the image's group where it counts.
fn wanted<'a>(
    context: &'a LinuxContainerSecurityContext,
    image_user: &'a str,
) -> Result<(Id<'a>, &'a str)> {
    if !context.run_as_username.is_empty() {
        let user = Id::parse("run_as_username", &context.run_as_username)?;
        return Ok((user, ""));
    }
    if let Some(uid) = &context.run_as_user {
        return Ok((Id::Number(checked("run_as_user", uid.value)?), ""));
    }
    match image_user.split_once(':') {
        None if image_user.is_empty() => Ok((Id::Number(0), "")),
        None => Ok((Id::parse("the image's USER", image_user)?, "")),
        Some(("", group)) => Ok((Id::Number(0), group)),
        Some((user, group)) => Ok((Id::parse("the image's USER", user)?, group)),
    }
}

fn primary(
    context: &LinuxContainerSecurityContext,
    image_group: &str,
    account: Option<&Account>,
    groups: &[Group],
    provenance: &mut Provenance,
) -> Result<u32> {
    let (gid, source) = if let Some(gid) = &context.run_as_group {
        (checked("run_as_group", gid.value)?, Source::Cri)
    } else if !image_group.is_empty() {
        let gid = match Id::parse("the group of the image's USER", image_group)? {
            Id::Number(gid) => gid,
            Id::Name(name) => {
                let found = groups.iter().find(|group| group.name == name);
                let missing = || {
                    SpecError::invalid(format!("group {name:?} is not in the image's /etc/group"))
                        .with_remedy("set run_as_user and run_as_group")
                };
                found.ok_or_else(missing)?.gid
            }
        };
        (gid, Source::Image)
    } else {
        match account {
            Some(account) => (account.gid, Source::Image),
            None => (0, Source::Default),
        }
    };
    provenance.set("process.user.gid", source);
    Ok(gid)
}

fn lines(read: Read<'_>, path: &str) -> Result<Vec<String>> {
    let unreadable = |error: io::Error| {
        SpecError::invalid(format!("the image's {path} cannot be read")).with_source(error)
    };
    let bytes = match read(Path::new(path)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(unreadable(error)),
    };
    if bytes.len() > LARGEST_FILE {
        let reason = format!(
            "it has {} bytes, at most {LARGEST_FILE} are read",
            bytes.len()
        );
        return Err(unreadable(io::Error::other(reason)));
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.split('\n').map(str::to_owned).collect())
}

fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| plain && *id <= HIGHEST)
}

/// Lines that are none are passed over, as libc does.
fn accounts(read: Read<'_>) -> Result<Vec<Account>> {
    let parse = |line: &String| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some(Account { name, uid, gid })
    };
    Ok(lines(read, "/etc/passwd")?
        .iter()
        .filter_map(parse)
        .collect())
}

fn groups(read: Read<'_>) -> Result<Vec<Group>> {
    let parse = |line: &String| {
        let mut fields = line.trim_end_matches('\r').split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let gid = number(fields.nth(1)?)?;
        let members = fields
            .next()
            .unwrap_or_default()
            .split(',')
            .map(str::to_owned);
        Some(Group {
            name,
            gid,
            members: members.collect(),
        })
    };
    Ok(lines(read, "/etc/group")?
        .iter()
        .filter_map(parse)
        .collect())
}
