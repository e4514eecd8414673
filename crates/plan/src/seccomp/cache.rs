//! Compiled filters, kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use oci_spec::runtime::LinuxSeccomp;

use super::{Error, Filter, Machine, compile};

/// A node has few profiles, times the sets of capabilities that occur; each entry is
/// some 20 KiB. When this many are kept all are dropped.
const LIMIT: usize = 64;

/// Compiled filters by the content of their profile. The default profile differs by
/// effective capabilities in its content already, so that these need no place in the key.
#[derive(Debug, Default)]
pub struct FilterCache {
    filters: Mutex<HashMap<(String, Machine), Arc<Filter>>>,
}

impl FilterCache {
    /// The filter of `profile`, compiled unless it is here.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn get(&self, profile: &LinuxSeccomp, machine: Machine) -> Result<Arc<Filter>, Error> {
        // The whole text is the key: it cannot collide.
        let Ok(text) = serde_json::to_string(profile) else {
            return compile(profile, machine).map(Arc::new);
        };
        let key = (text, machine);
        if let Some(filter) = self.lock().get(&key) {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(compile(profile, machine)?);
        let mut filters = self.lock();
        if filters.len() >= LIMIT {
            filters.clear();
        }
        filters.insert(key, Arc::clone(&filter));
        Ok(filter)
    }

    // Whole entries are inserted, so that a panic elsewhere leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Machine), Arc<Filter>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
