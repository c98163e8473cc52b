//! TensorBoard event files.
//!
//! A file is a sequence of TFRecords, each an `Event` message of protocol buffers:
//!
//! ```text
//! u64 length | u32 masked crc32c(length) | length bytes | u32 masked crc32c(bytes)          little-endian
//! masked(c) = (c rotated right by 15) + 0xa282ead8
//!
//! Event   { double wall_time = 1; int64 step = 2; string file_version = 3 | Summary summary = 5 | SessionLog session_log = 7 }
//! Summary { repeated Value { string tag = 1; float simple_value = 2 | Image image = 4 } value = 1 }
//! Image   { int32 height = 1; int32 width = 2; int32 colorspace = 3; bytes encoded_image_string = 4 }
//! SessionLog { enum status = 1 (START = 1) }
//! ```
//!
//! A resumed run writes a new file that begins with a session start, upon which TensorBoard forgets what older files say of later steps.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::data::Rgb8;
use crate::{Error, Result};

/// Writes one event file.
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Begins a new file in a folder, which is created if need be; `resume` is the last step that counts in older files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, resume: Option<u64>) -> Result<EventWriter> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let now = wall_time();
        let mut attempt = 0;
        let (path, file) = loop {
            // TensorBoard wants `tfevents` and sorts by name: the time first.
            let name = format!("events.out.tfevents.{:010}.{:06}.{attempt}.deem", now as u64, std::process::id());
            let path = folder.join(name);
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(e) => return Err(Error::io(path, e)),
            }
        };
        let mut writer = EventWriter { path, file: BufWriter::new(file) };
        let mut version = Message::default();
        version.double(1, now).bytes(3, b"brain.Event:2");
        writer.record(&version.0)?;
        if let Some(step) = resume {
            let mut session = Message::default();
            session.varint(1, 1);
            let mut event = Message::default();
            event.double(1, now).varint(2, step + 1).bytes(7, &session.0);
            writer.record(&event.0)?;
        }
        Ok(writer)
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> Result<()> {
        self.record(&scalar_event(wall_time(), tag, step, value))
    }

    /// A picture, as PNG.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it cannot be encoded.
    pub fn picture(&mut self, tag: &str, step: u64, picture: &Rgb8) -> Result<()> {
        use image::ImageEncoder;
        let (width, height) = (picture.width, picture.height);
        let mut png = Vec::new();
        image::codecs::png::PngEncoder::new(&mut png)
            .write_image(&picture.data, width as u32, height as u32, image::ExtendedColorType::Rgb8)
            .map_err(|e| Error::format(&self.path, e.to_string()))?;
        let mut image = Message::default();
        image.varint(1, height as u64).varint(2, width as u64).varint(3, 3).bytes(4, &png);
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes()).bytes(4, &image.0);
        self.record(&summary_event(wall_time(), step, &value))
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io(&self.path, e))
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(&framed(data)).map_err(|e| Error::io(&self.path, e))
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

fn scalar_event(time: f64, tag: &str, step: u64, number: f32) -> Vec<u8> {
    let mut value = Message::default();
    value.bytes(1, tag.as_bytes()).float(2, number);
    summary_event(time, step, &value)
}

fn summary_event(time: f64, step: u64, value: &Message) -> Vec<u8> {
    let mut summary = Message::default();
    summary.bytes(1, &value.0);
    let mut event = Message::default();
    event.double(1, time).varint(2, step).bytes(5, &summary.0);
    event.0
}

/// A TFRecord.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked(crc32c(data)).to_le_bytes());
    out
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial, as in iSCSI (RFC 3720).
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0u32, |crc, &byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// A protocol buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.0.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.0.push(x as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.raw_varint(field << 3 | wire);
    }

    fn varint(&mut self, field: u64, x: u64) -> &mut Self {
        self.key(field, 0);
        self.raw_varint(x);
        self
    }

    fn double(&mut self, field: u64, x: f64) -> &mut Self {
        self.key(field, 1);
        self.0.extend_from_slice(&x.to_le_bytes());
        self
    }

    fn float(&mut self, field: u64, x: f32) -> &mut Self {
        self.key(field, 5);
        self.0.extend_from_slice(&x.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, x: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.raw_varint(x.len() as u64);
        self.0.extend_from_slice(x);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(masked(0), 0xa282_ead8);
    }

    #[test]
    fn a_record_is_as_written_by_hand() {
        #[rustfmt::skip]
        let event = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, // wall_time = 1.5
            0x10, 0xac, 0x02, // step = 300
            0x2a, 0x0d, // summary, 13 bytes
            0x0a, 0x0b, // value, 11 bytes
            0x0a, 0x04, b'l', b'o', b's', b's', // tag
            0x15, 0, 0, 0x20, 0xc0, // simple_value = -2.5
        ];
        assert_eq!(scalar_event(1.5, "loss", 300, -2.5), event);
        let record = framed(&event);
        assert_eq!(record[..8], [27, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(record[12..39], event);
        // The first record of every event file has 24 bytes, so that every event file of TensorFlow's own begins with these 12.
        let mut version = Message::default();
        version.double(1, 0.0).bytes(3, b"brain.Event:2");
        let first = framed(&version.0);
        assert_eq!(first[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    /// The payloads of all records of a file, with their frames checked.
    fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut rest, mut out) = (bytes, Vec::new());
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(framed(&rest[12..12 + len]), rest[..16 + len]);
            out.push(rest[12..12 + len].to_vec());
            rest = &rest[16 + len..];
        }
        out
    }

    #[test]
    fn files_begin_with_the_version_and_resumed_ones_with_a_session() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = EventWriter::create(folder.path(), None).unwrap();
        first.scalar("a", 1, 0.5).unwrap();
        let picture = Rgb8::new(2, 1, vec![0, 1, 2, 3, 4, 5]).unwrap();
        first.picture("sheet", 1, &picture).unwrap();
        first.flush().unwrap();
        let second = EventWriter::create(folder.path(), Some(41)).unwrap();
        assert_ne!(first.path(), second.path());
        let records = payloads(&std::fs::read(first.path()).unwrap());
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[2].windows(4).any(|w| w == b"\x89PNG"));
        let path = second.path().to_path_buf();
        drop(second);
        let records = payloads(&std::fs::read(path).unwrap());
        assert_eq!(records.len(), 2);
        assert_eq!(records[1][9..], [0x10, 42, 0x3a, 2, 0x08, 1]);
    }
}
