//! The body of a function to a [`Draft`]: names, registers, variables and labels. What each instruction means is in [`super::decode`].

use std::collections::HashMap;

use super::LoadErrorKind;
use super::draft::{Draft, Field, Label, Next, Place, Register, Step, Width};
use super::kernel::Builder;
use super::opcode::Opcode;
use crate::exec::{Class, Handler};
use crate::ptx::{Function, Instruction, StateSpace, Statement, Type, TypeKind, Variable};

/// Why an instruction cannot be decoded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reason {
    /// What is wrong with it.
    pub text: String,
    /// Which error that is.
    pub kind: LoadErrorKind,
}

impl Reason {
    /// Something that the virtual GPU does not implement.
    pub fn unsupported(text: impl Into<String>) -> Reason {
        Reason { text: text.into(), kind: LoadErrorKind::Unsupported }
    }

    /// Something that is not PTX.
    pub fn syntax(text: impl Into<String>) -> Reason {
        Reason { text: text.into(), kind: LoadErrorKind::Syntax }
    }
}

/// What a name within a function stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entity {
    /// A family of registers: the first, how many, and elements of each (vectors take consecutive registers).
    Registers { first: Register, count: u32, vector: u32 },
    /// A family of registers of 128 bits: the first half of the first, and how many. Each is two of 64 bits, the lower one first.
    Pairs { first: Register, count: u32 },
    /// A variable at a fixed place of its space: shared, local, or a parameter of the kernel.
    Variable { space: StateSpace, offset: u32, bytes: u32 },
    /// A label.
    Label(Label),
}

/// A function whose body is being decoded.
pub(super) struct Body<'b, 'a> {
    /// The kernel for which it is decoded.
    pub builder: &'b mut Builder<'a>,
    /// The source that it is in.
    pub module: usize,
    /// The version of PTX that the source says it is.
    pub version: (u32, u32),
    /// Whether it is the kernel itself.
    pub is_entry: bool,
    /// The result.
    pub draft: Draft,
    /// Names by scope, the innermost last.
    scopes: Vec<Scope<'a>>,
    /// Lists under labels.
    targets: HashMap<&'a str, &'a [&'a str]>,
    /// The guard, class and place of the instruction that is being decoded.
    guard: Option<(Register, bool)>,
    class: Class,
    place: Place,
    /// Bytes of the local frame that are in use, and the most that ever were.
    local: u32,
    pub local_bytes: u32,
    /// Where parameters and results lie in the local frame.
    pub parameters: Vec<(u32, u32)>,
    pub results: Vec<(u32, u32)>,
    /// Where all returns go.
    epilogue: Label,
    /// The carry of `add.cc` and its like.
    pub(super) carry: Option<Register>,
    /// Addresses of the instruction are those of multicast objects.
    pub(super) is_multicast: bool,
}

struct Scope<'a> {
    names: HashMap<&'a str, Entity>,
    local: u32,
}

impl<'b, 'a> Body<'b, 'a> {
    /// Decodes a function. On errors the index of the statement comes with the reason.
    pub fn decode(
        builder: &'b mut Builder<'a>,
        (module, version): (usize, (u32, u32)),
        function: &'a Function<'a>,
    ) -> Result<Body<'b, 'a>, (Option<usize>, Reason)> {
        let mut body = Body {
            builder,
            module,
            version,
            is_entry: function.is_entry,
            draft: Draft::default(),
            scopes: vec![Scope { names: HashMap::new(), local: 0 }],
            targets: HashMap::new(),
            guard: None,
            class: Class::Control,
            place: Place { line: function.line, ..Place::default() },
            local: 0,
            local_bytes: 0,
            parameters: Vec::new(),
            results: Vec::new(),
            epilogue: Label(0),
            carry: None,
            is_multicast: false,
        };
        body.epilogue = body.new_label();
        body.declare_interface(function).map_err(|reason| (None, reason))?;
        let statements = function.body.as_deref().unwrap_or_default();
        let (labels, targets) = names_of_scopes(statements);
        body.targets = targets;
        let mut scopes = labels.iter().map(Vec::as_slice);
        body.declare_labels(scopes.next().unwrap_or_default());
        for (index, statement) in statements.iter().enumerate() {
            body.place.statement = index as u32;
            body.statement(statement, index).map_err(|reason| (Some(index), reason))?;
            if matches!(statement, Statement::Open) {
                body.declare_labels(scopes.next().unwrap_or_default());
            }
        }
        body.epilogue(function.line);
        Ok(body)
    }

