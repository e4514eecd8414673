//! Which devices a group may use: rules, and what they come to.

use std::fmt;

use crate::Error;

/// Most rules; each becomes a handful of instructions.
const MAX_RULES: usize = 4096;
/// Bounds of the kernel's dev_t.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// What kind of devices a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character and block devices.
    All,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

// The numbers of the kernel's BPF_DEVCG_ACC_*.
const READ: u8 = 2;
const WRITE: u8 = 4;
const MKNOD: u8 = 1;
/// Every access.
pub(crate) const ALL_ACCESS: u8 = READ | WRITE | MKNOD;
const LETTERS: [(char, u8); 3] = [('r', READ), ('w', WRITE), ('m', MKNOD)];

/// One rule, as in the OCI runtime specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether it allows or forbids.
    pub allow: bool,
    /// Kind of device.
    pub kind: DeviceKind,
    /// Major number; `None` for any.
    pub major: Option<u32>,
    /// Minor number; `None` for any.
    pub minor: Option<u32>,
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Making nodes.
    pub mknod: bool,
}

impl DeviceRule {
    /// Allows or forbids everything.
    #[must_use]
    pub fn everything(allow: bool) -> Self {
        Self {
            allow,
            kind: DeviceKind::All,
            major: None,
            minor: None,
            read: true,
            write: true,
            mknod: true,
        }
    }

    fn access(&self) -> u8 {
        let given = [(self.read, READ), (self.write, WRITE), (self.mknod, MKNOD)];
        given
            .iter()
            .filter(|(given, _)| *given)
            .fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// Devices of one kind, with one pair of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) block: bool,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: u8,
}

impl Exception {
    fn same_devices(&self, other: &Self) -> bool {
        (self.block, self.major, self.minor) == (other.block, other.major, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.block == other.block
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access & other.access != 0
    }
}

/// As in `devices.list`: `c 1:3 rwm`.
impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        let numbers = (star(self.major), star(self.minor));
        write!(f, "{kind} {}:{} ", numbers.0, numbers.1)?;
        LETTERS
            .iter()
            .filter(|(_, bit)| self.access & bit != 0)
            .try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// A default and its exceptions: the form in which v1's kernel keeps its rules, and
/// from which v2's program is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) default_allow: bool,
    pub(crate) exceptions: Vec<Exception>,
}

impl Table {
    /// Applies the rules in order to "nothing is allowed".
    ///
    /// A rule that takes back a part of a wider one cannot be expressed in this form
    /// and is refused: to leave it out would allow more than was asked for.
    pub(crate) fn from_rules(rules: &[DeviceRule]) -> Result<Self, Error> {
        if rules.len() > MAX_RULES {
            let allowed = format!("at most {MAX_RULES} rules");
            return Err(Error::invalid(
                "devices",
                format!("{} rules", rules.len()),
                allowed,
            ));
        }
        let mut table = Self::default();
        for rule in rules {
            for (field, number, most) in [
                ("device major", rule.major, MAX_MAJOR),
                ("device minor", rule.minor, MAX_MINOR),
            ] {
                if let Some(number) = number
                    && number > most
                {
                    return Err(Error::invalid(field, number, format!("0 to {most}")));
                }
            }
            let access = rule.access();
            if access == 0 {
                return Err(Error::invalid("device access", "", "any of r, w and m"));
            }
            let whole = rule.major.is_none() && rule.minor.is_none() && access == ALL_ACCESS;
            if whole && rule.kind == DeviceKind::All {
                table = Self {
                    default_allow: rule.allow,
                    exceptions: Vec::new(),
                };
                continue;
            }
            for block in [false, true] {
                let meant = match rule.kind {
                    DeviceKind::All => true,
                    DeviceKind::Char => !block,
                    DeviceKind::Block => block,
                };
                if meant {
                    table.apply(
                        rule.allow,
                        Exception {
                            block,
                            major: rule.major,
                            minor: rule.minor,
                            access,
                        },
                    )?;
                }
            }
        }
        Ok(table)
    }

    fn apply(&mut self, allow: bool, wanted: Exception) -> Result<(), Error> {
        let known = self
            .exceptions
            .iter_mut()
            .find(|known| known.same_devices(&wanted));
        if allow != self.default_allow {
            match known {
                Some(known) => known.access |= wanted.access,
                None => self.exceptions.push(wanted),
            }
            return Ok(());
        }
        if let Some(known) = known {
            known.access &= !wanted.access;
        }
        self.exceptions.retain(|known| known.access != 0);
        match self.exceptions.iter().find(|known| known.overlaps(&wanted)) {
            Some(wider) => {
                let allowed = format!("no rule that takes back a part of {wider}");
                Err(Error::invalid("devices", wanted, allowed))
            }
            None => Ok(()),
        }
    }

    /// Reads `devices.list`. A group that allows everything but some says only the former.
    pub(crate) fn from_list(list: &str) -> Option<Self> {
        let mut table = Self::default();
        for line in list.lines() {
            let mut fields = line.split(' ');
            let (kind, numbers, access) = (fields.next()?, fields.next()?, fields.next()?);
            if kind == "a" {
                table.default_allow = true;
                continue;
            }
            let (major, minor) = numbers.split_once(':')?;
            let number = |text: &str| match text {
                "*" => Some(None),
                text => text.parse().ok().map(Some),
            };
            table.exceptions.push(Exception {
                block: kind == "b",
                major: number(major)?,
                minor: number(minor)?,
                access: LETTERS
                    .iter()
                    .filter(|(letter, _)| access.contains(*letter))
                    .fold(0, |bits, (_, bit)| bits | bit),
            });
        }
        Some(table)
    }

