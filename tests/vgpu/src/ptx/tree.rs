//! The syntax tree.

/// A source file.
#[derive(Debug, Default)]
pub struct Module<'a> {
    /// `.version`.
    pub version: (u32, u32),
    /// The first word of `.target`, such as `sm_90a`.
    pub target: &'a str,
    /// `.address_size`: 32 or 64.
    pub address_size: u32,
    /// Variables in the order of the text.
    pub variables: Vec<Variable<'a>>,
    /// Functions with and without a body in the order of the text.
    pub functions: Vec<Function<'a>>,
    /// `.alias` directives: the new name and what it stands for.
    pub aliases: Vec<(&'a str, &'a str)>,
    /// `.file` directives: number and path.
    pub files: Vec<(u32, &'a str)>,
}

/// Who sees a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    /// This source only.
    #[default]
    Private,
    /// Defined here for all sources: `.visible`.
    Visible,
    /// Defined in another source: `.extern`.
    Extern,
    /// Defined here unless another source defines it: `.weak`.
    Weak,
    /// One of several equal definitions: `.common`.
    Common,
}

/// State spaces of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateSpace {
    /// `.reg`.
    Register,
    /// `.global`.
    Global,
    /// `.const`.
    Const,
    /// `.shared`.
    Shared,
    /// `.local`.
    Local,
    /// `.param`.
    Param,
}

/// Fundamental types of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// What the bits mean.
    pub kind: TypeKind,
    /// How many there are; 1 for predicates.
    pub bits: u32,
}

/// What the bits of a [`Type`] mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeKind {
    /// `.pred`.
    Predicate,
    /// `.b8` ...
    Bits,
    /// `.u8` ...
    Unsigned,
    /// `.s8` ...
    Signed,
    /// `.f32` ...; packed types too.
    Float,
}

impl Type {
    /// Reads the name of a fundamental type, without its dot.
    pub fn parse(name: &str) -> Option<Type> {
        let (kind, bits) = match name {
            "pred" => (TypeKind::Predicate, 1),
            "b8" => (TypeKind::Bits, 8),
            "b16" => (TypeKind::Bits, 16),
            "b32" => (TypeKind::Bits, 32),
            "b64" => (TypeKind::Bits, 64),
            "b128" => (TypeKind::Bits, 128),
            "u8" => (TypeKind::Unsigned, 8),
            "u16" => (TypeKind::Unsigned, 16),
            "u32" => (TypeKind::Unsigned, 32),
            "u64" => (TypeKind::Unsigned, 64),
            "s8" => (TypeKind::Signed, 8),
            "s16" => (TypeKind::Signed, 16),
            "s32" => (TypeKind::Signed, 32),
            "s64" => (TypeKind::Signed, 64),
            "f16" | "bf16" => (TypeKind::Float, 16),
            "f16x2" | "bf16x2" | "f32" | "tf32" => (TypeKind::Float, 32),
            "f64" | "f32x2" => (TypeKind::Float, 64),
            _ => return None,
        };
        Some(Type { kind, bits })
    }

    /// Bytes in memory; 0 for predicates, which have no place there.
    pub fn bytes(self) -> u32 {
        self.bits / 8
    }
}

/// A variable, a parameter or a family of registers.
#[derive(Debug, Clone)]
pub struct Variable<'a> {
    /// Who sees it.
    pub linkage: Linkage,
    /// Where it lives.
    pub space: StateSpace,
    /// `.align`, or the size of an element.
    pub align: u32,
    /// Elements of the vector type: 1, 2 or 4.
    pub vector: u32,
    /// The type of an element.
    pub ty: Type,
    /// The name; a placeholder `_` in prototypes.
    pub name: &'a str,
    /// Elements of the array, all dimensions multiplied; `None` where the first has no size, as in `extern .shared`.
    pub elements: Option<u64>,
    /// Whether brackets follow the name.
    pub is_array: bool,
    /// For registers declared as `%r<10>`: 10.
    pub family: Option<u32>,
    /// The initial values, flattened; missing ones are zero.
    pub init: Vec<Initial<'a>>,
    /// The line of the name.
    pub line: u32,
}

impl Variable<'_> {
    /// Its bytes; `None` where it has no size.
    pub fn bytes(&self) -> Option<u64> {
        let element = u64::from(self.ty.bytes()) * u64::from(self.vector);
        self.elements.and_then(|elements| elements.checked_mul(element))
    }
}

/// An initial value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial<'a> {
    /// A number.
    Integer(u64),
    /// Bits of an f32.
    Single(u32),
    /// A double.
    Double(f64),
    /// The address of a variable or function plus an offset; of which `mask` selects one byte, if there is one.
    Symbol { name: &'a str, offset: i64, mask: Option<u64> },
}

/// A `.func` or `.entry`.
#[derive(Debug, Clone)]
pub struct Function<'a> {
    /// Whether the host can launch it.
    pub is_entry: bool,
    /// Who sees it.
    pub linkage: Linkage,
    /// The name.
    pub name: &'a str,
    /// What it returns; empty for entries.
    pub returns: Vec<Variable<'a>>,
    /// The parameters.
    pub params: Vec<Variable<'a>>,
    /// Performance directives such as `.maxntid` with their numbers.
    pub limits: Vec<(&'a str, Vec<u64>)>,
    /// The body, unless this is a declaration.
    pub body: Option<Vec<Statement<'a>>>,
    /// The line of the name.
    pub line: u32,
}

/// A statement of a body.
#[derive(Debug, Clone)]
pub enum Statement<'a> {
    /// `{`.
    Open,
    /// `}`.
    Close,
    /// `name:`.
    Label(&'a str, u32),
    /// Registers and variables of the function.
    Variable(Variable<'a>),
    /// An instruction.
    Instruction(Instruction<'a>),
    /// `.loc`: file and line, and where this was inlined.
    Location((u32, u32), Option<(u32, u32)>),
    /// `.branchtargets` or `.calltargets` under the label before it.
    Targets(&'a str, Vec<&'a str>),
    /// `.callprototype` under the label before it: what is returned and what is passed.
    Prototype(&'a str, Vec<Variable<'a>>, Vec<Variable<'a>>),
}

/// An instruction.
#[derive(Debug, Clone)]
pub struct Instruction<'a> {
    /// The predicate before it, and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    /// The opcode with all modifiers.
    pub opcode: &'a str,
    /// The operands.
    pub operands: Vec<Operand<'a>>,
    /// All of it as written.
    pub text: &'a str,
    /// The line of the opcode.
    pub line: u32,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// A register, variable, label or function, with what is added to it.
    Name(&'a str, i64),
    /// An integer; negative ones in two's complement.
    Integer(u64),
    /// Bits of an f32.
    Single(u32),
    /// A double.
    Double(f64),
    /// `!p`.
    Not(&'a str),
    /// A register with a minus in front of it.
    Negated(&'a str),
    /// `d|p`.
    Pair(&'a str, &'a str),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `(a, b)`: the parameters of a call.
    List(Vec<Operand<'a>>),
    /// `[a]` or, for tensors, `[a, {x, y}]` and `[a, {x, y}, offsets]`.
    Address(Vec<Operand<'a>>),
}

/// Why a text is not PTX.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}: `{text}`")]
pub struct SyntaxError {
    /// The function that holds it, if any.
    pub function: Option<String>,
    /// From 1.
    pub line: u32,
    /// The line or instruction.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}
