//! Arguments as C programs pass them.
//!
//! A pointer from outside is never dereferenced: the operating system reads and writes the caller's memory for us, so
//! that a wrong pointer is an error code and not a crash. Each type is `repr(transparent)` over what the C prototype
//! has in its place.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};

use super::errors::{Error, Outcome};

/// Types without padding rules or forbidden bit patterns that matter: any bytes make a value.
///
/// # Safety
/// Every bit pattern must be valid.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: integers and floats have no invalid bit patterns.
        unsafe impl Plain for $type {}
    )* };
}
plain!(u8, u16, u32, u64, usize, i32, i64, f32);

// SAFETY: an array of such values is one.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// `const T *`: a value or an array to be read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct In<T>(*const T);

/// `T *`: a value or an array to be written (and for some functions read).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Out<T>(*mut T);

/// `const char *`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Text(*const c_char);

/// A handle to an object of type `T`; see [`super::objects`].
#[repr(transparent)]
pub struct Handle<T>(pub u64, PhantomData<fn() -> T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> Handle<T> {
    /// The handle with that number.
    pub const fn new(number: u64) -> Handle<T> {
        Handle(number, PhantomData)
    }
}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
// SAFETY: a number.
unsafe impl<T> Plain for Handle<T> {}

impl<T: Plain> In<T> {
    /// The address, zero for none.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Whether nothing was passed.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it cannot be read.
    pub fn get(self) -> Outcome<T> {
        read(self.0 as u64)
    }

    /// The `count` values of an array; none for a null pointer with a count of zero.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if they cannot be read.
    pub fn list(self, count: usize) -> Outcome<Vec<T>> {
        read_list(self.0 as u64, count)
    }
}

impl<T: Plain> Out<T> {
    /// A null pointer.
    pub const fn null() -> Out<T> {
        Out(std::ptr::null_mut())
    }

    /// The address, zero for none.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Whether nothing was passed.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes the value.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it cannot be written.
    pub fn set(self, value: T) -> Outcome {
        write(self.0 as u64, &value)
    }

    /// Writes the value unless the caller passed a null pointer.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it cannot be written.
    pub fn set_if_wanted(self, value: T) -> Outcome {
        if self.is_null() { Ok(()) } else { self.set(value) }
    }

    /// Reads what the caller put there.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it cannot be read.
    pub fn get(self) -> Outcome<T> {
        read(self.0 as u64)
    }

    /// The `count` values of an array that the prototype does not call constant.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if they cannot be read.
    pub fn list(self, count: usize) -> Outcome<Vec<T>> {
        read_list(self.0 as u64, count)
    }

    /// Writes the element at `index` of an array.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it cannot be written.
    pub fn set_at(self, index: usize, value: T) -> Outcome {
        if self.is_null() {
            return Err(Error::InvalidValue);
        }
        write((self.0 as u64).wrapping_add((index * size_of::<T>()) as u64), &value)
    }

    /// Writes the first values of an array.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if they cannot be written.
    pub fn set_list(self, values: &[T]) -> Outcome {
        // SAFETY: plain values are bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) };
        write_bytes(self.0 as u64, bytes)
    }
}

impl Out<u8> {
    /// Writes as much of a text as `capacity` bytes hold, ended by a zero byte.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for no room at all, or if it cannot be written.
    pub fn set_text(self, text: &str, capacity: usize) -> Outcome {
        let kept = text.len().min(capacity.checked_sub(1).ok_or(Error::InvalidValue)?);
        let mut bytes = text.as_bytes()[..kept].to_vec();
        bytes.push(0);
        write_bytes(self.0 as u64, &bytes)
    }
}

impl Text {
    /// The text, in UTF-8 or repaired.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it cannot be read.
    pub fn get(self) -> Outcome<String> {
        let bytes = read_terminated(self.0 as u64)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Reads a value of the caller's memory.
///
/// # Errors
/// [`Error::InvalidValue`] if it cannot be read.
pub fn read<T: Plain>(address: u64) -> Outcome<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the bytes of `value` itself.
    let bytes = unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of::<T>()) };
    read_into(address, bytes)?;
    // SAFETY: all bytes were written, and any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

fn read_list<T: Plain>(address: u64, count: usize) -> Outcome<Vec<T>> {
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes < 1 << 40).ok_or(Error::InvalidValue)?;
    if bytes == 0 {
        return Ok(Vec::new());
    }
    // Ask for the last byte first: a wild count must not make us allocate.
    read::<u8>(address.checked_add(bytes as u64 - 1).ok_or(Error::InvalidValue)?)?;
    let mut values = Vec::<T>::with_capacity(count);
    // SAFETY: the spare capacity of `values`.
    let room = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<MaybeUninit<u8>>(), bytes) };
    read_into(address, room)?;
    // SAFETY: all bytes were written, and any bytes are values.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// Reads `bytes` bytes of the caller's memory.