    /// Lines for v1's `devices.allow` and `devices.deny` that lead to this table.
    ///
    /// From nothing known the group is first emptied, so that nothing that is not
    /// listed stays allowed. From a known list only the difference is written: a
    /// running container must not lose a device that it keeps, and the kernel refuses
    /// to empty a group that has groups below it.
    pub(crate) fn v1_writes(&self, now: Option<&Self>) -> Vec<(&'static str, String)> {
        let (add, take) = if self.default_allow {
            ("devices.deny", "devices.allow")
        } else {
            ("devices.allow", "devices.deny")
        };
        let mut writes = Vec::new();
        let now = now.filter(|now| !now.default_allow && !self.default_allow);
        if now.is_none() {
            writes.push((take, "a".to_owned()));
        }
        let beyond = |wanted: &Self, known: Option<&Self>| -> Vec<Exception> {
            let rest = wanted.exceptions.iter().map(|wanted| {
                let known = known.into_iter().flat_map(|table| &table.exceptions);
                let covered = known
                    .filter(|known| known.same_devices(wanted))
                    .fold(0, |bits, known| bits | known.access);
                Exception {
                    access: wanted.access & !covered,
                    ..*wanted
                }
            });
            rest.filter(|rest| rest.access != 0).collect()
        };
        for exception in beyond(self, now) {
            writes.push((add, exception.to_string()));
        }
        if let Some(now) = now {
            for exception in beyond(now, Some(self)) {
                writes.push((take, exception.to_string()));
            }
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, text: &str) -> DeviceRule {
        let mut fields = text.split([' ', ':']);
        let mut next = || fields.next().unwrap();
        let kind = match next() {
            "a" => DeviceKind::All,
            "b" => DeviceKind::Block,
            _ => DeviceKind::Char,
        };
        let (major, minor) = (next().parse().ok(), next().parse().ok());
        let access = next();
        DeviceRule {
            allow,
            kind,
            major,
            minor,
            read: access.contains('r'),
            write: access.contains('w'),
            mknod: access.contains('m'),
        }
    }

    fn lines(table: &Table) -> Vec<String> {
        table.exceptions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_applied_in_order_to_nothing() {
        let table = Table::from_rules(&[
            rule(true, "c 1:3 rwm"),
            DeviceRule::everything(false),
            rule(true, "c 1:5 r"),
            rule(true, "c 1:5 w"),
            rule(true, "a *:* m"),
            rule(true, "b 8:0 rw"),
            rule(false, "b 8:0 w"),
        ])
        .unwrap();
        assert!(!table.default_allow);
        assert_eq!(lines(&table), ["c 1:5 rw", "c *:* m", "b *:* m", "b 8:0 r"]);
        assert_eq!(Table::from_rules(&[]).unwrap(), Table::default());
    }

    #[test]
    fn a_rule_that_would_take_back_a_part_is_refused() {
        assert!(Table::from_rules(&[rule(true, "c 1:* rwm"), rule(false, "c 1:3 w")]).is_err());
        assert!(Table::from_rules(&[rule(true, "c 1:* r"), rule(false, "c 1:3 w")]).is_ok());
        let all = DeviceRule::everything(true);
        assert!(
            Table::from_rules(&[all, rule(false, "c 1:* rwm"), rule(true, "c 1:3 r")]).is_err()
        );
        assert!(Table::from_rules(&[all, rule(false, "b 8:0 w")]).is_ok());
    }

    #[test]
    fn numbers_and_access_are_checked() {
        assert!(Table::from_rules(&[rule(true, "c 1:3 -")]).is_err());
        let far = rule(true, "c 4096:* rwm");
        assert!(Table::from_rules(&[far]).is_err());
        let far = rule(true, "c 1:1048576 rwm");
        assert!(Table::from_rules(&[far]).is_err());
        assert!(Table::from_rules(&vec![rule(true, "c 1:3 r"); MAX_RULES + 1]).is_err());
    }

    #[test]
    fn a_new_group_is_emptied_before_anything_is_allowed() {
        let table = Table::from_rules(&[rule(true, "c 1:3 rwm")]).unwrap();
        let fresh = [
            ("devices.deny", "a".to_owned()),
            ("devices.allow", "c 1:3 rwm".to_owned()),
        ];
        assert_eq!(table.v1_writes(None), fresh);
        let open = Table::from_list("a *:* rwm\n").unwrap();
        assert!(open.default_allow);
        assert_eq!(table.v1_writes(Some(&open)), fresh);
    }

    #[test]
    fn an_update_writes_the_difference_and_allows_before_it_forbids() {
        let now = Table::from_list("c 1:3 rwm\nc 1:5 rw\nb 8:* r\n").unwrap();
        let next = Table::from_rules(&[
            rule(true, "c 1:3 rwm"),
            rule(true, "c 1:5 rm"),
            rule(true, "c 1:9 r"),
        ])
        .unwrap();
        assert_eq!(
            next.v1_writes(Some(&now)),
            [
                ("devices.allow", "c 1:5 m".to_owned()),
                ("devices.allow", "c 1:9 r".to_owned()),
                ("devices.deny", "c 1:5 w".to_owned()),
                ("devices.deny", "b 8:* r".to_owned()),
            ]
        );
        assert!(next.v1_writes(Some(&next)).is_empty());
    }

    #[test]
    fn everything_but_some_is_written_the_other_way_round() {
        let rules = [DeviceRule::everything(true), rule(false, "b 8:0 w")];
        let table = Table::from_rules(&rules).unwrap();
        assert_eq!(
            table.v1_writes(Some(&Table::default())),
            [
                ("devices.allow", "a".to_owned()),
                ("devices.deny", "b 8:0 w".to_owned()),
            ]
        );
    }
}
