//! The addresses: one sparse file in memory, mapped twice.

use super::{MemoryError, PAGE, Window};

/// Where the device view is put if the place is free, so that findings show the same addresses in each run.
const PREFERRED_BASE: u64 = 0x2000_0000_0000;
/// Ranges of at least this size give their pages back to the host when they are freed.
const DISCARD_FROM: u64 = 1 << 16;

/// A file in memory and its two mappings. Never unmapped while the value lives.
pub struct Reservation {
    file: i32,
    base: u64,
    executor: u64,
    bytes: u64,
}

impl Reservation {
    /// Reserves `bytes`, rounded up to whole mebibytes.
    pub fn new(bytes: u64) -> Result<Reservation, MemoryError> {
        let bytes = bytes.checked_next_multiple_of(1 << 20).ok_or(MemoryError::InvalidSize { bytes })?;
        // SAFETY: plain system call with a terminated name.
        let file = unsafe { libc::memfd_create(c"vgpu".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(last_error("memfd_create"));
        }
        let mut reservation = Reservation { file, base: 0, executor: 0, bytes };
        // SAFETY: `file` is open; growing a file in memory takes no pages.
        if unsafe { libc::ftruncate(file, bytes as libc::off_t) } != 0 {
            return Err(last_error("ftruncate"));
        }
        reservation.base = map(file, bytes, libc::PROT_NONE, Some(PREFERRED_BASE))?;
        reservation.executor = map(file, bytes, libc::PROT_READ | libc::PROT_WRITE, None)?;
        Ok(reservation)
    }

    /// First device address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether `address` is a device address.
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.bytes
    }

    /// The address in the executor's view of a device address.
    pub fn executor_pointer(&self, address: u64) -> *mut u8 {
        debug_assert!(self.contains(address));
        (self.executor + (address - self.base)) as *mut u8
    }

