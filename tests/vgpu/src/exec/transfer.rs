//! The transfers of loads and stores, once their places are known ([`super::access`]): types in memory, and how they sit in registers.

// A lane index addresses several registers at once.
#![allow(clippy::needless_range_loop)]

use super::Class;
use super::access::{Mode, STRONG, addresses, settle, space};
use super::code::{Flow, Handler, Instruction};
use super::semantics::{Environment, Semantics, handlers, store as store_register};
use super::warp::Warp;
use crate::isa::{Value, WARP};

/// A type in memory.
pub(crate) trait Stored: Copy + Default {
    /// What a register holds after it was loaded.
    fn load(self) -> u64;
    /// What is stored of a register.
    fn store(register: u64) -> Self;
}

macro_rules! stored {
    ($($ty:ty: $load:expr;)*) => {$(
        impl Stored for $ty {
            #[inline(always)]
            fn load(self) -> u64 { let load: fn($ty) -> u64 = $load; load(self) }
            #[inline(always)]
            fn store(register: u64) -> $ty { register as $ty }
        }
    )*};
}

stored! {
    u8: |value| value.into();
    u16: |value| value.into();
    u32: |value| value.into();
    u64: |value| value;
    i8: |value| value as u64;
    i16: |value| value as u64;
    i32: |value| value as u64;
}

/// Registers that loads fill and stores empty.
pub(crate) trait Lane: Value<Register = Self> + Default {
    /// The low bits of a value.
    fn low(value: u64) -> Self;
    /// The value.
    fn value(self) -> u64;
}

impl Lane for u32 {
    #[inline(always)]
    fn low(value: u64) -> u32 {
        value as u32
    }
    #[inline(always)]
    fn value(self) -> u64 {
        self.into()
    }
}

impl Lane for u64 {
    #[inline(always)]
    fn low(value: u64) -> u64 {
        value
    }
    #[inline(always)]
    fn value(self) -> u64 {
        self
    }
}

#[derive(Clone, Copy)]
struct Load<T, R, const N: usize>(std::marker::PhantomData<(T, R)>);

impl<T: Stored, R: Lane, const N: usize> Semantics for Load<T, R, N> {
    /// Operands: N destinations, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let mut places = addresses(warp, instruction, instruction.operands[N]);
        let bytes = (size_of::<T>() * N) as u64;
        let space = instruction.modifier & 0xff;
        let mode = if instruction.modifier & STRONG != 0 { Mode::StrongRead } else { Mode::Read };
        let located = match E::locate(warp, instruction, mask, space, &mut places, bytes, mode) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let mut values = [[R::default(); WARP]; N];
        if located.contiguous {
            // SAFETY: `locate` has found all 32 lanes within one allocation, or shared memory, that lives as long as the launch.
            let found = unsafe { located.pointer(places[0]).cast::<[[T; N]; WARP]>().read_unaligned() };
            for lane in 0..WARP {
                for part in 0..N {
                    values[part][lane] = R::low(found[lane][part].load());
                }
            }
        } else {
            for lane in 0..WARP {
                let begin = located.pointer(places[lane]).cast::<T>();
                for (part, values) in values.iter_mut().enumerate() {
                    // SAFETY: as above; lanes that do not take part have the place of one that does.
                    values[lane] = R::low(unsafe { begin.add(part).read_unaligned() }.load());
                }
            }
        }
        for (part, values) in values.iter().enumerate() {
            store_register(warp.register::<R>(instruction.operands[part]), mask, values);
        }
        Flow::Next
    }
}

#[derive(Clone, Copy)]
struct Store<T, R, const N: usize>(std::marker::PhantomData<(T, R)>);

impl<T: Stored, R: Lane, const N: usize> Semantics for Store<T, R, N> {
    /// Operands: N sources, then the address.
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let mut places = addresses(warp, instruction, instruction.operands[N]);
        let bytes = (size_of::<T>() * N) as u64;
        let space = instruction.modifier & 0xff;
        let mode = if instruction.modifier & STRONG != 0 { Mode::StrongWrite } else { Mode::Write };
        let located = match E::locate(warp, instruction, mask, space, &mut places, bytes, mode) {
            Ok(located) => located,
            Err(flow) => return flow,
        };
        let values: [&[R; WARP]; N] = std::array::from_fn(|part| warp.read::<R>(instruction.operands[part]));
        if located.contiguous {
            let mut stored = [[T::default(); N]; WARP];
            for lane in 0..WARP {
                for part in 0..N {
                    stored[lane][part] = T::store(values[part][lane].value());
                }
            }
            // SAFETY: as in `Load`; other threads of the program may write the same bytes, as they may on a GPU.
            unsafe { located.pointer(places[0]).cast::<[[T; N]; WARP]>().write_unaligned(stored) };
        } else {
            for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
                let begin = located.pointer(places[lane]).cast::<T>();
                for (part, values) in values.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { begin.add(part).write_unaligned(T::store(values[lane].value())) };
                }
            }
        }
        if E::WATCHED && warp.state.suspect.is_some() {
            settle(warp, instruction);
        }
        Flow::Next
    }
}

/// The handlers of a load of `count` elements into registers.
pub(crate) fn load<T: Stored, R: Lane>(count: usize) -> Option<[Handler; 2]> {
    use std::marker::PhantomData;
    Some(match count {
        1 => handlers(Load::<T, R, 1>(PhantomData)),
        2 => handlers(Load::<T, R, 2>(PhantomData)),
        4 => handlers(Load::<T, R, 4>(PhantomData)),
        _ => return None,
    })
}

/// The handlers of a store of `count` elements from registers.
pub(crate) fn store<T: Stored, R: Lane>(count: usize) -> Option<[Handler; 2]> {
    use std::marker::PhantomData;
    Some(match count {
        1 => handlers(Store::<T, R, 1>(PhantomData)),
        2 => handlers(Store::<T, R, 2>(PhantomData)),
        4 => handlers(Store::<T, R, 4>(PhantomData)),
        _ => return None,
    })
}

/// The class of an access by its space.
pub(crate) fn class_of(space: u32, stores: bool) -> Class {
    match space {
        space::SHARED => Class::Shared,
        space::LOCAL | space::FRAME | space::PARAM => Class::Local,
        _ if stores => Class::GlobalStore,
        _ => Class::GlobalLoad,
    }
}