///
/// # Errors
/// [`Error::InvalidValue`] if they cannot be read.
pub fn read_bytes(address: u64, bytes: usize) -> Outcome<Vec<u8>> {
    read_list(address, bytes)
}

/// Reads bytes up to a zero byte, without it.
///
/// # Errors
/// [`Error::InvalidValue`] if they cannot be read.
pub fn read_terminated(address: u64) -> Outcome<Vec<u8>> {
    const CHUNK: u64 = 4096;
    let mut bytes = Vec::new();
    let mut next = address;
    loop {
        // Never beyond a page that holds a byte of the text.
        let length = CHUNK - next % CHUNK;
        let chunk = read_list::<u8>(next, length as usize)?;
        if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
            bytes.extend_from_slice(&chunk[..end]);
            return Ok(bytes);
        }
        bytes.extend_from_slice(&chunk);
        next = next.checked_add(length).ok_or(Error::InvalidValue)?;
    }
}

fn read_into(address: u64, bytes: &mut [MaybeUninit<u8>]) -> Outcome {
    if address == 0 {
        return Err(Error::InvalidValue);
    }
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel checks the caller's side; ours is `bytes`.
    let moved = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    if moved == bytes.len() as isize {
        return Ok(());
    }
    if call_is_forbidden(moved) {
        // SAFETY: in such a sandbox the caller's word is all there is.
        unsafe { std::ptr::copy_nonoverlapping(address as *const MaybeUninit<u8>, bytes.as_mut_ptr(), bytes.len()) };
        return Ok(());
    }
    Err(Error::InvalidValue)
}

/// Writes a value to the caller's memory.
///
/// # Errors
/// [`Error::InvalidValue`] if it cannot be written.
pub fn write<T: Plain>(address: u64, value: &T) -> Outcome {
    // SAFETY: plain values are bytes.
    write_bytes(address, unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) })
}

/// Writes bytes to the caller's memory.
///
/// # Errors
/// [`Error::InvalidValue`] if they cannot be written.
pub fn write_bytes(address: u64, bytes: &[u8]) -> Outcome {
    if bytes.is_empty() {
        return Ok(());
    }
    if address == 0 {
        return Err(Error::InvalidValue);
    }
    let local = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel checks the caller's side; ours is `bytes`, which it only reads.
    let moved = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    if moved == bytes.len() as isize {
        return Ok(());
    }
    if call_is_forbidden(moved) {
        // SAFETY: in such a sandbox the caller's word is all there is.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        return Ok(());
    }
    Err(Error::InvalidValue)
}

/// Some sandboxes forbid the call itself, to whatever address.
fn call_is_forbidden(moved: isize) -> bool {
    let error = std::io::Error::last_os_error().raw_os_error();
    moved < 0 && matches!(error, Some(libc::EPERM | libc::ENOSYS | libc::EACCES))
}

/// A C string of ours that outlives the process's use of it.
pub fn leak_text(text: &str) -> *const c_char {
    let owned = std::ffi::CString::new(text.replace('\0', " ")).unwrap_or_default();
    owned.into_raw()
}

/// The address of a constant C string.
pub fn text_address(text: &'static CStr) -> u64 {
    text.as_ptr() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cross_and_wrong_pointers_are_errors() {
        let mut value = 7u32;
        assert_eq!(In(&raw const value).get(), Ok(7));
        Out(&raw mut value).set(9).unwrap();
        assert_eq!(value, 9);
        for bad in [0u64, 1, 4095, 0x7fff_ffff_f000, u64::MAX] {
            assert_eq!(In(bad as *const u64).get(), Err(Error::InvalidValue));
            assert_eq!(Out(bad as *mut u64).set(0), Err(Error::InvalidValue));
            assert!(Text(bad as *const c_char).get().is_err());
            assert!(In(bad as *const u64).list(3).is_err());
        }
        assert!(In(&raw const value).list(usize::MAX).is_err());
        assert!(In(&raw const value).list(1 << 36).is_err(), "must not allocate");
    }

    #[test]
    fn texts_end_at_their_zero() {
        let text = c"a name";
        assert_eq!(Text(text.as_ptr()).get().unwrap(), "a name");
        let long = vec![b'x'; 10_000].into_iter().chain([0]).collect::<Vec<u8>>();
        assert_eq!(Text(long.as_ptr().cast()).get().unwrap().len(), 10_000);
        let mut room = [1u8; 4];
        Out(room.as_mut_ptr()).set_text("abcdef", 4).unwrap();
        assert_eq!(&room, b"abc\0");
        assert!(Out(room.as_mut_ptr()).set_text("", 0).is_err());
    }
}
