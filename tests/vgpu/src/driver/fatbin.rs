//! The container in which nvcc and others put several images: a "fat binary".
//!
//! A wrapper (as linked into a host program) points to the container; a container is a header and entries one after
//! the other, each with its own header. An entry is PTX text or machine code for one architecture, plain or
//! compressed. Only what PTX needs is read. LZ4 (older nvcc) is undone here; for Zstandard (nvcc from 12.4 on) the
//! system's library is asked, and where there is none the remedy is named.

/// First word of a wrapper.
pub const WRAPPER_MAGIC: u32 = 0x4662_43b1;
/// First word of a container.
pub const MAGIC: u32 = 0xba55_ed50;
/// Bytes of a container's header.
pub const HEADER_BYTES: usize = 16;

const PTX: u16 = 1;
const LZ4: u64 = 0x2000;
const ZSTANDARD: u64 = 0x8000;
/// No PTX of this world is larger.
const MOST_BYTES: u64 = 1 << 30;

/// An entry of PTX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The architecture, for example 80.
    pub architecture: u32,
    /// The text.
    pub text: String,
}

/// Why a container cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    /// The magic number or the version is another one.
    #[error("not a fat binary")]
    NotAFatbin,
    /// A size leads out of the container.
    #[error("the fat binary ends in the middle of an entry at byte {0}")]
    Truncated(usize),
    /// A compression that is not undone here.
    #[error(
        "PTX for sm_{architecture} is compressed ({method}): build with `-Xfatbin -no-compress` or `--no-compress`, or pass the PTX itself"
    )]
    Compressed { architecture: u32, method: &'static str },
    /// Compressed data that contradict themselves.
    #[error("PTX for sm_{0} cannot be unpacked")]
    Damaged(u32),
}

/// Bytes of a whole container, from its first [`HEADER_BYTES`].
///
/// # Errors
/// [`FatbinError::NotAFatbin`].
pub fn total_bytes(header: &[u8]) -> Result<usize, FatbinError> {
    let magic = word(header, 0).ok_or(FatbinError::NotAFatbin)?;
    let header_bytes = half(header, 6).ok_or(FatbinError::NotAFatbin)? as u64;
    let body = long(header, 8).ok_or(FatbinError::NotAFatbin)?;
    if magic != MAGIC || header_bytes < HEADER_BYTES as u64 || body > MOST_BYTES {
        return Err(FatbinError::NotAFatbin);
    }
    Ok((header_bytes + body) as usize)
}

/// All PTX of a container, in its order.
///
/// # Errors
/// [`FatbinError`]; entries that are no PTX are passed over.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry>, FatbinError> {
    let total = total_bytes(bytes)?.min(bytes.len());
    let mut at = half(bytes, 6).ok_or(FatbinError::NotAFatbin)? as usize;
    let mut entries = Vec::new();
    while at < total {
        let header = bytes.get(at..total).ok_or(FatbinError::Truncated(at))?;
        let field = |value: Option<u64>| value.ok_or(FatbinError::Truncated(at));
        let kind = half(header, 0).ok_or(FatbinError::Truncated(at))?;
        let header_bytes = field(word(header, 4).map(u64::from))? as usize;
        let padded = field(long(header, 8))?;
        let compressed = field(word(header, 16).map(u64::from))? as usize;
        let architecture = field(word(header, 28).map(u64::from))? as u32;
        let flags = field(long(header, 40))?;
        let unpacked = field(long(header, 56))?;
        let end = usize::try_from(padded).ok().and_then(|padded| header_bytes.checked_add(padded));
        let payload = end.and_then(|end| header.get(header_bytes..end)).ok_or(FatbinError::Truncated(at))?;
        if header_bytes == 0 {
            return Err(FatbinError::Truncated(at));
        }
        if kind == PTX {
            let text = match flags & (LZ4 | ZSTANDARD) {
                0 => payload.to_vec(),
                LZ4 => {
                    let packed = payload.get(..compressed).ok_or(FatbinError::Truncated(at))?;
                    unpack_lz4(packed, unpacked).ok_or(FatbinError::Damaged(architecture))?
                }
                _ => {
                    let packed = payload.get(..compressed).ok_or(FatbinError::Truncated(at))?;
                    unpack_zstandard(packed, unpacked, architecture)?
                }
            };
            let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
            entries.push(Entry { architecture, text: String::from_utf8_lossy(&text[..length]).into_owned() });
        }
        at += header_bytes + payload.len();
    }
    Ok(entries)
}

/// The entry that a GPU of `architecture` (for example 90) compiles: the newest that is not newer than it.
pub fn best(entries: Vec<Entry>, architecture: u32) -> Option<Entry> {
    entries.into_iter().filter(|entry| entry.architecture <= architecture).max_by_key(|entry| entry.architecture)
}

/// Undoes the LZ4 block format.
fn unpack_lz4(mut packed: &[u8], unpacked: u64) -> Option<Vec<u8>> {
    if unpacked > MOST_BYTES {
        return None;
    }
    let mut output: Vec<u8> = Vec::new();
    loop {
        let token = *packed.split_off_first()?;
        let literals = length(&mut packed, (token >> 4) as usize)?;
        output.extend_from_slice(packed.split_off(..literals)?);
        if packed.is_empty() || output.len() as u64 >= unpacked {
            return (output.len() as u64 == unpacked).then_some(output);
        }
        let distance = u16::from_le_bytes(packed.split_off(..2)?.try_into().ok()?) as usize;
        let matched = length(&mut packed, (token & 15) as usize)? + 4;
        let from = output.len().checked_sub(distance).filter(|_| distance > 0)?;
        if (output.len() + matched) as u64 > unpacked {
            return None;
        }
        // The match may reach into what it writes itself.
        for index in from..from + matched {
            output.push(output[index]);
        }
    }
}

