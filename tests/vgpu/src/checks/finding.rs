//! A finding: one fault of a program, with everything that is known about it.

use std::fmt;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An access outside every live allocation.
    OutOfBounds,
    /// An access to an allocation that was freed.
    UseAfterFree,
    /// An access in the first page of the address space.
    NullPointer,
    /// An access outside the block's shared memory, the thread's local memory, or a kernel's constants and parameters.
    OutOfSpace,
    /// A store to constant memory or through a read-only path to memory that the launch writes.
    ReadOnly,
    /// An address that is no multiple of the access size.
    Misaligned,
    /// A read of bytes that nobody ever wrote.
    Uninitialised,
    /// Two warps touch a word of shared memory, one of them writing, with no barrier between.
    SharedRace,
    /// Two lanes of a warp touch a word of shared memory, one of them writing, with no warp synchronisation between.
    WarpRace,
    /// Two blocks touch a word of global memory, one of them writing, and not atomically.
    GlobalRace,
    /// The target of an asynchronous copy is read before a wait that makes it visible.
    AsyncReadEarly,
    /// The target of a pending asynchronous copy is written, or its source changed.
    AsyncOverwrite,
    /// Asynchronous copies are still pending when the thread ends.
    AsyncNeverWaited,
    /// An asynchronous operation reads what ordinary stores wrote, or fills registers, without the fence that orders the two.
    MissingFence,
    /// Threads of one warp reach different barriers, or some never reach the barrier.
    DivergentBarrier,
    /// Warps disagree about how many threads a barrier waits for, or the number is impossible.
    BarrierCount,
    /// A warp collective names lanes that do not take part in it.
    CollectiveMask,
    /// Warps wait for something that cannot happen any more.
    Deadlock,
    /// `trap`, `brkpt`, or a failed assertion of the program.
    Trap,
    /// Operands that the instruction forbids.
    InvalidOperand,
    /// A call to a function pointer that is none, or calls nested too deep.
    InvalidCall,
    /// A kernel that does not end.
    Timeout,
    /// A launch that the described GPU would refuse.
    LaunchLimit,
    /// A pointer was freed that is not, or no longer, an allocation.
    InvalidFree,
    /// Something still exists when the process ends.
    Leak,
}

impl Kind {
    /// A short name, stable for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out-of-bounds",
            Kind::UseAfterFree => "use-after-free",
            Kind::NullPointer => "null-pointer",
            Kind::OutOfSpace => "out-of-space",
            Kind::ReadOnly => "read-only",
            Kind::Misaligned => "misaligned",
            Kind::Uninitialised => "uninitialised",
            Kind::SharedRace => "shared-race",
            Kind::WarpRace => "warp-race",
            Kind::GlobalRace => "global-race",
            Kind::AsyncReadEarly => "async-read-early",
            Kind::AsyncOverwrite => "async-overwrite",
            Kind::AsyncNeverWaited => "async-never-waited",
            Kind::MissingFence => "missing-fence",
            Kind::DivergentBarrier => "divergent-barrier",
            Kind::BarrierCount => "barrier-count",
            Kind::CollectiveMask => "collective-mask",
            Kind::Deadlock => "deadlock",
            Kind::Trap => "trap",
            Kind::InvalidOperand => "invalid-operand",
            Kind::InvalidCall => "invalid-call",
            Kind::Timeout => "timeout",
            Kind::LaunchLimit => "launch-limit",
            Kind::InvalidFree => "invalid-free",
            Kind::Leak => "leak",
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "guard the access with the length, or allocate what the index reaches",
            Kind::UseAfterFree => {
                "free after the last launch that uses it has finished, or order the free on the same stream"
            }
            Kind::NullPointer => {
                "check that the argument was set, and that the arguments have the order and types of the kernel's parameters"
            }
            Kind::OutOfSpace => "check the index, and the dynamic shared memory that the launch asks for",
            Kind::ReadOnly => "load with plain ld.global what the launch itself writes",
            Kind::Misaligned => {
                "keep vector accesses at multiples of their size: pad the row, or fall back to narrow accesses"
            }
            Kind::Uninitialised => "write it before: cuMemset, a copy, or a kernel that covers the whole range",
            Kind::SharedRace => "put a barrier (__syncthreads) between the write and the other access",
            Kind::WarpRace => "put __syncwarp between the write and the other access; lanes are not in lock step",
            Kind::GlobalRace => "use atomics, or let one block own the word",
            Kind::AsyncReadEarly => {
                "wait for the copy (cp.async.wait_group, mbarrier) and then synchronise with the threads that read it"
            }
            Kind::AsyncOverwrite => "wait for the copy before the buffer is used again",
            Kind::AsyncNeverWaited => "end with cp.async.wait_all, or cp.async.bulk.wait_group.read 0",
            Kind::MissingFence => {
                "put fence.proxy.async between the stores and the barrier behind which TMA or wgmma reads, and wgmma.fence before products"
            }
            Kind::DivergentBarrier => "move the barrier out of the branch, so that all threads reach it",
            Kind::BarrierCount => "give each barrier one thread count, a multiple of 32, in all the warps that use it",
            Kind::CollectiveMask => "pass the mask of the lanes that reach the instruction, computed before the branch",
            Kind::Deadlock => "check that each barrier and mbarrier gets all the arrivals that it waits for",
            Kind::Trap => "see the kernel's own condition at this line",
            Kind::InvalidOperand => "see the instruction's restrictions in the PTX ISA",
            Kind::InvalidCall => "check the function pointer, and the depth of the recursion (cuCtxSetLimit)",
            Kind::Timeout => "check the loop's condition",
            Kind::LaunchLimit => {
                "use fewer threads, registers or bytes of shared memory; dynamic shared memory beyond 48 KiB needs the function attribute"
            }
            Kind::InvalidFree => "free each allocation once, by the address that the allocation returned",
            Kind::Leak => "free it, or drop its owner, before the process ends",
        }
    }
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Device memory.
    Global,
    /// The block's shared memory, or another's in the cluster.
    Shared,
    /// The thread's own memory.
    Local,
    /// Constant variables.
    Constant,
    /// Kernel and function parameters.
    Parameter,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Constant => "constant",
            Space::Parameter => "parameter",
        })
    }
}

