//! Contexts, the stack of them that each thread has, and the streams behind handles.
//!
//! A kernel's fault is the end of its context, as on a GPU: every later call returns the same error until the context
//! is destroyed (or the primary context reset).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;

use super::api::array::{Array, MipmappedArray};
use super::api::texture::{Surface, Texture};
use super::engine::event::Event;
use super::engine::stream::{Role, Stream};
use super::errors::{Error, Outcome};
use super::ffi::Handle;
use super::gpu::{Gpu, gpu};
use super::module::{Function, Module};
use super::objects::{Object, object};
use crate::memory::{Allocation, Kind};

/// `CU_STREAM_LEGACY`.
pub const LEGACY_STREAM: u64 = 1;
/// `CU_STREAM_PER_THREAD`.
pub const PER_THREAD_STREAM: u64 = 2;
/// Values of `CUlimit` up to this one are kept.
const LIMITS: usize = 7;

/// A context.
pub struct Context {
    /// The GPU.
    pub gpu: &'static Gpu,
    /// Its handle.
    pub number: u64,
    /// Whether it is the primary one.
    pub is_primary: bool,
    /// Counts contexts from 1.
    pub id: u64,
    this: Weak<Context>,
    flags: AtomicU32,
    cache_config: AtomicU32,
    bank_config: AtomicU32,
    limits: [AtomicU64; LIMITS],
    lost: OnceLock<Error>,
    destroyed: AtomicBool,
    order: Mutex<()>,
    legacy: OnceLock<Arc<Stream>>,
    per_thread: Mutex<HashMap<ThreadId, Arc<Stream>>>,
    created: Mutex<Vec<Weak<Stream>>>,
    owned: Mutex<BTreeSet<u64>>,
}

object!(Context, 1, Error::InvalidContext);

thread_local! {
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static PER_THREAD_DEFAULT: Cell<bool> = const { Cell::new(false) };
}