/// Has Zstandard undone by the system's library.
fn unpack_zstandard(packed: &[u8], unpacked: u64, architecture: u32) -> Result<Vec<u8>, FatbinError> {
    /// `ZSTD_decompress`: target and its room, source and its length; the length written, or an error beyond all
    /// lengths.
    type Decompress = unsafe extern "C" fn(*mut u8, usize, *const u8, usize) -> usize;
    if unpacked > MOST_BYTES {
        return Err(FatbinError::Damaged(architecture));
    }
    // SAFETY: plain look-ups by name; the library stays loaded.
    let symbol = unsafe {
        let library = libc::dlopen(c"libzstd.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if library.is_null() { library } else { libc::dlsym(library, c"ZSTD_decompress".as_ptr()) }
    };
    if symbol.is_null() {
        return Err(FatbinError::Compressed { architecture, method: "Zstandard, and libzstd.so.1 is not there" });
    }
    // SAFETY: this is the prototype of that name in every version of the library.
    let decompress = unsafe { std::mem::transmute::<*mut libc::c_void, Decompress>(symbol) };
    let mut output = vec![0u8; unpacked as usize];
    // SAFETY: both buffers with their lengths.
    let written = unsafe { decompress(output.as_mut_ptr(), output.len(), packed.as_ptr(), packed.len()) };
    if written == output.len() { Ok(output) } else { Err(FatbinError::Damaged(architecture)) }
}

/// A length of the LZ4 format: 15 means that more follows.
fn length(packed: &mut &[u8], start: usize) -> Option<usize> {
    let mut total = start;
    let mut more = start == 15;
    while more {
        let next = *packed.split_off_first()?;
        total = total.checked_add(next as usize)?;
        more = next == 255;
    }
    Some(total)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A container as nvcc lays it out.
    fn container(entries: &[(u16, u32, u64, Vec<u8>, u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, architecture, flags, payload, unpacked) in entries {
            let padded = payload.len().next_multiple_of(8);
            let mut header = [0u8; 64];
            header[0..2].copy_from_slice(&kind.to_le_bytes());
            header[2..4].copy_from_slice(&0x101u16.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
            header[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
            header[28..32].copy_from_slice(&architecture.to_le_bytes());
            header[40..48].copy_from_slice(&flags.to_le_bytes());
            header[56..64].copy_from_slice(&unpacked.to_le_bytes());
            body.extend_from_slice(&header);
            body.extend_from_slice(payload);
            body.resize(body.len() + padded - payload.len(), 0);
        }
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend_from_slice(&1u16.to_le_bytes());
        bytes.extend_from_slice(&16u16.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn plain_entries_are_read_and_the_best_is_chosen() {
        let bytes = container(&[
            (2, 80, 0, vec![0x7f; 40], 0),
            (1, 80, 0, b".version 7.0\n\0".to_vec(), 0),
            (1, 90, 0, b".version 8.0\n\0".to_vec(), 0),
        ]);
        let entries = read(&bytes).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(best(entries.clone(), 80).unwrap().text, ".version 7.0\n");
        assert_eq!(best(entries.clone(), 100).unwrap().architecture, 90);
        assert_eq!(best(entries, 75), None);
    }

    #[test]
    fn lz4_is_undone() {
        // "abcabcabcabcabcabc!" : three literals, a match of 15 at distance 3, one literal.
        let packed = vec![0x3b, b'a', b'b', b'c', 3, 0, 0x10, b'!'];
        assert_eq!(unpack_lz4(&packed, 19).unwrap(), b"abcabcabcabcabcabc!");
        let bytes = container(&[(1, 80, LZ4, packed, 19)]);
        assert_eq!(read(&bytes).unwrap()[0].text, "abcabcabcabcabcabc!");
    }

    #[test]
    fn zstandard_is_undone_or_the_remedy_is_named() {
        // A frame of one raw block, as the format's document lays it out.
        let packed = b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello".to_vec();
        match read(&container(&[(1, 90, ZSTANDARD, packed, 5)])) {
            Ok(entries) => assert_eq!(entries[0].text, "hello"),
            Err(problem) => assert!(problem.to_string().contains("--no-compress"), "{problem}"),
        }
        assert!(read(&container(&[(1, 90, ZSTANDARD, vec![1, 2, 3], 10)])).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_an_error(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
            let packed = vec![0x3b, b'a', b'b', b'c', 3, 0, 0x10, b'!'];
            let mut bytes = container(&[(1, 80, 0, b".version 7.0".to_vec(), 0), (1, 80, LZ4, packed, 19)]);
            for (place, value) in damage {
                let index = place.index(bytes.len());
                bytes[index] = value;
            }
            let _ = read(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = read(&bytes);
        }

        #[test]
        fn noise_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), unpacked in 0u64..400) {
            let _ = read(&bytes);
            if let Some(text) = unpack_lz4(&bytes, unpacked) {
                prop_assert_eq!(text.len() as u64, unpacked);
            }
        }
    }
}
