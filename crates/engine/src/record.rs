//! What a shim leaves behind.

use std::{fs, io, path::Path};

use berth_proto::shim::Exited;
use prost::Message as _;

use crate::Error;

/// Larger records are not ours.
const LIMIT: u64 = 64 * 1024;

/// Reads the exit record in the shim's directory; `None` if there is none.
///
/// # Errors
/// [`Error::System`] if it cannot be read or does not decode.
pub fn read_exit_record(shim_dir: &Path) -> Result<Option<Exited>, Error> {
    let path = shim_dir.join("exit");
    let what = || format!("reading {}", path.display());
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::system(what())(error)),
        Ok(metadata) if metadata.len() > LIMIT => {
            let error = io::Error::new(io::ErrorKind::InvalidData, "larger than any exit record");
            return Err(Error::system(what())(error));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(Error::system(what()))?;
    Exited::decode(bytes.as_slice())
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        .map_err(Error::system(what()))
}
