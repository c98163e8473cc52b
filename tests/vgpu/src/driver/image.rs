//! What programs pass as a module: PTX text, a fat binary, or something that this GPU cannot run.

use super::errors::{Error, Outcome};
use super::fatbin;
use super::ffi::{read, read_bytes, read_terminated};
use crate::machine::Capability;

const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");

/// The PTX of an image in the caller's memory.
///
/// # Errors
/// [`Error::InvalidValue`] if it cannot be read, [`Error::InvalidImage`] if it is nothing known,
/// [`Error::NoBinaryForGpu`] if it holds no PTX for this GPU; the reason is on standard error.
pub fn at_address(address: u64, capability: Capability) -> Outcome<String> {
    match read::<u32>(address) {
        Ok(fatbin::WRAPPER_MAGIC) => at_address(read::<u64>(address.wrapping_add(8))?, capability),
        Ok(fatbin::MAGIC) => {
            let header = read_bytes(address, fatbin::HEADER_BYTES)?;
            let total = fatbin::total_bytes(&header).map_err(|_| Error::InvalidImage)?;
            from_bytes(&read_bytes(address, total)?, capability)
        }
        Ok(ELF_MAGIC) => from_bytes(&ELF_MAGIC.to_le_bytes(), capability),
        _ => from_bytes(&read_terminated(address)?, capability),
    }
}

/// The PTX of an image of known length.
///
/// # Errors
/// As [`at_address`].
pub fn from_bytes(bytes: &[u8], capability: Capability) -> Outcome<String> {
    let refuse = |error: Error, reason: &str| {
        eprintln!("vgpu: module: {reason}");
        Err(error)
    };
    match bytes.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) {
        Some(fatbin::MAGIC) => match fatbin::read(bytes) {
            Err(problem @ fatbin::FatbinError::Compressed { .. }) => {
                refuse(Error::NoBinaryForGpu, &problem.to_string())
            }
            Err(problem) => refuse(Error::InvalidImage, &problem.to_string()),
            Ok(entries) => match fatbin::best(entries, capability.major * 10 + capability.minor) {
                Some(entry) => Ok(entry.text),
                None => {
                    refuse(Error::NoBinaryForGpu, &format!("the fat binary holds no PTX for capability {capability}"))
                }
            },
        },
        Some(ELF_MAGIC) => refuse(
            Error::NoBinaryForGpu,
            "this is machine code of a GPU (cubin); the virtual GPU runs PTX: compile with `-ptx`, or `-gencode arch=compute_80,code=compute_80`",
        ),
        _ => {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            match std::str::from_utf8(&bytes[..end]) {
                Ok(text) if text.contains(".version") => Ok(text.to_string()),
                _ => refuse(Error::InvalidImage, "this is neither PTX text nor a fat binary"),
            }
        }
    }
}
