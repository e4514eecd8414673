//! What a program or library says of itself: segments, unwind tables, symbols and
//! build id (System V ABI, chapters 4 and 5; 64 bit, little endian).

use std::{fs::File, io, os::unix::fs::FileExt as _};

use gimli::{
    BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, UnwindContext,
    UnwindSection as _, UnwindTableRow,
};

/// Largest section that is read. Symbols of a large program with debug information
/// are tens of MiB.
const MAX_SECTION: u64 = 256 << 20;

/// PT_LOAD.
const LOADED: u32 = 1;
/// STT_FUNC and STT_GNU_IFUNC.
const FUNCTIONS: [u8; 2] = [2, 10];
/// NT_GNU_BUILD_ID.
const BUILD_ID: u32 = 3;

/// A section that was read.
#[derive(Debug, Default)]
struct Section {
    address: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    length: u64,
    address: u64,
}

#[derive(Debug)]
struct Symbol {
    address: u64,
    size: u64,
    /// In `names`.
    name: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Object {
    segments: Vec<Segment>,
    frames: Section,
    /// The sorted index of `frames`.
    index: Section,
    symbols: Vec<Symbol>,
    names: Vec<u8>,
    build_id: String,
    /// Whether every function has a symbol, not only those for others.
    all_named: bool,
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

fn read(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    if length > MAX_SECTION || offset.saturating_add(length) > file.metadata()?.len() {
        return Err(bad("a section is larger than it can be"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// As the section table tells it.
struct Place {
    name: u32,
    address: u64,
    offset: u64,
    length: u64,
}

impl Object {
    /// Reads what is needed of `file`.
    ///
    /// # Errors
    /// If it is no ELF file of this kind, or cannot be read.
    pub(crate) fn read(file: &File) -> io::Result<Self> {
        let header = read(file, 0, 64)?;
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return Err(bad("not a 64-bit little-endian ELF file"));
        }
        let field = |at| u64_at(&header, at).ok_or_else(|| bad("short header"));
        let small = |at| u16_at(&header, at).ok_or_else(|| bad("short header"));
        let table = |at: u64, size: u16, count: u16| {
            read(file, at, u64::from(size) * u64::from(count))
                .map(|bytes| (bytes, usize::from(size.max(1))))
        };
        let (programs, size) = table(field(32)?, small(54)?, small(56)?)?;
        let mut object = Self {
            segments: programs.chunks(size).filter_map(segment).collect(),
            ..Self::default()
        };
        let (sections, size) = table(field(40)?, small(58)?, small(60)?)?;
        let places: Vec<Place> = sections.chunks(size).filter_map(place).collect();
        let names = match places.get(usize::from(small(62)?)) {
            Some(place) => read(file, place.offset, place.length)?,
            None => return Ok(object),
        };
        let section = |wanted: &str| -> io::Result<Option<Section>> {
            let named = |place: &&Place| text(&names, place.name) == Some(wanted);
            let Some(place) = places.iter().find(named) else {
                return Ok(None);
            };
            let bytes = read(file, place.offset, place.length)?;
            Ok(Some(Section {
                address: place.address,
                bytes,
            }))
        };
        object.frames = section(".eh_frame")?.unwrap_or_default();
        object.index = section(".eh_frame_hdr")?.unwrap_or_default();
        if let Some(note) = section(".note.gnu.build-id")? {
            object.build_id = build_id(&note.bytes).unwrap_or_default();
        }
        let mut symbols = section(".symtab")?.zip(section(".strtab")?);
        object.all_named = symbols.is_some();
        if symbols.is_none() {
            symbols = section(".dynsym")?.zip(section(".dynstr")?);
        }
        if let Some((symbols, names)) = symbols {
            object.symbols = symbols.bytes.chunks(24).filter_map(symbol).collect();
            object.symbols.sort_by_key(|symbol| symbol.address);
            object.names = names.bytes;
        }
        Ok(object)
    }

    /// Where the byte at `offset` of the file is loaded, by the file's own addresses.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let inside = offset.checked_sub(segment.offset)?;
            (inside < segment.length).then(|| segment.address.wrapping_add(inside))
        })
    }

    /// As hexadecimal digits; empty if it has none.
    pub(crate) fn build_id(&self) -> &str {
        &self.build_id
    }

    /// Whether local functions have symbols too.
    pub(crate) fn all_named(&self) -> bool {
        self.all_named
    }

    /// The function around `address` as its symbol says it, and where it begins.
    pub(crate) fn function(&self, address: u64) -> Option<(&str, u64)> {
        let next = self
            .symbols
            .partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols.get(next.checked_sub(1)?)?;
        // Assembler's labels have no size.
        let inside = address - symbol.address < symbol.size.max(1);
        let name = text(&self.names, symbol.name)?;
        inside.then_some((name, symbol.address))
    }

    /// How the frame of the function at `address` is undone.
    pub(crate) fn frame<'a>(
        &self,
        address: u64,
        context: &'a mut UnwindContext<usize>,
    ) -> Option<&'a UnwindTableRow<usize>> {
        let bases = BaseAddresses::default()
            .set_eh_frame(self.frames.address)
            .set_eh_frame_hdr(self.index.address);
        let mut frames = EhFrame::new(&self.frames.bytes, LittleEndian);
        frames.set_address_size(8);
        let index = EhFrameHdr::new(&self.index.bytes, LittleEndian)
            .parse(&bases, 8)
            .ok()?;
        let cie = EhFrame::<EndianSlice<'_, LittleEndian>>::cie_from_offset;
        index
            .table()?
            .unwind_info_for_address(&frames, &bases, context, address, cie)
            .ok()
    }
}

