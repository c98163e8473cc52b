//! From the meaning of an instruction to the functions that execute it.
//!
//! The decoder writes `map2(|a: u32, b: u32| a.wrapping_add(b))` and gets handlers that apply this to the active lanes of whole registers. Each is compiled
//! three times from the same source, for the plain x86-64 baseline, for AVX2 and for AVX-512, and the right one is chosen when a module is loaded. (Other
//! architectures have the baseline alone.) A closure that captures nothing has no size, so that its type alone says what to run and an instruction needs no more
//! than a function pointer.

use std::marker::PhantomData;

use super::access::{Located, Mode, locate};
use super::code::{Flow, Handler, Instruction};
use super::warp::Warp;
use crate::isa::{self, Lanes64, Value, WARP};

/// What an instruction does. Implemented by types without size.
pub(crate) trait Semantics: Copy {
    /// Executes the instruction.
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow;
}

/// How an instruction is executed: for which processor, and with what care.
pub(crate) trait Environment {
    /// Whether checks and memory counters are on.
    const WATCHED: bool;

    /// [`locate`], which is too large to be part of every instruction, for this processor.
    fn locate(
        warp: &mut Warp<'_>,
        instruction: &Instruction,
        mask: u32,
        space: u32,
        addresses: &mut Lanes64,
        bytes: u64,
        mode: Mode,
    ) -> Result<Located, Flow>;
}

/// The functions for [`Instruction::run`] that execute `semantics` on this processor, without and with checks.
pub(crate) fn handlers<S: Semantics>(_: S) -> [Handler; 2] {
    const { assert!(size_of::<S>() == 0, "the type alone must say what to run") };
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => [on_avx512::<S, Avx512<false>>, on_avx512::<S, Avx512<true>>],
        #[cfg(all(target_arch = "x86_64", feature = "portable"))]
        Level::Avx2 => [on_avx2::<S, Avx2<false>>, on_avx2::<S, Avx2<true>>],
        #[cfg(any(not(target_arch = "x86_64"), feature = "portable"))]
        Level::Baseline => [on_baseline::<S, Baseline<false>>, on_baseline::<S, Baseline<true>>],
    }
}

/// The functions for an instruction that has nothing to check.
fn same_handlers<S: Semantics>(_: S) -> [Handler; 2] {
    const { assert!(size_of::<S>() == 0, "the type alone must say what to run") };
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => [on_avx512::<S, Avx512<false>>; 2],
        #[cfg(all(target_arch = "x86_64", feature = "portable"))]
        Level::Avx2 => [on_avx2::<S, Avx2<false>>; 2],
        #[cfg(any(not(target_arch = "x86_64"), feature = "portable"))]
        Level::Baseline => [on_baseline::<S, Baseline<false>>; 2],
    }
}

/// Which instructions of the processor are used. Without the feature `portable` the crate is built for AVX-512 alone, in a third of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(all(target_arch = "x86_64", feature = "portable"))]
    Avx2,
    #[cfg(any(not(target_arch = "x86_64"), feature = "portable"))]
    Baseline,
}

fn level() -> Level {
    use crate::isa::matrix::Level as Found;
    match Found::best() {
        #[cfg(target_arch = "x86_64")]
        Found::Avx512 => Level::Avx512,
        #[cfg(all(target_arch = "x86_64", feature = "portable"))]
        Found::Avx2 => Level::Avx2,
        #[cfg(any(not(target_arch = "x86_64"), feature = "portable"))]
        _ => Level::Baseline,
        #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
        _ => panic!("built without the feature `portable`, which this processor (or VGPU_INSTRUCTIONS) needs"),
    }
}

/// The value of a type without size.
#[inline(always)]
fn value<S: Semantics>() -> S {
    // SAFETY: `handlers`, the only way to here, takes such a value as proof that the type is inhabited, and checks that it has no size: nothing is read.
    unsafe { std::ptr::NonNull::<S>::dangling().read() }
}

