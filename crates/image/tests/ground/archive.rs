//! Tar streams, written byte by byte so that they can be wrong.

use std::io::Write as _;

/// One header of 512 bytes with a right checksum.
pub fn header(name: &[u8], flag: u8, size: u64) -> [u8; 512] {
    let mut block = [0u8; 512];
    let cut = name.len().min(100);
    block[..cut].copy_from_slice(&name[..cut]);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], 1_700_000_000);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    sign(&mut block);
    block
}

pub fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field.copy_from_slice(format!("{value:0digits$o}\0").as_bytes());
}

/// Writes the checksum.
pub fn sign(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive in the making.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        let end = self.0.len().next_multiple_of(512);
        self.0.resize(end, 0);
        self
    }

    fn block(self, block: [u8; 512]) -> Self {
        self.raw(&block)
    }

    pub fn bytes(self, name: &str, content: &[u8]) -> Self {
        self.block(header(name.as_bytes(), b'0', content.len() as u64))
            .data(content)
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.block(header(name.as_bytes(), b'0', content.len() as u64))
            .data(content.as_bytes())
    }

    pub fn file_mode(self, name: &str, mode: u64, uid: u64, content: &str) -> Self {
        let mut block = header(name.as_bytes(), b'0', content.len() as u64);
        octal(&mut block[100..108], mode);
        octal(&mut block[108..116], uid);
        sign(&mut block);
        self.block(block).data(content.as_bytes())
    }

    pub fn dir(self, name: &str, mode: u64) -> Self {
        self.dir_owned(name, mode, 0)
    }

    pub fn dir_owned(self, name: &str, mode: u64, uid: u64) -> Self {
        let mut block = header(name.as_bytes(), b'5', 0);
        octal(&mut block[100..108], mode);
        octal(&mut block[108..116], uid);
        sign(&mut block);
        self.block(block)
    }

    pub fn link(self, flag: u8, name: &str, target: &str) -> Self {
        let mut block = header(name.as_bytes(), flag, 0);
        block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        sign(&mut block);
        self.block(block)
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    pub fn device(self, flag: u8, name: &str, major: u64, minor: u64) -> Self {
        let mut block = header(name.as_bytes(), flag, 0);
        octal(&mut block[329..337], major);
        octal(&mut block[337..345], minor);
        sign(&mut block);
        self.block(block)
    }

    /// An extended header for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_flag(b'x', records)
    }

    pub fn pax_flag(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.extension(flag, &body)
    }

    /// Any extension header with the given body.
    pub fn extension(self, flag: u8, body: &[u8]) -> Self {
        self.block(header(b"ext", flag, body.len() as u64))
            .data(body)
    }

    /// With its end mark.
    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