    /// Lets the host read and write whole pages of the device view.
    pub fn expose(&self, start: u64, bytes: u64) -> Result<(), MemoryError> {
        self.protect(start, bytes, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Takes the host's access away again.
    pub fn hide(&self, start: u64, bytes: u64) {
        // Refusal (the table of mappings is full) leaves the pages accessible: the program could err unnoticed,
        // nothing worse.
        let _ = self.protect(start, bytes, libc::PROT_NONE);
    }

    fn protect(&self, start: u64, bytes: u64, protection: i32) -> Result<(), MemoryError> {
        debug_assert!(start.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && self.contains(start + bytes - 1));
        // SAFETY: the range lies inside the device view, which belongs to us and holds no Rust object.
        match unsafe { libc::mprotect(start as *mut libc::c_void, bytes as usize, protection) } {
            0 => Ok(()),
            _ => Err(last_error("mprotect")),
        }
    }

    /// Gives the pages of a freed range back to the host.
    pub fn discard(&self, start: u64, bytes: u64) {
        if bytes < DISCARD_FROM {
            return;
        }
        let offset = (start - self.base) as libc::off_t;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the range lies inside the file. Refusal only means that the pages stay in use.
        let _ = unsafe { libc::fallocate(self.file, mode, offset, bytes as libc::off_t) };
    }

    /// Copies host memory into a window. The operating system reads the host's side, so a bad address is an error.
    pub fn copy_from_host(&self, window: &Window, device: u64, host: u64, bytes: u64) -> Result<(), MemoryError> {
        let bad = MemoryError::BadHostRange { address: host, bytes };
        if !self.contains(device) {
            return copy_own(window.host(device) as u64, host, bytes).ok_or(bad);
        }
        let offset = device - self.base;
        transfer(bytes, |done, length| {
            let source = (host + done) as *const libc::c_void;
            // SAFETY: the kernel checks the source, and the target is a range of our own file.
            unsafe { libc::pwrite(self.file, source, length, (offset + done) as libc::off_t) }
        })
        .ok_or(bad)
    }

    /// Copies a window to host memory. The operating system writes the host's side, so a bad address is an error.
    pub fn copy_to_host(&self, window: &Window, host: u64, device: u64, bytes: u64) -> Result<(), MemoryError> {
        let bad = MemoryError::BadHostRange { address: host, bytes };
        if !self.contains(device) {
            return copy_own(host, window.host(device) as u64, bytes).ok_or(bad);
        }
        let offset = device - self.base;
        transfer(bytes, |done, length| {
            let target = (host + done) as *mut libc::c_void;
            // SAFETY: the kernel checks the target, which the program has handed to us to be written.
            unsafe { libc::pread(self.file, target, length, (offset + done) as libc::off_t) }
        })
        .ok_or(bad)
    }

    /// Copies between two ranges of the program's own memory.
    pub fn copy_within_host(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        copy_own(to, from, bytes).ok_or(MemoryError::BadHostRange { address: from, bytes })
    }

    /// Whether a range of host memory is mapped and readable, page by page.
    pub fn host_range_is_accessible(&self, address: u64, bytes: u64) -> bool {
        let Some(last) = address.checked_add(bytes.saturating_sub(1)) else { return false };
        let pages = (address / PAGE..=last / PAGE).map(|page| (page * PAGE).max(address));
        let mut byte = 0u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        for page in pages {
            let remote = libc::iovec { iov_base: page as *mut libc::c_void, iov_len: 1 };
            // SAFETY: reads one byte of this very process; the kernel checks the address and `byte` outlives the call.
            let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
            if read != 1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) {
                return false;
            }
        }
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mappings and the file are ours; whoever drops the memory holds no window any more.
        unsafe {
            for address in [self.base, self.executor].into_iter().filter(|&address| address != 0) {
                libc::munmap(address as *mut libc::c_void, self.bytes as usize);
            }
            libc::close(self.file);
        }
    }
}

/// Reserves `bytes` of private zero pages.
pub fn reserve_zeroed(bytes: u64) -> Result<u64, MemoryError> {
    map(-1, bytes, libc::PROT_READ | libc::PROT_WRITE, None)
}

fn map(file: i32, bytes: u64, protection: i32, preferred: Option<u64>) -> Result<u64, MemoryError> {
    let kind = if file < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    let flags = kind | libc::MAP_NORESERVE;
    let attempt = |address: u64, flags: i32| {
        // SAFETY: a fresh mapping; `MAP_FIXED_NOREPLACE` refuses to cover an existing one.
        let mapped = unsafe { libc::mmap(address as *mut libc::c_void, bytes as usize, protection, flags, file, 0) };
        (mapped != libc::MAP_FAILED).then_some(mapped as u64)
    };
    preferred
        .and_then(|address| attempt(address, flags | libc::MAP_FIXED_NOREPLACE))
        .or_else(|| attempt(0, flags))
        .ok_or_else(|| last_error("mmap"))
}

/// Runs a system call that moves at most what it is asked for until all `bytes` are moved; `None` when it fails.
fn transfer(bytes: u64, mut call: impl FnMut(u64, usize) -> isize) -> Option<()> {
    let mut done = 0;
    while done < bytes {
        match call(done, (bytes - done) as usize) {
            moved if moved > 0 => done += moved as u64,
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
    Some(())
}

/// A copy between two pieces of our own process, neither of which is trusted.
fn copy_own(to: u64, from: u64, bytes: u64) -> Option<()> {
    transfer(bytes, |done, length| {
        let local = libc::iovec { iov_base: (to + done) as *mut libc::c_void, iov_len: length };
        let remote = libc::iovec { iov_base: (from + done) as *mut libc::c_void, iov_len: length };
        // SAFETY: the kernel checks both sides; the program has handed us the target to be written.
        unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) }
    })
}

fn last_error(call: &str) -> MemoryError {
    MemoryError::Reservation(format!("{call}: {}", std::io::Error::last_os_error()))
}
