//! What was asked of a queue, kept to be done later: at once, or as a graph ([`super::Graphs`]).

use std::ops::Range;
use std::ptr::NonNull;

use super::{Geometry, Queue};
use crate::error::Result;
use crate::memory::DeviceMemory;

/// One thing that was asked. Two recordings of equal works differ in the parameters of kernels and in what is copied from the host, and in nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A launch; its parameter struct is a range of [`Recording::params`].
    Launch { op: &'static str, kernel: &'static str, geometry: Geometry, params: Range<usize> },
    /// Bytes set to a value.
    Fill { to: NonNull<u8>, value: u8, bytes: usize },
    /// A copy from a range of [`Recording::uploads`].
    Upload { to: NonNull<u8>, from: Range<usize> },
}

/// Everything that was asked, in order.
#[derive(Default)]
pub(super) struct Recording {
    pub works: Vec<Work>,
    /// Parameter structs, in words of 8 bytes, which is their alignment.
    pub params: Vec<u64>,
    /// What is copied from the host.
    pub uploads: Vec<u8>,
    /// Memory that was given back meanwhile: free once the works are done.
    pub released: Vec<NonNull<u8>>,
}

// SAFETY: the addresses are numbers for the driver.
unsafe impl Send for Recording {}

impl Recording {
    /// Keeps a launch.
    ///
    /// # Safety
    /// As [`Queue::launch`], until the works are done.
    pub unsafe fn launch<P: Copy>(&mut self, op: &'static str, kernel: &'static str, geometry: Geometry, params: &P) {
        let start = self.params.len();
        self.params.resize(start + size_of::<P>().div_ceil(8), 0);
        // SAFETY: the words from `start` on have room for the struct, which is plain bytes for the driver.
        unsafe { self.params.as_mut_ptr().add(start).cast::<P>().write_unaligned(*params) };
        self.works.push(Work::Launch { op, kernel, geometry, params: start..self.params.len() });
    }

    /// Keeps a fill.
    pub fn fill(&mut self, to: NonNull<u8>, value: u8, bytes: usize) {
        self.works.push(Work::Fill { to, value, bytes });
    }

    /// Keeps a copy from the host.
    pub fn upload(&mut self, to: NonNull<u8>, from: &[u8]) {
        let start = self.uploads.len();
        self.uploads.extend_from_slice(from);
        self.works.push(Work::Upload { to, from: start..self.uploads.len() });
    }

    /// Asks the queue for all of it, one after the other.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn run(&self, queue: &Queue) -> Result<()> {
        for work in &self.works {
            match work {
                Work::Launch { op, kernel, geometry, params } => {
                    // SAFETY: by the contract of `launch`.
                    unsafe { queue.launch_raw(op, kernel, *geometry, self.params[params.clone()].as_ptr().cast())? };
                }
                Work::Fill { to, value, bytes } => queue.fill(*to, *value, *bytes)?,
                Work::Upload { to, from } => queue.upload(*to, &self.uploads[from.clone()])?,
            }
        }
        Ok(())
    }
}