macro_rules! environment {
    ($environment:ident, $run:ident, $locate:ident, $condition:meta $(, $features:literal)?) => {
        #[$condition]
        struct $environment<const WATCHED: bool>;

        #[$condition]
        impl<const WATCHED: bool> Environment for $environment<WATCHED> {
            const WATCHED: bool = WATCHED;

            #[inline(always)]
            fn locate(
                warp: &mut Warp<'_>,
                instruction: &Instruction,
                mask: u32,
                space: u32,
                addresses: &mut Lanes64,
                bytes: u64,
                mode: Mode,
            ) -> Result<Located, Flow> {
                // SAFETY: only functions for this processor, which `handlers` chose after detection, name this environment.
                unsafe { $locate::<WATCHED>(warp, instruction, mask, space, addresses, bytes, mode) }
            }
        }

        #[$condition]
        $(#[target_feature(enable = $features)])?
        #[inline(never)]
        unsafe fn $locate<const WATCHED: bool>(
            warp: &mut Warp<'_>,
            instruction: &Instruction,
            mask: u32,
            space: u32,
            addresses: &mut Lanes64,
            bytes: u64,
            mode: Mode,
        ) -> Result<Located, Flow> {
            locate::<WATCHED>(warp, instruction, mask, space, addresses, bytes, mode)
        }

        #[$condition]
        $(#[target_feature(enable = $features)])?
        unsafe fn $run<S: Semantics, E: Environment>(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
            value::<S>().run::<E>(warp, instruction, mask)
        }
    };
}

environment!(
    Avx512,
    on_avx512,
    locate_on_avx512,
    cfg(target_arch = "x86_64"),
    "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
);
environment!(
    Avx2,
    on_avx2,
    locate_on_avx2,
    cfg(all(target_arch = "x86_64", feature = "portable")),
    "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
);
environment!(Baseline, on_baseline, locate_on_baseline, cfg(any(not(target_arch = "x86_64"), feature = "portable")));

/// Writes the lanes of `mask` to a register.
#[inline(always)]
pub(crate) fn store<R: Copy>(destination: *mut [R; WARP], mask: u32, result: &[R; WARP]) {
    // SAFETY: the caller's pointer is a register of the running warp, see `Warp::register`.
    let destination = unsafe { &mut *destination };
    if mask == u32::MAX {
        *destination = *result;
    } else {
        for lane in 0..WARP {
            destination[lane] = if mask & BITS[lane] != 0 { result[lane] } else { destination[lane] };
        }
    }
}

/// The bit of each lane: a constant vector where shifts by a variable amount would have to be computed.
pub(crate) const BITS: [u32; WARP] = {
    let mut bits = [0; WARP];
    let mut lane = 0;
    while lane < WARP {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

macro_rules! map {
    ($name:ident, $type:ident, $doc:literal, $($argument:ident: $register:ident at $index:literal),*) => {
        #[derive(Clone, Copy)]
        struct $type<F, R, $($register),*>(F, PhantomData<(R, $($register),*)>);

        impl<F: Fn(u32, $($register),*) -> R + Copy, R: Value, $($register: Value),*> Semantics for $type<F, R, $($register),*> {
            #[inline(always)]
            fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
                $(let $argument = warp.read::<$register>(instruction.operands[$index]);)*
                let modifier = instruction.modifier;
                let mut result = [R::Register::default(); WARP];
                for lane in 0..WARP {
                    result[lane] = (self.0)(modifier, $($register::read($argument[lane])),*).write();
                }
                store(warp.register::<R::Register>(instruction.operands[0]), mask, &result);
                Flow::Next
            }
        }

        #[doc = $doc]
        pub(crate) fn $name<F: Fn(u32, $($register),*) -> R + Copy, R: Value, $($register: Value),*>(f: F) -> [Handler; 2] {
            same_handlers($type(f, PhantomData))
        }
    };
}

map!(map1, Map1, "`d = f(modifier, a)` in every lane.", a: A at 1);
map!(map2, Map2, "`d = f(modifier, a, b)` in every lane.", a: A at 1, b: B at 2);
map!(map3, Map3, "`d = f(modifier, a, b, c)` in every lane.", a: A at 1, b: B at 2, c: C at 3);
map!(map4, Map4, "`d = f(modifier, a, b, c, e)` in every lane.", a: A at 1, b: B at 2, c: C at 3, e: D at 4);

#[derive(Clone, Copy)]
struct Test<F, A, B>(F, PhantomData<(A, B)>);

impl<F: Fn(u32, A, B) -> bool + Copy, A: Value, B: Value> Semantics for Test<F, A, B> {
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let (a, b) = (warp.read::<A>(instruction.operands[2]), warp.read::<B>(instruction.operands[3]));
        let modifier = instruction.modifier;
        let holds = isa::mask_of(|lane| (self.0)(modifier, A::read(a[lane]), B::read(b[lane])));
        warp.set_predicates(instruction, mask, holds);
        Flow::Next
    }
}

/// `p = f(modifier, a, b)` and `q = !f(modifier, a, b)`, each combined with a third predicate as [`Warp::set_predicates`] tells.
pub(crate) fn test<F: Fn(u32, A, B) -> bool + Copy, A: Value, B: Value>(f: F) -> [Handler; 2] {
    same_handlers(Test(f, PhantomData))
}

#[derive(Clone, Copy)]
struct Act<F>(F);

impl<F: Fn(&mut Warp<'_>, &Instruction, u32) -> Flow + Copy> Semantics for Act<F> {
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        (self.0)(warp, instruction, mask)
    }
}

/// An instruction that looks at the warp as a whole.
pub(crate) fn act<F: Fn(&mut Warp<'_>, &Instruction, u32) -> Flow + Copy>(f: F) -> [Handler; 2] {
    same_handlers(Act(f))
}

#[derive(Clone, Copy)]
struct Test1<F, A>(F, PhantomData<A>);

impl<F: Fn(u32, A) -> bool + Copy, A: Value> Semantics for Test1<F, A> {
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let a = warp.read::<A>(instruction.operands[2]);
        let holds = isa::mask_of(|lane| (self.0)(instruction.modifier & 0xff_ffff, A::read(a[lane])));
        warp.set_predicates(instruction, mask, holds);
        Flow::Next
    }
}