impl Context {
    /// Makes a context and registers it.
    ///
    /// # Errors
    /// [`Error::NotInitialized`].
    pub fn create(flags: u32, is_primary: bool) -> Outcome<Arc<Context>> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let gpu = gpu()?;
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        // Stack per thread, printf buffer, malloc heap, sync depth, pending launches, L2 fetch, persisting L2.
        let limits = [1024, 7_340_032, 8 << 20, 2, 2048, 64, 0].map(AtomicU64::new);
        let make = |number| {
            Arc::new_cyclic(|this| Context {
                gpu,
                number,
                is_primary,
                id,
                this: this.clone(),
                flags: AtomicU32::new(flags),
                cache_config: AtomicU32::new(0),
                bank_config: AtomicU32::new(0),
                limits,
                lost: OnceLock::new(),
                destroyed: AtomicBool::new(false),
                order: Mutex::new(()),
                legacy: OnceLock::new(),
                per_thread: Mutex::default(),
                created: Mutex::default(),
                owned: Mutex::default(),
            })
        };
        Ok(Context::registry().insert_with(make))
    }

    /// Whether it can still be used.
    ///
    /// # Errors
    /// The error that it was lost to, or [`Error::ContextIsDestroyed`].
    pub fn check(&self) -> Outcome {
        match self.lost.get() {
            Some(&error) => Err(error),
            None if self.destroyed.load(Ordering::Relaxed) => Err(Error::ContextIsDestroyed),
            None => Ok(()),
        }
    }

    /// Notes what asynchronous work met. A fault of a kernel loses the context for good; anything else met there is
    /// as bad.
    pub fn lose(&self, error: Error) {
        if self.lost.set(error).is_ok() {
            let name = super::errors::describe(error as u32).map_or("", |row| row.0.to_str().unwrap_or(""));
            eprintln!("vgpu: the context is lost: each further call returns {name} ({})", error as u32);
        }
    }

    /// Held while work is given to a stream, so that streams agree on what came first.
    pub fn submission_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The legacy default stream.
    pub fn legacy_stream(&self) -> Arc<Stream> {
        self.legacy.get_or_init(|| Stream::new(self.this.clone(), Role::Legacy, 0, 0)).clone()
    }

    /// The default stream of the calling thread.
    pub fn per_thread_stream(&self) -> Arc<Stream> {
        let mut streams = self.per_thread.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Stream::new(self.this.clone(), Role::PerThread, 0, 0);
        streams.entry(std::thread::current().id()).or_insert_with(new).clone()
    }

    /// A new stream and its handle.
    pub fn create_stream(&self, flags: u32, priority: i32) -> Handle<Stream> {
        let stream = Stream::new(self.this.clone(), Role::Created, flags, priority);
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created.retain(|known| known.strong_count() > 0);
        created.push(Arc::downgrade(&stream));
        Stream::registry().insert(stream)
    }

    /// All its streams but the legacy one.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let per_thread = self.per_thread.lock().unwrap_or_else(PoisonError::into_inner);
        created.iter().filter_map(Weak::upgrade).chain(per_thread.values().cloned()).collect()
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// What the work met.
    pub fn synchronise(&self) -> Outcome {
        self.drain();
        self.check()
    }

    /// Waits until its streams have nothing left to do.
    pub fn drain(&self) {
        self.streams().iter().for_each(|stream| stream.synchronise());
        self.legacy_stream().synchronise();
    }

    /// Allocates memory that ends with the context.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::InvalidValue`].
    pub fn allocate(&self, bytes: u64, kind: Kind) -> Outcome<u64> {
        let address = self.gpu.memory.allocate(bytes, kind)?;
        self.own(address);
        Ok(address)
    }

    /// Lets an allocation or a registration end with the context.
    pub fn own(&self, address: u64) {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
    }

    /// Frees an allocation whose kind `accept` agrees with, after all work.
    ///
    /// # Errors
    /// [`Error::InvalidValue`], told on standard error.
    pub fn free(&self, address: u64, accept: impl Fn(&Kind) -> bool) -> Outcome {
        self.drain();
        self.release(address, accept)
    }

    /// Frees a device allocation at once: all work that uses it is before this in its stream.
    ///
    /// # Errors
    /// [`Error::InvalidValue`], told on standard error.
    pub fn free_now(&self, address: u64) -> Outcome {
        self.release(address, |kind| matches!(kind, Kind::Pooled | Kind::Device | Kind::Managed))
    }

    fn release(&self, address: u64, accept: impl Fn(&Kind) -> bool) -> Outcome {
        self.gpu.memory.free(address, accept).map_err(|problem| {
            let finding = crate::checks::Finding::outside(crate::checks::Kind::InvalidFree, problem.to_string());
            super::gpu::tell(&finding);
            Error::from(problem)
        })?;
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        Ok(())
    }

    /// Ends the context: waits for its work and frees all that it has.
    pub fn destroy(&self) {
        self.drain();
        self.destroyed.store(true, Ordering::Relaxed);
        Context::registry().remove(self.number);
        Stream::registry().remove_where(|stream| std::ptr::eq(stream.context.as_ptr(), self));
        Event::registry().remove_where(|event| event.context == self.number);
        Function::registry().remove_where(|function| function.module.context == self.number);
        Module::registry().remove_where(|module| module.context == self.number);
        Texture::registry().remove_where(|texture| texture.context == self.number);
        Surface::registry().remove_where(|surface| surface.context == self.number);
        MipmappedArray::registry().remove_where(|array| array.context == self.number);
        Array::registry().remove_where(|array| array.context == self.number);
        let owned = std::mem::take(&mut *self.owned.lock().unwrap_or_else(PoisonError::into_inner));
        if self.lost.get().is_none() {
            // A lost context lets nobody free anything.
            let live: Vec<Allocation> =
                owned.iter().filter_map(|&address| self.gpu.memory.allocation_at(address)).collect();
            super::gpu::tell_leaks(self.gpu, &live, "when their context was destroyed");
        }
        for address in owned {
            // Freed by the program in another context meanwhile: nothing is left to do.
            let _ = self.gpu.memory.free(address, |_| true);
        }
    }

    /// `CUctx_flags`.
    pub fn flags(&self) -> &AtomicU32 {
        &self.flags
    }

    /// `CUfunc_cache`: kept and told.
    pub fn cache_config(&self) -> &AtomicU32 {
        &self.cache_config
    }

    /// `CUsharedconfig`: kept and told.
    pub fn bank_config(&self) -> &AtomicU32 {
        &self.bank_config
    }

    /// A `CUlimit`: kept and told.
    ///
    /// # Errors
    /// [`Error::UnsupportedLimit`] for others, [`Error::InvalidValue`] for what is none.
    pub fn limit(&self, number: u32) -> Outcome<&AtomicU64> {
        self.limits.get(number as usize).ok_or(if number < 16 { Error::UnsupportedLimit } else { Error::InvalidValue })
    }
}

