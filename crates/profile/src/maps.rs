//! What is mapped where.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    sync::Arc,
};

use crate::elf::Object;

/// One mapping that code runs in.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    /// One behind the last byte.
    pub(crate) limit: u64,
    /// Of `start` in the file.
    pub(crate) offset: u64,
    /// As the kernel shows it; `[vdso]` and the like are no files.
    pub(crate) path: String,
    /// What the file says; none if there is none or it cannot be read.
    pub(crate) object: Option<Arc<Object>>,
}

impl Mapping {
    /// The address that the file itself has for `address`.
    pub(crate) fn in_object(&self, address: u64) -> Option<(&Object, u64)> {
        let object = self.object.as_deref()?;
        let offset = address.checked_sub(self.start)?.checked_add(self.offset)?;
        Some((object, object.address_of(offset)?))
    }
}

/// All of them, by address.
#[derive(Debug)]
pub(crate) struct Maps(Vec<Mapping>);

impl Maps {
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mut maps = Self::parse(&fs::read_to_string("/proc/self/maps")?);
        let mut objects: HashMap<String, Option<Arc<Object>>> = HashMap::new();
        for mapping in &mut maps.0 {
            mapping.object = objects
                .entry(mapping.path.clone())
                .or_insert_with(|| {
                    // By what is mapped, not by a name that may be another file's by now.
                    let link = format!(
                        "/proc/self/map_files/{:x}-{:x}",
                        mapping.start, mapping.limit
                    );
                    let file = File::open(link).ok()?;
                    Object::read(&file).ok().map(Arc::new)
                })
                .clone();
        }
        Ok(maps)
    }

    /// proc_pid_maps(5); only what is executable.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.splitn(6, ' ');
            let (start, limit) = fields.next()?.split_once('-')?;
            let executable = fields.next()?.contains('x');
            let offset = fields.next()?;
            let path = fields.nth(2).unwrap_or("").trim_start();
            let number = |text| u64::from_str_radix(text, 16).ok();
            executable.then_some(Mapping {
                start: number(start)?,
                limit: number(limit)?,
                offset: number(offset)?,
                path: path.trim_end_matches(" (deleted)").to_owned(),
                object: None,
            })
        };
        let mut all: Vec<Mapping> = text.lines().filter_map(line).collect();
        all.sort_by_key(|mapping| mapping.start);
        Self(all)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }

    /// Its index and itself.
    pub(crate) fn find(&self, address: u64) -> Option<(usize, &Mapping)> {
        let index = self
            .0
            .partition_point(|mapping| mapping.start <= address)
            .checked_sub(1)?;
        let mapping = self.0.get(index)?;
        (address < mapping.limit).then_some((index, mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_listed_and_names_may_have_blanks() {
        let maps = Maps::parse(
            "7f00-8000 r-xp 00001000 08:01 42                         /usr/lib/a b.so\n\
             1000-2000 r--p 00000000 08:01 41 /bin/x\n\
             2000-3000 r-xp 00000400 08:01 41                         /bin/x (deleted)\n\
             9000-9001 r-xp 00000000 00:00 0                          [vdso]\n\
             nonsense\n",
        );
        let names: Vec<&str> = maps.iter().map(|mapping| &*mapping.path).collect();
        assert_eq!(names, ["/bin/x", "/usr/lib/a b.so", "[vdso]"]);
        let (index, mapping) = maps.find(0x2fff).unwrap();
        assert_eq!((index, mapping.offset), (0, 0x400));
        for outside in [0, 0x1fff, 0x3000, 0x8000, u64::MAX] {
            assert!(maps.find(outside).is_none(), "{outside:#x}");
        }
    }

    #[test]
    fn this_process_knows_its_own_functions() {
        let maps = Maps::of_this_process().unwrap();
        let here = this_process_knows_its_own_functions as fn() as usize as u64;
        let (_, mapping) = maps.find(here).unwrap();
        let (object, address) = mapping.in_object(here).unwrap();
        let (name, begin) = object.function(address).unwrap();
        assert!(name.contains("knows_its_own_functions"), "{name}");
        assert_eq!(begin, address);
    }
}