/// Elf64_Phdr.
fn segment(header: &[u8]) -> Option<Segment> {
    (u32_at(header, 0)? == LOADED).then_some(Segment {
        offset: u64_at(header, 8)?,
        address: u64_at(header, 16)?,
        length: u64_at(header, 32)?,
    })
}

/// Elf64_Shdr.
fn place(header: &[u8]) -> Option<Place> {
    Some(Place {
        name: u32_at(header, 0)?,
        address: u64_at(header, 16)?,
        offset: u64_at(header, 24)?,
        length: u64_at(header, 32)?,
    })
}

/// Elf64_Sym, if it is a function that is defined here.
fn symbol(entry: &[u8]) -> Option<Symbol> {
    let kind = entry.get(4)? & 0xf;
    let defined = u16_at(entry, 6)? != 0;
    (defined && FUNCTIONS.contains(&kind)).then_some(Symbol {
        name: u32_at(entry, 0)?,
        address: u64_at(entry, 8)?,
        size: u64_at(entry, 16)?,
    })
}

/// The text at `at` of a string table.
fn text(table: &[u8], at: u32) -> Option<&str> {
    let rest = table.get(at as usize..)?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

fn build_id(note: &[u8]) -> Option<String> {
    let (name, length, kind) = (u32_at(note, 0)?, u32_at(note, 4)?, u32_at(note, 8)?);
    let from = 12 + (name as usize).next_multiple_of(4);
    let id = note.get(from..from.checked_add(length as usize)?)?;
    (kind == BUILD_ID).then(|| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn this_program() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    fn object(bytes: &[u8]) -> io::Result<Object> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Object::read(&file)
    }

    #[test]
    fn a_program_has_unwind_tables_symbols_and_segments() {
        let object = object(&this_program()).unwrap();
        assert!(object.all_named() && object.symbols.len() > 100);
        assert!(!object.frames.bytes.is_empty() && !object.index.bytes.is_empty());
        assert!(object.address_of(0).is_some() && object.address_of(u64::MAX).is_none());
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_an_error_and_no_panic() {
        let program = this_program();
        assert!(object(b"").is_err());
        assert!(object(b"#!/bin/sh\n").is_err());
        for keep in [4, 63, 64, 100, 1000, program.len() - 1] {
            assert!(object(&program[..keep]).is_err(), "{keep}");
        }
        // Any byte of the header may lie.
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = program[..4096].to_vec();
                changed[at] = value;
                drop(object(&changed));
            }
        }
    }
}