/// The calling thread's current context.
///
/// # Errors
/// [`Error::NotInitialized`], [`Error::InvalidContext`] when there is none, [`Error::ContextIsDestroyed`], or what it
/// was lost to.
pub fn current() -> Outcome<Arc<Context>> {
    let context = current_or_lost()?;
    context.check()?;
    Ok(context)
}

/// The calling thread's current context even if it is lost: for calls that end it.
///
/// # Errors
/// As [`current`], but for the last.
pub fn current_or_lost() -> Outcome<Arc<Context>> {
    gpu()?;
    let number = current_number().ok_or(Error::InvalidContext)?;
    Context::registry().find(number).ok_or(Error::ContextIsDestroyed)
}

/// The handle of the current context.
pub fn current_number() -> Option<u64> {
    on_stack(|stack| stack.last().copied()).filter(|&number| number != 0)
}

/// Puts a context on the thread's stack.
pub fn push(number: u64) {
    on_stack(|stack| stack.push(number));
}

/// Takes the uppermost context off the thread's stack.
pub fn pop() -> Option<u64> {
    on_stack(Vec::pop)
}

/// Replaces the uppermost context of the thread's stack; zero takes it off.
pub fn replace(number: u64) {
    on_stack(|stack| {
        stack.pop();
        if number != 0 {
            stack.push(number);
        }
    });
}

/// Works on the thread's stack. A thread that is ending, whose destructors may still call the driver, has an empty one.
fn on_stack<T>(work: impl Fn(&mut Vec<u64>) -> T) -> T {
    STACK.try_with(|stack| work(&mut stack.borrow_mut())).unwrap_or_else(|_| work(&mut Vec::new()))
}

/// Calls `inner` with the null stream meaning the thread's own one, as the `_ptsz` and `_ptds` functions do.
pub fn with_per_thread_default<T>(inner: impl FnOnce() -> T) -> T {
    let before = PER_THREAD_DEFAULT.replace(true);
    let result = inner();
    PER_THREAD_DEFAULT.set(before);
    result
}

/// The stream behind a handle.
///
/// # Errors
/// [`Error::InvalidHandle`], or those of [`current`].
pub fn stream(handle: Handle<Stream>) -> Outcome<Arc<Stream>> {
    let context = current()?;
    match handle.0 {
        0 if PER_THREAD_DEFAULT.get() => Ok(context.per_thread_stream()),
        0 | LEGACY_STREAM => Ok(context.legacy_stream()),
        PER_THREAD_STREAM => Ok(context.per_thread_stream()),
        _ => {
            let stream = handle.get()?;
            stream.context()?.check()?;
            Ok(stream)
        }
    }
}

/// The primary context: made by the first who retains it, ended by the last who releases it.
pub struct Primary {
    /// The context, while somebody retains it.
    pub context: Option<Arc<Context>>,
    /// How many retain it.
    pub users: u32,
    /// The flags that it gets when it is made.
    pub flags: u32,
}

/// The primary context of the device.
pub fn primary() -> MutexGuard<'static, Primary> {
    static PRIMARY: Mutex<Primary> = Mutex::new(Primary { context: None, users: 0, flags: 0 });
    PRIMARY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Primary {
    /// The context, made if need be.
    ///
    /// # Errors
    /// [`Error::NotInitialized`].
    pub fn ensure(&mut self) -> Outcome<Arc<Context>> {
        if self.context.is_none() {
            self.context = Some(Context::create(self.flags, true)?);
        }
        self.context.clone().ok_or(Error::InvalidContext)
    }

    /// Ends it, whoever uses it.
    pub fn reset(&mut self) {
        if let Some(context) = self.context.take() {
            context.destroy();
        }
    }
}
