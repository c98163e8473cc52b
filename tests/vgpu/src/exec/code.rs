//! The form in which kernels run: fixed-size instructions that carry the function that executes them.

use std::collections::HashMap;

use super::warp::Warp;
use super::{Class, Tensor};

/// Executes an instruction for the lanes of a mask, which is never empty.
///
/// # Safety
/// The operands of the instruction lie within the frame and the constants of the warp, and the processor has the features for which the function was
/// compiled. The decoder makes sure of both.
pub(crate) type Handler = unsafe fn(&mut Warp<'_>, &Instruction, u32) -> Flow;

/// How to go on after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// With the next instruction.
    Next,
    /// With the instruction [`Warp::target`].
    Jump,
    /// The running fragment changed or cannot go on: look which one is next.
    Switch,
    /// The kernel did something wrong; [`super::worker::Worker::fault`] says what.
    Fault,
}

/// Where a register or constant lies: the upper bit chooses the bank, the others are an offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Operand(pub u32);

impl Operand {
    /// Marks an offset into the constants of the kernel; others are offsets into the frame of the running function.
    pub const CONSTANT: u32 = 1 << 31;

    /// 0 for registers, 1 for constants.
    #[inline(always)]
    pub fn bank(self) -> usize {
        (self.0 >> 31) as usize
    }

    /// The offset within the bank.
    #[inline(always)]
    pub fn offset(self) -> usize {
        (self.0 & !Operand::CONSTANT) as usize
    }

    /// The predicate that this operand names; the decoder knows which operands do.
    #[inline(always)]
    pub fn predicate(self) -> Predicate {
        Predicate(self.0 as u16)
    }
}

/// A predicate register, perhaps negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Predicate(pub u16);

impl Predicate {
    /// The register that is always true.
    pub const TRUE: Predicate = Predicate(0);
    /// The register that nobody reads.
    pub const SINK: Predicate = Predicate(2);
    /// Registers of every frame that have these meanings.
    pub const RESERVED: u32 = 2;

    /// A predicate register by its place in the frame.
    pub fn new(index: u32, negated: bool) -> Predicate {
        Predicate((index << 1) as u16 | u16::from(negated))
    }

    /// Its place in the frame.
    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 >> 1) as usize
    }

    /// All ones if it is negated.
    #[inline(always)]
    pub fn flip(self) -> u32 {
        0u32.wrapping_sub(u32::from(self.0 & 1))
    }
}

/// One instruction: 64 bytes, a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Instruction {
    /// The functions that execute it: without and with checks.
    pub run: [Handler; 2],
    /// Destinations, then sources. An instruction with more than fit has its operands in [`Code::lists`] from the first of these on.
    pub operands: [Operand; 6],
    /// An offset, a mask, a table: what the handler takes it for.
    pub immediate: u64,
    /// Modifiers that were left to run time.
    pub modifier: u32,
    /// Where branches go, or where lanes meet again.
    pub target: u32,
    /// Which lanes execute it.
    pub guard: Predicate,
    /// What it counts as; `None` for marks that are no instructions of the text.
    pub class: Option<Class>,
}

/// What an instruction was in the text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Origin {
    /// The line, from 1.
    pub line: u32,
    /// As written.
    pub text: Box<str>,
    /// File (an index into [`Code::files`]) and line of the source, from 1; zeros where unknown.
    pub source: (u32, u32),
    /// Index into [`Code::functions`].
    pub function: u32,
}

/// A function within [`Code`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Function {
    /// The name in the text.
    pub name: String,
    /// Its number within the program, by which function pointers go.
    pub number: u32,
    /// Its first instruction.
    pub entry: u32,
    /// Bytes of registers in a frame.
    pub register_bytes: u32,
    /// Predicates of a frame.
    pub predicates: u32,
    /// Bytes of local memory per thread in a frame. The parameters come first, the results after them.
    pub local_bytes: u32,
    /// Where the parameters lie in the local frame: offset and bytes.
    pub parameters: Vec<(u32, u32)>,
    /// Where the results lie in the local frame: offset and bytes.
    pub results: Vec<(u32, u32)>,
}

/// A call site: what is copied between the two local frames.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    /// The function, unless a register holds its address.
    pub function: Option<u32>,
    /// Where the caller's arguments lie in its local frame: offset and bytes.
    pub arguments: Vec<(u32, u32)>,
    /// Where the caller takes results.
    pub results: Vec<(u32, u32)>,
}

/// Constants that are only known at launch: slot, what is added, and the variable or function whose address it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Relocation {
    /// The address of `Program::globals[global]` plus `offset`, into the 64-bit constant at `slot` bytes.
    Global { slot: u32, global: u32, offset: i64 },
    /// The end of the declared shared memory, where the dynamic part begins, into the constant of 32 or 64 bits at `slot`
    /// bytes.
    DynamicShared { slot: u32, offset: i64, is_wide: bool },
}

/// All code that a kernel can reach.
#[derive(Debug, Clone, Default)]
pub(crate) struct Code {
    /// The instructions of all functions.
    pub instructions: Vec<Instruction>,
    /// What they were in the text, one for each.
    pub origins: Vec<Origin>,
    /// Operands of instructions that have many.
    pub lists: Vec<Operand>,
    /// Constants, one value per 4 bytes of a slot of 128 bytes (or 8 of 256): as registers, so that operands are read alike.
    pub constants: Vec<Slot>,
    /// Constants to be filled in at launch.
    pub relocations: Vec<Relocation>,
    /// The kernel is the first.
    pub functions: Vec<Function>,
    /// Call sites, by the immediate of the call instruction.
    pub calls: Vec<Call>,
    /// Targets of branch tables, by the immediate of the branch.
    pub tables: Vec<Vec<u32>>,
    /// Where lines of the source were inlined into a function: file and line, of both.
    pub inlined: HashMap<(u32, (u32, u32)), (u32, u32)>,
    /// Paths of source files.
    pub files: Vec<String>,
    /// Shapes of matrix instructions, by their immediate.
    pub matrices: Vec<super::matrix::MatrixShape>,
    /// Matrices of `wmma`, by what their instruction says.
    pub fragments: Vec<super::fragment::Fragment>,
    /// Shapes of matrix instructions of warpgroups, by their immediate.
    pub groups: Vec<super::matrix::GroupShape>,
    /// Which registers instructions use, by their place; kept where sums of warpgroups may be under way.
    pub uses: HashMap<u32, super::in_flight::Uses>,
    /// What instructions do on tensor cores, by their place.
    pub tensor: HashMap<u32, TensorWork>,
    /// The smallest access to shared memory, in bytes: the granularity of race detection.
    pub shared_granule: u32,
}

/// What an instruction does on tensor cores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TensorWork {
    /// The type of the inputs.
    pub inputs: Tensor,
    /// Operations of one warp; a multiplication and an addition are two.
    pub flop: u64,
    /// Whether it is `wgmma`.
    pub is_warpgroup: bool,
}

/// Room for a 32-bit register of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(128))]
#[derive(Default)]
pub(crate) struct Slot(pub [u32; 32]);

/// Bytes of a [`Slot`].
pub(crate) const SLOT: u32 = 128;
