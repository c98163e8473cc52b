//! Handles: numbers that stand for objects.
//!
//! A handle is looked up, never dereferenced, so a wrong or stale one is an error code. Numbers are never given out
//! twice, and each type has its own range.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::errors::{Error, Outcome};
use super::ffi::Handle;

/// Something that programs hold handles to.
pub trait Object: Sized + Send + Sync + 'static {
    /// What a wrong handle of this type is answered with.
    const INVALID: Error;
    /// The objects of this type.
    fn registry() -> &'static Registry<Self>;
}

/// All live objects of one type.
pub struct Registry<T> {
    first: u64,
    objects: Mutex<(u64, BTreeMap<u64, Arc<T>>)>,
}

impl<T> Registry<T> {
    /// An empty registry; `range` tells the types apart.
    pub const fn new(range: u64) -> Registry<T> {
        Registry { first: 0x4000_0000_0000 + (range << 32), objects: Mutex::new((0, BTreeMap::new())) }
    }

    /// Adds an object.
    pub fn insert(&self, object: Arc<T>) -> Handle<T> {
        let mut objects = self.lock();
        objects.0 += 1;
        let number = self.first + objects.0 * 16;
        objects.1.insert(number, object);
        Handle::new(number)
    }

    /// Adds an object that is to know its own number.
    pub fn insert_with(&self, make: impl FnOnce(u64) -> Arc<T>) -> Arc<T> {
        let mut objects = self.lock();
        objects.0 += 1;
        let number = self.first + objects.0 * 16;
        let object = make(number);
        objects.1.insert(number, object.clone());
        object
    }

    /// The object behind a number.
    pub fn find(&self, number: u64) -> Option<Arc<T>> {
        self.lock().1.get(&number).cloned()
    }

    /// Removes an object; those who use it at the moment keep it alive.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.lock().1.remove(&number)
    }

    /// Removes the objects that `doomed` picks.
    pub fn remove_where(&self, doomed: impl Fn(&T) -> bool) {
        self.lock().1.retain(|_, object| !doomed(object));
    }

    /// All live objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.lock().1.values().cloned().collect()
    }

    /// The handle of the first object that `wanted` picks.
    pub fn handle_where(&self, wanted: impl Fn(&T) -> bool) -> Option<Handle<T>> {
        self.lock().1.iter().find(|(_, object)| wanted(object)).map(|(&number, _)| Handle::new(number))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, BTreeMap<u64, Arc<T>>)> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Implements [`Object`] for a type: its range of numbers and its error.
macro_rules! object {
    ($type:ty, $range:literal, $invalid:expr) => {
        impl $crate::driver::objects::Object for $type {
            const INVALID: $crate::driver::errors::Error = $invalid;
            fn registry() -> &'static $crate::driver::objects::Registry<Self> {
                static REGISTRY: $crate::driver::objects::Registry<$type> =
                    $crate::driver::objects::Registry::new($range);
                &REGISTRY
            }
        }
    };
}
pub(crate) use object;

impl<T: Object> Handle<T> {
    /// The object.
    ///
    /// # Errors
    /// The type's own error for a handle that is none.
    pub fn get(self) -> Outcome<Arc<T>> {
        T::registry().find(self.0).ok_or(T::INVALID)
    }

    /// Takes the object out of the registry.
    ///
    /// # Errors
    /// The type's own error for a handle that is none.
    pub fn take(self) -> Outcome<Arc<T>> {
        T::registry().remove(self.0).ok_or(T::INVALID)
    }

    /// Whether it is the null handle.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
}
