//! Files that are there completely or not at all: written under a temporary name in the same folder, flushed to the disk, renamed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// The folder that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable. Only Unix can; elsewhere nothing is done.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Writes `path` through `write`. Whatever happens, `path` is either as before or complete; a temporary file left by an error is removed.
///
/// # Errors
/// [`Error::Io`] with the path, among others when the disk is full.
pub fn write_file<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> Result<T> {
    let fail = |e: io::Error| Error::io(path, e);
    let folder = parent(path);
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder).map_err(fail)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    let value = write(&mut buffered).map_err(fail)?;
    buffered.flush().map_err(fail)?;
    drop(buffered);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    }
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    sync_folder(folder).map_err(fail)?;
    Ok(value)
}

/// Counts and checksums (CRC-32, as in zip) what passes through, and lets `observe` see, before each write, how much has passed.
pub(crate) struct Sink<'a, W: Write> {
    inner: W,
    crc: crc32fast::Hasher,
    bytes: u64,
    observe: &'a mut dyn FnMut(u64) -> io::Result<()>,
}

impl<'a, W: Write> Sink<'a, W> {
    pub fn new(inner: W, observe: &'a mut dyn FnMut(u64) -> io::Result<()>) -> Self {
        Sink { inner, crc: crc32fast::Hasher::new(), bytes: 0, observe }
    }

    /// Number of bytes and their checksum.
    pub fn finish(mut self) -> io::Result<(u64, u32)> {
        self.inner.flush()?;
        Ok((self.bytes, self.crc.finalize()))
    }
}

impl<W: Write> Write for Sink<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (self.observe)(self.bytes)?;
        let n = self.inner.write(data)?;
        self.crc.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_file(&path, |w| w.write_all(b"old")).unwrap();
        let full = |w: &mut dyn Write| {
            w.write_all(b"half")?;
            Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull))
        };
        let error = write_file(&path, full).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        write_file(&path, |w| w.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error() {
        let mut file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut free = |_| Ok(());
        let mut sink = Sink::new(&mut file, &mut free);
        assert_eq!(sink.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn checksums_are_those_of_zip() {
        let mut free = |_| Ok(());
        let mut sink = Sink::new(Vec::new(), &mut free);
        sink.write_all(b"1234").unwrap();
        sink.write_all(b"56789").unwrap();
        assert_eq!(sink.finish().unwrap(), (9, 0xCBF4_3926));
    }
}
