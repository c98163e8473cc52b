//! The thread pool of the host device.
//!
//! One job at a time, cut into chunks by the caller; every thread, the caller included, takes the next chunk until none is left.
//! A thread that the operating system has put aside (a busy neighbour) therefore delays nothing but the chunk it holds. Workers spin for
//! some microseconds before they sleep, because ops follow each other closely, but never longer: a spinning worker would itself be
//! the busy neighbour. The bounds of the chunks depend on the job, never on the threads, so results do not either.
//!
//! A job is published in three relaxed fields guarded by `state`, which holds (epoch, next chunk). A chunk is claimed by compare-and-swap
//! on the whole of `state`, so a claim succeeds only while the job that was read is the job that runs; `CLOSED` marks the time between
//! jobs in which the fields may change.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

const CLOSED: u64 = u32::MAX as u64;
const SPINS: u32 = 4000;

struct Shared {
    /// Epoch in the upper half, next chunk in the lower.
    state: AtomicU64,
    data: AtomicUsize,
    call: AtomicUsize,
    chunks: AtomicUsize,
    unfinished: AtomicUsize,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that share out the chunks of a job; see the head of `device/pool.rs`.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    caller: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 means one per processor.
    pub fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            data: AtomicUsize::new(0),
            call: AtomicUsize::new(0),
            chunks: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = shared.clone();
                // A machine that cannot start another thread computes with those it has.
                std::thread::Builder::new().name(format!("deem-{i}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Pool { shared, workers, caller: Mutex::new(()) }
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0), f(1), .. f(chunks - 1)`, in any order and on any thread, and returns when all are done.
    ///
    /// Called from inside a chunk it runs the inner job on the spot. A panic in a chunk is passed on to the caller.
    pub fn run<F: Fn(usize) + Sync>(&self, chunks: usize, f: F) {
        if chunks <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..chunks).for_each(f);
            return;
        }
        unsafe fn call<F: Fn(usize) + Sync>(data: usize, chunk: usize) {
            // SAFETY: `data` is the address of the `F` that `run` borrows until all chunks are done.
            unsafe { (*(data as *const F))(chunk) }
        }
        let _one_job_at_a_time = self.caller.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let s = &*self.shared;
        s.data.store(&raw const f as usize, Ordering::Relaxed);
        s.call.store(call::<F> as *const () as usize, Ordering::Relaxed);
        s.chunks.store(chunks, Ordering::Relaxed);
        s.unfinished.store(chunks, Ordering::Relaxed);
        let epoch = (s.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) << 32;
        s.state.store(epoch, Ordering::SeqCst);
        if s.sleepers.load(Ordering::SeqCst) > 0 {
            drop(s.sleep.lock());
            s.wake.notify_all();
        }
        INSIDE.set(true);
        s.help();
        INSIDE.set(false);
        let mut spins = 0;
        while s.unfinished.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        s.state.store(epoch | CLOSED, Ordering::Release);
        let panic = s.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Calls `f(chunk, part)` for consecutive parts of `data`, each of `part_len` elements but perhaps the last.
    pub fn run_parts<T: Send, F: Fn(usize, &mut [T]) + Sync>(&self, data: &mut [T], part_len: usize, f: F) {
        let (len, part_len) = (data.len(), part_len.max(1));
        let base = SendPtr(data.as_mut_ptr());
        self.run(len.div_ceil(part_len), |chunk| {
            let start = chunk * part_len;
            let count = part_len.min(len - start);
            // SAFETY: chunks are disjoint ranges of `data`, which is borrowed mutably until `run` returns.
            let part = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), count) };
            f(chunk, part);
        });
    }
}

/// A pointer that chunks may share; whoever dereferences it says why the chunks do not collide.
pub(crate) struct SendPtr<T>(pub *mut T);
// SAFETY: the pointer is only a number until somebody dereferences it, in an unsafe block of their own.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// The pointer (a method, so that closures capture the wrapper and not its field).
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl Shared {
    /// Takes chunks of the present job until none is left.
    fn help(&self) {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let chunk = state & CLOSED;
            let (data, call) = (self.data.load(Ordering::Relaxed), self.call.load(Ordering::Relaxed));
            if chunk == CLOSED || chunk as usize >= self.chunks.load(Ordering::Relaxed) {
                return;
            }
            if self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: the claim succeeded, so `state` did not change since it was read and `call` is the function of the open job.
            let call = unsafe { std::mem::transmute::<usize, unsafe fn(usize, usize)>(call) };
            // SAFETY: the job is open and this chunk is ours; its owner waits for `unfinished` to reach 0.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { call(data, chunk as usize) }));
            if let Err(panic) = outcome {
                *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
            }
            self.unfinished.fetch_sub(1, Ordering::Release);
        }
    }

    fn work(&self) {
        INSIDE.set(true);
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.state.load(Ordering::Acquire) >> 32 == seen && !self.stop.load(Ordering::Relaxed) {
                spins += 1;
                if spins < SPINS {
                    std::hint::spin_loop();
                    continue;
                }
                let mut guard = self.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while self.state.load(Ordering::SeqCst) >> 32 == seen && !self.stop.load(Ordering::SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            seen = self.state.load(Ordering::Acquire) >> 32;
            self.help();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.sleep.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker only ends by returning; a panic inside a chunk was passed on to the caller of that job.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        let pool = Pool::new(4);
        for round in 0..2000 {
            let counts: Vec<AtomicUsize> = (0..round % 37).map(|_| AtomicUsize::new(0)).collect();
            pool.run(counts.len(), |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn several_callers_and_nesting() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, |i| {
                            pool.run(2, |j| {
                                sum.fetch_add(i * 2 + j, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3 * 200 * 45);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, |i| assert!(i != 5, "chunk five"))));
        assert!(outcome.is_err());
        let mut data = vec![0usize; 100];
        pool.run_parts(&mut data, 7, |chunk, part| part.fill(chunk + 1));
        assert_eq!((data[0], data[99]), (1, 15));
    }
}