/// `p = f(modifier, a)`, with the operands of [`test`].
pub(crate) fn test1<F: Fn(u32, A) -> bool + Copy, A: Value>(f: F) -> [Handler; 2] {
    same_handlers(Test1(f, PhantomData))
}

#[derive(Clone, Copy)]
struct Select<R>(PhantomData<R>);

impl<R: Value<Register = R>> Semantics for Select<R> {
    #[inline(always)]
    fn run<E: Environment>(self, warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
        let [d, a, b, p, ..] = instruction.operands;
        let (a, b, chosen) = (warp.read::<R>(a), warp.read::<R>(b), warp.predicate(p.predicate()));
        let mut result = *b;
        for lane in 0..WARP {
            result[lane] = if chosen & BITS[lane] != 0 { a[lane] } else { b[lane] };
        }
        store(warp.register::<R>(d), mask, &result);
        Flow::Next
    }
}

/// `selp`: operands are the destination, the two values, and the predicate.
pub(crate) fn select<R: Value<Register = R>>() -> [Handler; 2] {
    same_handlers(Select::<R>(PhantomData))
}

/// `and`, `or`, `xor`, `not` of predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PredicateLogic {
    And,
    Or,
    Xor,
    Not,
}

/// The handlers of logic on predicates.
pub(crate) fn predicate_logic(logic: PredicateLogic) -> [Handler; 2] {
    macro_rules! of {
        (|$a:ident, $b:ident| $result:expr) => {
            act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
                let [d, a, b, ..] = instruction.operands.map(|operand| operand.predicate());
                let ($a, $b) = (warp.predicate(a), warp.predicate(b));
                warp.set_predicate(d, mask, $result);
                Flow::Next
            })
        };
    }
    match logic {
        PredicateLogic::And => of!(|a, b| a & b),
        PredicateLogic::Or => of!(|a, b| a | b),
        PredicateLogic::Xor => of!(|a, b| a ^ b),
        PredicateLogic::Not => predicate_not(),
    }
}

fn predicate_not() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        let [d, a, ..] = instruction.operands.map(|operand| operand.predicate());
        let holds = !warp.predicate(a);
        warp.set_predicate(d, mask, holds);
        Flow::Next
    })
}

/// `mov.pred`.
pub(crate) fn predicate_move() -> [Handler; 2] {
    act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
        let [d, a, ..] = instruction.operands.map(|operand| operand.predicate());
        let holds = warp.predicate(a);
        warp.set_predicate(d, mask, holds);
        Flow::Next
    })
}

/// What a step of a carry chain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carry {
    Add,
    Subtract,
}

/// The handlers of a step of a carry chain: operands are the destination, the two values, and the carry as a predicate. Bit 0 of the modifier says that the carry is
/// read, bit 1 that it is written.
pub(crate) fn carry(step: Carry, is_wide: bool) -> [Handler; 2] {
    use crate::isa::integer::{add_carry, add_carry64, sub_borrow, sub_borrow64};
    macro_rules! of {
        ($ty:ty, $operation:ident) => {
            act(|warp: &mut Warp<'_>, instruction: &Instruction, mask: u32| {
                let [d, a, b, carry, ..] = instruction.operands;
                let (a, b) = (warp.read::<$ty>(a), warp.read::<$ty>(b));
                let incoming = if instruction.modifier & 1 != 0 { warp.predicate(carry.predicate()) } else { 0 };
                let (mut result, mut outgoing) = ([0; WARP], 0);
                for lane in 0..WARP {
                    let (sum, over) = $operation(a[lane], b[lane], incoming >> lane & 1 != 0);
                    result[lane] = sum;
                    outgoing |= u32::from(over) << lane;
                }
                store(warp.register::<$ty>(d), mask, &result);
                if instruction.modifier & 2 != 0 {
                    warp.set_predicate(carry.predicate(), mask, outgoing);
                }
                Flow::Next
            })
        };
    }
    match (step, is_wide) {
        (Carry::Add, false) => of!(u32, add_carry),
        (Carry::Subtract, false) => of!(u32, sub_borrow),
        (Carry::Add, true) => of!(u64, add_carry64),
        (Carry::Subtract, true) => of!(u64, sub_borrow64),
    }
}