    fn declare_interface(&mut self, function: &'a Function<'a>) -> Result<(), Reason> {
        if self.is_entry {
            let mut offset = 0u32;
            for variable in &function.params {
                let bytes = size_of_variable(variable)?;
                offset = offset.checked_next_multiple_of(variable.align).unwrap_or(u32::MAX);
                self.declare(variable.name, Entity::Variable { space: StateSpace::Param, offset, bytes });
                offset = offset.saturating_add(bytes);
            }
            return Ok(());
        }
        for (variables, is_result) in [(&function.params, false), (&function.returns, true)] {
            for variable in variables {
                let bytes = size_of_variable(variable)?.max(variable.ty.bytes());
                let offset = self.take_local(bytes, variable.align);
                if variable.space == StateSpace::Register {
                    return Err(Reason::unsupported("parameters in registers"));
                }
                self.declare(variable.name, Entity::Variable { space: StateSpace::Local, offset, bytes });
                if is_result { &mut self.results } else { &mut self.parameters }.push((offset, bytes));
            }
        }
        Ok(())
    }

    /// Declares the labels of the scope that begins. Labels may be used before they stand.
    fn declare_labels(&mut self, labels: &[&'a str]) {
        for name in labels {
            let label = self.new_label();
            self.declare(name, Entity::Label(label));
        }
    }

    fn statement(&mut self, statement: &'a Statement<'a>, index: usize) -> Result<(), Reason> {
        match statement {
            Statement::Open => self.scopes.push(Scope { names: HashMap::new(), local: self.local }),
            Statement::Close => {
                if self.scopes.len() > 1 {
                    self.local = self.scopes.pop().map_or(0, |scope| scope.local);
                }
            }
            Statement::Label(name, _) => {
                if let Some(Entity::Label(label)) = self.lookup(name) {
                    self.draft.labels[label.0 as usize] = Some(self.draft.steps.len() as u32);
                }
            }
            Statement::Variable(variable) => self.variable(variable)?,
            Statement::Instruction(instruction) => {
                self.place.line = instruction.line;
                self.place.statement = index as u32;
                self.instruction(instruction)?;
            }
            Statement::Location(place, inlined_at) => {
                self.place.source = *place;
                if let Some(caller) = inlined_at {
                    self.draft.inlined.insert(*place, *caller);
                }
            }
            Statement::Targets(..) | Statement::Prototype(..) => {}
        }
        Ok(())
    }

    fn variable(&mut self, variable: &'a Variable<'a>) -> Result<(), Reason> {
        match variable.space {
            StateSpace::Register => {
                let width = match (variable.ty.kind, variable.ty.bits) {
                    (TypeKind::Predicate, _) => Width::Predicate,
                    (_, 64 | 128) => Width::Wide,
                    _ => Width::Narrow,
                };
                let count = variable.family.unwrap_or(1);
                let first = Register(self.draft.registers.len() as u32);
                let halves = if variable.ty.bits == 128 { 2 } else { 1 };
                let total = self.draft.registers.len() + count as usize * halves * variable.vector as usize;
                if total > 1 << 20 {
                    return Err(Reason::unsupported("more than a million registers"));
                }
                self.draft.registers.resize(total, width);
                let (count, vector) = (variable.family.unwrap_or(0), variable.vector);
                let entity = match halves {
                    1 => Entity::Registers { first, count, vector },
                    _ if vector == 1 => Entity::Pairs { first, count },
                    _ => return Err(Reason::unsupported("vectors of 128 bits")),
                };
                self.declare(variable.name, entity);
            }
            StateSpace::Local | StateSpace::Param => {
                let bytes = size_of_variable(variable)?;
                let offset = self.take_local(bytes, variable.align);
                self.declare(variable.name, Entity::Variable { space: StateSpace::Local, offset, bytes });
            }
            StateSpace::Shared => {
                let entity = self.builder.place_shared(variable)?;
                self.declare(variable.name, entity);
            }
            StateSpace::Global | StateSpace::Const => {
                // Their lifetime is the module's: the linker has placed them under a name of their own.
            }
        }
        Ok(())
    }

    fn take_local(&mut self, bytes: u32, align: u32) -> u32 {
        let offset = self.local.checked_next_multiple_of(align.max(1)).unwrap_or(u32::MAX);
        self.local = offset.saturating_add(bytes);
        self.local_bytes = self.local_bytes.max(self.local);
        offset
    }

    fn declare(&mut self, name: &'a str, entity: Entity) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name, entity);
        }
    }

    pub(super) fn lookup(&self, name: &str) -> Option<Entity> {
        self.scopes.iter().rev().find_map(|scope| scope.names.get(name).copied())
    }

    fn new_label(&mut self) -> Label {
        self.draft.labels.push(None);
        Label(self.draft.labels.len() as u32 - 1)
    }

    /// A register of our own.
    pub fn temporary(&mut self, width: Width) -> Register {
        self.draft.registers.push(width);
        Register(self.draft.registers.len() as u32 - 1)
    }

