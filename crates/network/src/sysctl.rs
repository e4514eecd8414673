//! Kernel settings below `/proc/sys/net`, of the calling thread's namespace.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
};

use crate::error::Error;

const ROOT: &str = "/proc/sys/net";

/// The value of `key`, such as `ipv4/ip_forward`.
pub(crate) fn read(key: &str) -> Result<String, Error> {
    let path = format!("{ROOT}/{key}");
    match fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim().to_owned()),
        Err(source) => Err(Error::Sysctl {
            operation: "read",
            path,
            source,
        }),
    }
}

pub(crate) fn write(key: &str, value: &str) -> Result<(), Error> {
    let path = format!("{ROOT}/{key}");
    // Never created: a plain file below a /proc that is something else would
    // look like success.
    let result = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    result.map_err(|source| Error::Sysctl {
        operation: "write",
        path,
        source,
    })
}

/// As [`write`] for a setting of IPv6, which a kernel started with
/// `ipv6.disable=1` does not have; then there is nothing to be closed either.
pub(crate) fn write_ipv6(link: &str, name: &str, value: &str) -> Result<(), Error> {
    match write(&format!("ipv6/conf/{link}/{name}"), value) {
        Err(Error::Sysctl { source, .. })
            if source.kind() == io::ErrorKind::NotFound && !has_ipv6() =>
        {
            Ok(())
        }
        result => result,
    }
}

pub(crate) fn has_ipv6() -> bool {
    fs::exists(format!("{ROOT}/ipv6")).unwrap_or(true)
}

/// The link called `link`, or `default` for those to come, takes neither routers
/// nor redirects from what it hears: a neighbour with CAP_NET_RAW could send
/// them (CVE-2020-10749, CVE-2020-13401).
pub(crate) fn trust_no_neighbour(link: &str) -> Result<(), Error> {
    write_ipv6(link, "accept_ra", "0")?;
    write_ipv6(link, "accept_redirects", "0")?;
    write(&format!("ipv4/conf/{link}/accept_redirects"), "0")
}
