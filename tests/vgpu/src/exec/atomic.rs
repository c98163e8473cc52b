//! Atomics and reductions (PTX ISA 9.7.13.5, 9.7.13.6): atom and red. Blocks run on several threads, so they are atomics of the host too.

use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::FaultKind;
use super::access::{Mode, addresses};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, handlers, store as store_register};
use super::transfer::Lane;
use super::warp::Warp;
use crate::checks::{Kind, Space};
use crate::isa::WARP;

/// A word that the host can change atomically.
pub(crate) trait Word: Copy {
    /// The register that holds it.
    type Register: Lane;
    /// Replaces the word at a place by `change` of it; returns the word before.
    ///
    /// # Safety
    /// The place holds such a word, aligned, that nobody accesses in any other way that is not allowed to race.
    unsafe fn update(place: *mut u8, change: impl Fn(Self) -> Self) -> Self;
    /// From the register.
    fn from_register(register: Self::Register) -> Self;
    /// To the register.
    fn into_register(self) -> Self::Register;
}

macro_rules! word {
    ($($ty:ty, $atomic:ty, $register:ty;)*) => {$(
        impl Word for $ty {
            type Register = $register;
            #[inline(always)]
            unsafe fn update(place: *mut u8, change: impl Fn(Self) -> Self) -> Self {
                // SAFETY: what the caller promises.
                let word = unsafe { <$atomic>::from_ptr(place.cast()) };
                let mut old = word.load(Ordering::Relaxed);
                loop {
                    match word.compare_exchange_weak(old, change(old), Ordering::AcqRel, Ordering::Relaxed) {
                        Ok(old) => return old,
                        Err(now) => old = now,
                    }
                }
            }
            #[inline(always)]
            fn from_register(register: $register) -> $ty { register as $ty }
            #[inline(always)]
            fn into_register(self) -> $register { self.into() }
        }
    )*};
}

word! {
    u16, AtomicU16, u32;
    u32, AtomicU32, u32;
    u64, AtomicU64, u64;
}

#[derive(Clone, Copy)]
struct Atomic<T, F, const N: usize>(F, PhantomData<T>);

impl<T: Word, F: Fn(T, T, T) -> T + Copy, const N: usize> Semantics for Atomic<T, F, N> {
    /// Operands: N destinations, the address, N values, and for `cas` the new value. Lanes go one after the other.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let list: [_; 17];
        let operands = if N > 1 {
            let found = warp.list(instruction);
            list = std::array::from_fn(|index| found.get(index).copied().unwrap_or_default());
            &list[..]
        } else {
            &instruction.operands[..]
        };
        let mut places = addresses(warp, instruction, operands[N]);
        let bytes = (size_of::<T>() * N) as u64;
        let space = instruction.modifier & 0xff;
        let located = match E::locate(warp, instruction, mask, space, &mut places, bytes, Mode::Atomic) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let mut before = [[T::Register::default(); WARP]; N];
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            let place = located.pointer(places[lane]);
            if place.addr() % size_of::<T>() != 0 {
                let detail = "an atomic operation on a word that is not aligned".to_owned();
                let address = Some((Space::Global, places[lane], bytes as u32));
                return warp.fault(
                    instruction,
                    lane as u32,
                    FaultKind::MisalignedAddress,
                    Kind::Misaligned,
                    address,
                    detail,
                );
            }
            for (part, before) in before.iter_mut().enumerate() {
                let b = T::from_register(warp.read::<T::Register>(operands[N + 1 + part])[lane]);
                let c = if N == 1 { T::from_register(warp.read::<T::Register>(operands[3])[lane]) } else { b };
                // SAFETY: `locate` found the word, and it is aligned; other threads access it as the program makes them.
                let old = unsafe { T::update(place.add(part * size_of::<T>()), |old| (self.0)(old, b, c)) };
                before[lane] = old.into_register();
            }
        }
        for (part, before) in before.iter().enumerate() {
            store_register(warp.register::<T::Register>(operands[part]), mask, before);
        }
        Flow::Next
    }
}

/// The handlers of an atomic operation: the word becomes `f(word, b, c)`.
pub(crate) fn atomic<T: Word, F: Fn(T, T, T) -> T + Copy>(f: F) -> [Handler; 2] {
    handlers(Atomic::<T, F, 1>(f, PhantomData))
}

/// The handlers of an operation on several words side by side, each atomic; operands are in a list.
pub(crate) fn atomic_vector<T: Word, F: Fn(T, T, T) -> T + Copy>(count: usize, f: F) -> Option<[Handler; 2]> {
    Some(match count {
        2 => handlers(Atomic::<T, F, 2>(f, PhantomData)),
        4 => handlers(Atomic::<T, F, 4>(f, PhantomData)),
        8 => handlers(Atomic::<T, F, 8>(f, PhantomData)),
        _ => return None,
    })
}

/// Exchanges of 128 bits exclude each other by one of these locks, by their address: no processor of ours has an atomic of that size that the language offers. Narrower
/// atomics on the same bytes at the same time may come between; so they may not on a GPU, and no compiler mixes them.
static LOCKS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

#[derive(Clone, Copy)]
struct WideAtomic<const COMPARES: bool>;

impl<const COMPARES: bool> Semantics for WideAtomic<COMPARES> {
    /// A list: the two halves of the destination, the address, those of the value (for `cas` the one that is expected, then the new one).
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let list = warp.list(instruction);
        let mut places = addresses(warp, instruction, list[2]);
        let space = instruction.modifier & 0xff;
        let located = match E::locate(warp, instruction, mask, space, &mut places, 16, Mode::Atomic) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let mut before = [[0u64; WARP]; 2];
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            let operand = |index: usize| warp.read::<u64>(list[index])[lane];
            let place = located.pointer(places[lane]).cast::<[u64; 2]>();
            let lock = &LOCKS[place.addr() / 16 % LOCKS.len()];
            let _guard = lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // SAFETY: `locate` found 16 bytes there.
            let old = unsafe { place.read_unaligned() };
            let first = [operand(3), operand(4)];
            let new = if COMPARES { (old == first).then(|| [operand(5), operand(6)]) } else { Some(first) };
            if let Some(new) = new {
                // SAFETY: as above.
                unsafe { place.write_unaligned(new) };
            }
            [before[0][lane], before[1][lane]] = old;
        }
        for (half, before) in before.iter().enumerate() {
            store_register(warp.register::<u64>(list[half]), mask, before);
        }
        Flow::Next
    }
}

/// The handlers of `atom.exch.b128`.
pub(crate) fn exchange_wide() -> [Handler; 2] {
    handlers(WideAtomic::<false>)
}

/// The handlers of `atom.cas.b128`.
pub(crate) fn compare_wide() -> [Handler; 2] {
    handlers(WideAtomic::<true>)
}
