//! Instructions on the way from text to code: handlers are chosen, but registers are still those of the text and branches still go to labels.

use std::collections::HashMap;

use crate::exec::{Class, Handler, Tensor};

/// A function whose instructions are being collected.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The instructions in the order of the text.
    pub steps: Vec<Step>,
    /// What kind each register is.
    pub registers: Vec<Width>,
    /// Where each label stands: before which step.
    pub labels: Vec<Option<u32>>,
    /// Branch tables: lists of labels.
    pub tables: Vec<Vec<Label>>,
    /// Where lines of the source were inlined: file and line, of both.
    pub inlined: HashMap<(u32, u32), (u32, u32)>,
}

/// A register of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Register(pub u32);

/// A label of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(pub u32);

/// Kinds of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// One bit per lane.
    Predicate,
    /// Up to 32 bits per lane.
    Narrow,
    /// 64 bits per lane.
    Wide,
}

/// Whether an operand is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Read.
    Source,
    /// Written.
    Destination,
    /// Read, and written in some bits or under some condition.
    Both,
}

/// An operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field {
    /// Nothing that the handler looks at.
    None,
    /// A register or predicate.
    Register(Register, Role),
    /// A predicate that is read, negated.
    Not(Register),
    /// A predicate with a known value.
    Always(bool),
    /// A predicate that is written and never read.
    Sink,
    /// A constant of up to 32 bits.
    Narrow(u32),
    /// A constant of 64 bits.
    Wide(u64),
    /// The address of a variable in global or constant memory, by its index in the program.
    Global(u32, i64),
    /// The begin of the dynamic shared memory plus an offset, as 32 or 64 bits.
    DynamicShared(i64, Width),
}

/// An instruction.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Its functions.
    pub run: [Handler; 2],
    /// Destinations, then sources.
    pub fields: Vec<Field>,
    /// Whether the handler takes them from a list.
    pub listed: bool,
    /// See [`crate::exec::Instruction`].
    pub immediate: u64,
    /// See [`crate::exec::Instruction`].
    pub modifier: u32,
    /// The lanes that execute it.
    pub guard: Option<(Register, bool)>,
    /// What it counts as.
    pub class: Option<Class>,
    /// How control goes on.
    pub next: Next,
    /// Operations on tensor cores: inputs, number, and whether a warpgroup does them.
    pub tensor: Option<(Tensor, u64, bool)>,
    /// Where it stands in the text.
    pub origin: Place,
}

/// Where a step stands in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Place {
    /// Line of the PTX.
    pub line: u32,
    /// Bytes of the text, as an index into the statements of the function.
    pub statement: u32,
    /// File and line of the source.
    pub source: (u32, u32),
}

/// How control goes on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// To the next one.
    Through,
    /// To the label; if there is a guard, or the next one.
    Branch(Label),
    /// To one of the labels of a table.
    Table(u32),
    /// To the next one after a call at which lanes may separate.
    Meet,
    /// To the next one or, in the lanes that execute it, nowhere.
    End,
    /// The same at a regular end of the kernel: where lanes meet is found as if it led to the last step.
    Finish,
    /// Back to the caller.
    Return,
}