/// A line of the program from which the PTX was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Path as the compiler wrote it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// Where in a launch a fault happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Name of the kernel; of the function too where it is another.
    pub kernel: String,
    /// Line of the PTX text, from 1; 0 when no instruction is to blame.
    pub line: u32,
    /// The instruction as written.
    pub instruction: String,
    /// Line of the source, where the compiler left it.
    pub source: Option<Source>,
    /// The calls through which that line came to be in the function, innermost first.
    pub inlined_at: Vec<Source>,
    /// Block in the grid.
    pub block: [u32; 3],
    /// Thread in the block: the first one of those to which it happened.
    pub thread: [u32; 3],
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// Where; `None` for what happens outside kernels (a leak, an invalid free).
    pub place: Option<Place>,
    /// Address and its space, where there is one.
    pub address: Option<(Space, u64)>,
    /// Bytes of the access.
    pub bytes: u32,
    /// One sentence on the facts: whose bound was left by how much, who wrote the word, which threads are missing.
    pub detail: String,
    /// How often the same happened at the same instruction.
    pub count: u64,
}

impl Finding {
    /// A finding inside a kernel.
    pub fn new(kind: Kind, place: Place, detail: impl Into<String>) -> Finding {
        Finding { kind, place: Some(place), address: None, bytes: 0, detail: detail.into(), count: 1 }
    }

    /// A finding outside kernels.
    pub fn outside(kind: Kind, detail: impl Into<String>) -> Finding {
        Finding { kind, place: None, address: None, bytes: 0, detail: detail.into(), count: 1 }
    }

    /// Adds the address and size of the access.
    pub fn at(mut self, space: Space, address: u64, bytes: u32) -> Finding {
        self.address = Some((space, address));
        self.bytes = bytes;
        self
    }
}

impl fmt::Display for Finding {
    /// Several lines, without a final line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vgpu: {}", self.kind.name())?;
        if let Some(place) = &self.place {
            write!(f, " in kernel `{}`", place.kernel)?;
        }
        write!(f, ": {}", self.detail)?;
        if let Some(place) = &self.place {
            if place.line > 0 {
                write!(f, "\n  at PTX line {}: {}", place.line, place.instruction)?;
            }
            if let Some(source) = &place.source {
                write!(f, "\n  from {}:{}", source.file, source.line)?;
            }
            for caller in &place.inlined_at {
                write!(f, ", called at {}:{}", caller.file, caller.line)?;
            }
            let [bx, by, bz] = place.block;
            let [tx, ty, tz] = place.thread;
            write!(f, "\n  block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")?;
        }
        if let Some((space, address)) = self.address {
            write!(
                f,
                "\n  {space} address {address:#x}, {} byte{}",
                self.bytes,
                if self.bytes == 1 { "" } else { "s" }
            )?;
        }
        if self.count > 1 {
            write!(f, "\n  {} times in all at this instruction", self.count)?;
        }
        write!(f, "\n  remedy: {}", self.kind.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_tells_everything() {
        let place = Place {
            kernel: "scale".into(),
            line: 41,
            instruction: "st.global.f32 [%rd4], %f2;".into(),
            source: Some(Source { file: "scale.cu".into(), line: 7 }),
            inlined_at: Vec::new(),
            block: [3, 0, 0],
            thread: [31, 1, 0],
        };
        let finding =
            Finding::new(Kind::OutOfBounds, place, "just past the end of allocation 2").at(Space::Global, 0x1000, 4);
        assert_eq!(
            finding.to_string(),
            "vgpu: out-of-bounds in kernel `scale`: just past the end of allocation 2\n  \
             at PTX line 41: st.global.f32 [%rd4], %f2;\n  from scale.cu:7\n  block (3, 0, 0), thread (31, 1, 0)\n  \
             global address 0x1000, 4 bytes\n  remedy: guard the access with the length, or allocate what the index reaches"
        );
        let leak = Finding::outside(Kind::Leak, "allocation 1 (64 bytes at 0x100) was never freed");
        assert!(leak.to_string().starts_with("vgpu: leak: allocation 1"));
    }
}