    fn instruction(&mut self, instruction: &'a Instruction<'a>) -> Result<(), Reason> {
        self.guard = match instruction.guard {
            Some((name, negated)) => Some((self.predicate_register(name)?, negated)),
            None => None,
        };
        let opcode = Opcode::new(instruction.opcode);
        super::decode::instruction(self, &opcode, &instruction.operands)?;
        let rest = opcode.rest();
        if rest.is_empty() { Ok(()) } else { Err(Reason::unsupported(format!("`{rest}` is not supported here"))) }
    }

    /// Ends the function: all returns meet here.
    fn epilogue(&mut self, line: u32) {
        self.draft.labels[self.epilogue.0 as usize] = Some(self.draft.steps.len() as u32);
        self.guard = None;
        self.class = Class::Control;
        self.place.line = line.max(self.place.line);
        let (run, next) = if self.is_entry {
            (crate::exec::act(crate::exec::flow::exit), Next::End)
        } else {
            (crate::exec::act(crate::exec::flow::leave), Next::Return)
        };
        self.step(run, Class::Control, Vec::new()).next = next;
    }

    /// `ret`: to the end of the function.
    pub fn jump_to_epilogue(&mut self, run: [Handler; 2]) {
        let epilogue = self.epilogue;
        self.step(run, Class::Control, Vec::new()).next = Next::Branch(epilogue);
    }

    /// Appends a step; the guard is that of the instruction.
    pub fn step(&mut self, run: [Handler; 2], class: Class, fields: Vec<Field>) -> &mut Step {
        let listed = fields.len() > 6;
        self.draft.steps.push(Step {
            run,
            fields,
            listed,
            immediate: 0,
            modifier: 0,
            guard: self.guard,
            class: Some(class),
            next: Next::Through,
            tensor: None,
            origin: self.place,
        });
        let last = self.draft.steps.len() - 1;
        &mut self.draft.steps[last]
    }

    /// The steps of a helper that no lane can do without: without the guard, and counted as nothing.
    pub(super) fn helper(&mut self, run: [Handler; 2], fields: Vec<Field>) -> &mut Step {
        let guard = self.guard.take();
        self.step(run, Class::Move, fields);
        self.guard = guard;
        let last = self.draft.steps.len() - 1;
        let step = &mut self.draft.steps[last];
        step.class = None;
        step
    }

    /// The label of that name.
    pub fn label(&self, name: &str) -> Result<Label, Reason> {
        match self.lookup(name) {
            Some(Entity::Label(label)) => Ok(label),
            _ => Err(Reason::syntax(format!("`{name}` is no label of this function"))),
        }
    }

    /// The branch table of that name.
    pub fn table(&mut self, name: &str) -> Result<u32, Reason> {
        let targets = self.targets.get(name).copied();
        let targets = targets.ok_or_else(|| Reason::syntax(format!("`{name}` is no list of targets")))?;
        let table = targets.iter().map(|target| self.label(target)).collect::<Result<_, _>>()?;
        self.draft.tables.push(table);
        Ok(self.draft.tables.len() as u32 - 1)
    }

    /// The guard of the instruction.
    pub fn guard(&self) -> Option<(Register, bool)> {
        self.guard
    }
}

/// The kind of register that holds a type.
pub(super) fn width_of(ty: Type) -> Width {
    match ty.bits {
        1 => Width::Predicate,
        64 => Width::Wide,
        _ => Width::Narrow,
    }
}

/// The bytes of a variable that has some.
pub(super) fn size_of_variable(variable: &Variable<'_>) -> Result<u32, Reason> {
    let bytes = variable.bytes().filter(|&bytes| bytes < 1 << 24);
    bytes.map(|bytes| bytes as u32).ok_or_else(|| Reason::unsupported(format!("the size of `{}`", variable.name)))
}

/// The labels of each scope, in the order in which scopes begin, the function first (inline assembly often has the same ones again and again, in braces of its own);
/// and the lists of targets.
fn names_of_scopes<'a>(statements: &'a [Statement<'a>]) -> (Vec<Vec<&'a str>>, HashMap<&'a str, &'a [&'a str]>) {
    let (mut labels, mut targets, mut open) = (vec![Vec::new()], HashMap::new(), vec![0]);
    for statement in statements {
        match statement {
            Statement::Open => {
                open.push(labels.len());
                labels.push(Vec::new());
            }
            Statement::Close if open.len() > 1 => {
                open.pop();
            }
            Statement::Label(name, _) => {
                if let Some(&scope) = open.last() {
                    labels[scope].push(*name);
                }
            }
            Statement::Targets(name, list) => {
                targets.insert(*name, list.as_slice());
            }
            _ => {}
        }
    }
    (labels, targets)
}
