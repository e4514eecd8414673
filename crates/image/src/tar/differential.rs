//! What this reader takes, another reader takes for the same: a file that only one of
//! two sees is how something gets past a check. The other one is Python's `tarfile`.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::{
    Kind, Reader,
    header::{BLOCK, Block},
};

/// Prints a line for each archive: its members, or `-` if it is refused.
const OTHER: &str = r#"
import hashlib, sys, tarfile
for path in sys.argv[1:]:
    line = []
    try:
        with tarfile.open(path, "r:", encoding="latin-1", errors="strict") as archive:
            for m in archive:
                kind = ("f" if m.isreg() else "d" if m.isdir() else "l" if m.issym() else
                        "h" if m.islnk() else "c" if m.ischr() else "b" if m.isblk() else
                        "p" if m.isfifo() else "?")
                data = archive.extractfile(m).read() if kind == "f" else b""
                name = m.name.rstrip("/").encode("latin-1").hex()
                line.append(f"{kind}:{name}:{len(data)}:{hashlib.sha256(data).hexdigest()[:16]}")
        print(" ".join(line) or "empty")
    except Exception:
        print("-")
"#;

fn ours(archive: &[u8]) -> Option<String> {
    let mut reader = Reader::new(archive);
    let mut members = Vec::new();
    while let Some(entry) = reader.next().ok()? {
        let kind = match entry.kind {
            Kind::File => "f",
            Kind::Directory => "d",
            Kind::Symlink(_) => "l",
            Kind::HardLink(_) => "h",
            Kind::Character(..) => "c",
            Kind::Block(..) => "b",
            Kind::Fifo => "p",
        };
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match reader.read_data(&mut piece).ok()? {
                0 => break,
                length => bytes.extend_from_slice(&piece[..length]),
            }
        }
        if kind != "f" {
            bytes.clear();
        }
        let mut digest = String::new();
        for byte in &Sha256::digest(&bytes)[..8] {
            write!(digest, "{byte:02x}").unwrap();
        }
        let mut name = entry.path;
        while name.ends_with(b"/") {
            name.pop();
        }
        let mut hex = String::new();
        for byte in &name {
            write!(hex, "{byte:02x}").unwrap();
        }
        members.push(format!("{kind}:{hex}:{}:{digest}", bytes.len()));
    }
    Some(if members.is_empty() {
        "empty".to_owned()
    } else {
        members.join(" ")
    })
}

fn theirs(archives: &[Vec<u8>]) -> Vec<Option<String>> {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(OTHER).stderr(Stdio::null());
    for (number, archive) in archives.iter().enumerate() {
        let path = directory.path().join(format!("{number:05}.tar"));
        fs::write(&path, archive).unwrap();
        command.arg(path);
    }
    let output = command
        .output()
        .expect("/usr/bin/python3 is needed as the other reader");
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| (line != "-").then(|| line.to_owned()))
        .collect()
}

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1);
    header.set_cksum();
    header
}

/// A member with a pax record before it.
fn with_record(builder: &mut Builder<Vec<u8>>, record: &str, member: &Header, data: &[u8]) {
    // "LENGTH KEY=VALUE\n", in which the length counts its own digits.
    let mut length = record.len() + 3;
    while format!("{length} {record}\n").len() != length {
        length += 1;
    }
    let record = format!("{length} {record}\n");
    let size = record.len() as u64;
    let extended = header("pax", EntryType::XHeader, size);
    builder.append(&extended, record.as_bytes()).unwrap();
    builder.append(member, data).unwrap();
}

/// Archives of every form that layers come in.
fn whole() -> Vec<Vec<u8>> {
    let mut plain = Builder::new(Vec::new());
    plain
        .append(&header("d/", EntryType::Directory, 0), &[][..])
        .unwrap();
    plain
        .append(&header("d/f", EntryType::Regular, 700), &[7_u8; 700][..])
        .unwrap();
    plain
        .append(&header("e", EntryType::Regular, 0), &[][..])
        .unwrap();
    let mut link = header("l", EntryType::Symlink, 0);
    link.set_link_name("d/f").unwrap();
    link.set_cksum();
    plain.append(&link, &[][..]).unwrap();
    let mut hard = header("h", EntryType::Link, 0);
    hard.set_link_name("e").unwrap();
    hard.set_cksum();
    plain.append(&hard, &[][..]).unwrap();

    let mut long = Builder::new(Vec::new());
    let mut member = Header::new_gnu();
    member.set_size(5);
    member.set_mode(0o644);
    // Python takes a nameless type for a directory by the short name, whose hundredth
    // byte must not be a slash for that.
    let name = "nn/".repeat(80) + "file";
    long.append_data(&mut member, name, &b"12345"[..]).unwrap();

    let mut pax = Builder::new(Vec::new());
    with_record(
        &mut pax,
        "path=renamed/by/pax",
        &header("x", EntryType::Regular, 3),
        b"abc",
    );
    with_record(
        &mut pax,
        "mtime=1.5",
        &header("y", EntryType::Regular, 2),
        b"xy",
    );

    // The size of the extended header counts, and what lies behind is no archive of its own.
    let mut inner = Builder::new(Vec::new());
    inner
        .append(&header("smuggled", EntryType::Regular, 1), &b"s"[..])
        .unwrap();
    let inner = inner.into_inner().unwrap();
    let mut nested = Builder::new(Vec::new());
    let record = format!("size={}", inner.len());
    with_record(
        &mut nested,
        &record,
        &header("outer", EntryType::Regular, 0),
        &inner,
    );
    nested
        .append(&header("after", EntryType::Regular, 1), &b"a"[..])
        .unwrap();

    [plain, long, pax, nested]
        .into_iter()
        .map(|builder| builder.into_inner().unwrap())
        .collect()
}

fn mend_checksum(block: &mut Block) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Each byte of each header that means something, changed to what may confuse readers.
fn mutants() -> Vec<Vec<u8>> {
    const BYTES: [u8; 9] = [0, b' ', b'0', b'1', b'5', b'7', b'L', b'x', 0x80];
    let mut all = whole();
    for archive in whole() {
        for at in (0..archive.len()).step_by(BLOCK) {
            let is_header = archive.get(at + 257..at + 262) == Some(b"ustar");
            if !is_header {
                continue;
            }
            // Name, mode, size, type, link name, magic, prefix.
            for offset in [0, 1, 107, 124, 125, 133, 134, 135, 156, 157, 257, 263, 345] {
                for byte in BYTES {
                    let mut mutant = archive.clone();
                    mutant[at + offset] = byte;
                    let block: &mut Block = (&mut mutant[at..at + BLOCK]).try_into().unwrap();
                    mend_checksum(block);
                    all.push(mutant);
                }
            }
        }
        for end in (0..archive.len()).step_by(256) {
            all.push(archive[..end].to_vec());
        }
    }
    all
}

#[test]
fn what_is_taken_is_what_another_reader_sees() {
    let archives = mutants();
    let others = theirs(&archives);
    assert_eq!(others.len(), archives.len());
    let (mut taken, mut wrong) = (0, Vec::new());
    for (number, (archive, other)) in archives.iter().zip(&others).enumerate() {
        let Some(own) = ours(archive) else { continue };
        taken += 1;
        // Without a member there is nothing to disagree about.
        if own != "empty" && other.as_ref() != Some(&own) {
            wrong.push(format!("{number}:\n  {own}\n  {other:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {taken}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    assert!(
        taken > archives.len() / 4,
        "only {taken} of {} were taken",
        archives.len()
    );
}
