//! Whom the container runs as.

use std::{io, path::Path};

use berth_proto::cri::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use crate::{
    error::{Error, Result},
    store::User,
};

type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Option<Vec<u8>>>;

/// Ids above are kept for "no such id" (chown(2)).
const HIGHEST: u32 = u32::MAX - 1;

/// One line of passwd(5).
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// One line of group(5).
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// A user or group as somebody wrote it.
enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

/// Resolves in the image's own files: name before uid before the image's USER.
///
/// # Errors
/// InvalidArgument for a user that does not exist or a number that is no id.
pub(super) fn resolve(
    context: &LinuxContainerSecurityContext,
    image_user: &str,
    read: Read<'_>,
) -> Result<User> {
    if context.run_as_group.is_some()
        && context.run_as_user.is_none()
        && context.run_as_username.is_empty()
    {
        return Err(Error::invalid("run_as_group without run_as_user"));
    }
    let (user_part, group_part) = image_user.split_once(':').unwrap_or((image_user, ""));
    let from_image;
    let (user, image_group) = if !context.run_as_username.is_empty() {
        (Wanted::Name(&context.run_as_username), "")
    } else if let Some(uid) = &context.run_as_user {
        (Wanted::Id(id("run_as_user", uid.value)?), "")
    } else if user_part.is_empty() {
        (Wanted::Id(0), group_part)
    } else {
        from_image = parse("the image's user", user_part)?;
        (from_image, group_part)
    };
    let accounts = accounts(read)?;
    let account = match &user {
        Wanted::Id(uid) => accounts.iter().find(|account| account.uid == *uid),
        Wanted::Name(name) => {
            let found = accounts.iter().find(|account| account.name == *name);
            Some(found.ok_or_else(|| {
                Error::invalid(format!("user {name:?} is not in the image's /etc/passwd"))
                    .with_remedy("use a numeric user id")
            })?)
        }
    };
    let uid = match (&user, account) {
        (Wanted::Id(uid), _) => *uid,
        (Wanted::Name(_), account) => account.map_or(0, |account| account.uid),
    };
    let groups = groups(read)?;
    let gid = match (&context.run_as_group, image_group) {
        (Some(gid), _) => id("run_as_group", gid.value)?,
        (None, "") => account.map_or(0, |account| account.gid),
        (None, group) => match parse("the image's group", group)? {
            Wanted::Id(gid) => gid,
            Wanted::Name(name) => groups
                .iter()
                .find(|group| group.name == name)
                .map(|group| group.gid)
                .ok_or_else(|| {
                    Error::invalid(format!("group {name:?} is not in the image's /etc/group"))
                        .with_remedy("use a numeric group id")
                })?,
        },
    };
    // What is reported includes the primary group, and it is given to the kernel as such.
    let mut supplemental = vec![gid];
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
        && let Some(account) = account
    {
        let member = |group: &&Group| group.members.contains(&account.name);
        supplemental.extend(groups.iter().filter(member).map(|group| group.gid));
    }
    for gid in &context.supplemental_groups {
        supplemental.push(id("supplemental_groups", *gid)?);
    }
    let mut seen = Vec::new();
    supplemental.retain(|gid| {
        !seen.contains(gid) && {
            seen.push(*gid);
            true
        }
    });
    Ok(User {
        uid,
        gid,
        groups: supplemental,
    })
}

fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= HIGHEST)
        .ok_or_else(|| {
            Error::invalid(format!(
                "{field} {value}: expected a number from 0 to {HIGHEST}"
            ))
        })
}

/// All digits is a number and never a name: a name that looks like one would
/// otherwise decide who is root.
fn parse<'a>(field: &str, text: &'a str) -> Result<Wanted<'a>> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let value = text.parse::<i64>().unwrap_or(i64::MAX);
        return id(field, value).map(Wanted::Id);
    }
    Ok(Wanted::Name(text))
}

fn lines(read: Read<'_>, path: &str) -> Result<Vec<String>> {
    let bytes = read(Path::new(path))
        .map_err(|error| Error::invalid(format!("read {path} of the image")).with_source(error))?
        .unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

fn accounts(read: Read<'_>) -> Result<Vec<Account>> {
    let parse = |line: &String| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (!name.is_empty()).then_some(Account { name, uid, gid })
    };
    // Lines that are none are passed over, as libc does.
    Ok(lines(read, "/etc/passwd")?
        .iter()
        .filter_map(parse)
        .collect())
}

fn groups(read: Read<'_>) -> Result<Vec<Group>> {
    let parse = |line: &String| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or("");
        Some(Group {
            name,
            gid,
            members: members.split(',').map(|m| m.trim().to_owned()).collect(),
        })
    };
    Ok(lines(read, "/etc/group")?
        .iter()
        .filter_map(parse)
        .collect())
}
