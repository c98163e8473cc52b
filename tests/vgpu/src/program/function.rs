//! The body of a function to a [`Draft`]: names, registers, variables and labels. What each instruction means is in [`super::decode`].

use std::collections::HashMap;

use super::LoadErrorKind;
use super::draft::{Draft, Field, Label, Next, Place, Register, Role, Step, Width};
use super::kernel::Builder;
use super::opcode::Opcode;
use crate::exec::{Class, Handler};
use crate::ptx::{Function, Instruction, Operand, StateSpace, Statement, Type, TypeKind, Variable};

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
    carry: Option<Register>,
}

struct Scope<'a> {
    names: HashMap<&'a str, Entity>,
    local: u32,
}

impl<'b, 'a> Body<'b, 'a> {
    /// Decodes a function. On errors the index of the statement comes with the reason.
    pub fn decode(
        builder: &'b mut Builder<'a>,
        module: usize,
        function: &'a Function<'a>,
    ) -> Result<Body<'b, 'a>, (Option<usize>, Reason)> {
        let mut body = Body {
            builder,
            module,
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
        };
        body.epilogue = body.new_label();
        body.declare_interface(function).map_err(|reason| (None, reason))?;
        let statements = function.body.as_deref().unwrap_or_default();
        body.declare_labels(statements);
        for (index, statement) in statements.iter().enumerate() {
            body.place.statement = index as u32;
            body.statement(statement, index).map_err(|reason| (Some(index), reason))?;
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

    /// Labels may be used before they stand; those of inner scopes hide outer ones, which no compiler makes use of.
    fn declare_labels(&mut self, statements: &'a [Statement<'a>]) {
        for statement in statements {
            match statement {
                Statement::Label(name, _) => {
                    let label = self.new_label();
                    self.declare(name, Entity::Label(label));
                }
                Statement::Targets(name, targets) => {
                    self.targets.insert(name, targets);
                }
                _ => {}
            }
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
                    (_, 128) => return Err(Reason::unsupported("registers of 128 bits")),
                    (_, 64) => Width::Wide,
                    _ => Width::Narrow,
                };
                let count = variable.family.unwrap_or(1);
                let first = Register(self.draft.registers.len() as u32);
                let total = self.draft.registers.len() + count as usize * variable.vector as usize;
                if total > 1 << 20 {
                    return Err(Reason::unsupported("more than a million registers"));
                }
                self.draft.registers.resize(total, width);
                let entity = Entity::Registers { first, count: variable.family.unwrap_or(0), vector: variable.vector };
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

    fn lookup(&self, name: &str) -> Option<Entity> {
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
    fn helper(&mut self, run: [Handler; 2], fields: Vec<Field>) -> &mut Step {
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

    /// The register of that name.
    fn register(&self, name: &str) -> Option<Register> {
        if let Some(Entity::Registers { first, vector: 1, count: 0 }) = self.lookup(name) {
            return Some(first);
        }
        if let Some((base, component)) = name.rsplit_once('.')
            && let Some(Entity::Registers { first, vector, count: 0 }) = self.lookup(base)
        {
            let index = match component {
                "x" | "r" => 0,
                "y" | "g" => 1,
                "z" | "b" => 2,
                "w" | "a" => 3,
                _ => return None,
            };
            return (index < vector).then_some(Register(first.0 + index));
        }
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        // `%r<10>` declares %r0 to %r9; the prefix itself may end in digits.
        (1..=digits).rev().find_map(|digits| {
            let (prefix, number) = name.split_at(name.len() - digits);
            match self.lookup(prefix)? {
                Entity::Registers { first, vector: 1, count } => {
                    let number: u32 = number.parse().ok()?;
                    (number < count).then_some(Register(first.0 + number))
                }
                _ => None,
            }
        })
    }

    fn predicate_register(&self, name: &str) -> Result<Register, Reason> {
        let register = self.register(name).ok_or_else(|| unknown(name))?;
        if self.draft.registers[register.0 as usize] != Width::Predicate {
            return Err(Reason::syntax(format!("`{name}` is no predicate")));
        }
        Ok(register)
    }

    /// A predicate that is read.
    pub fn predicate(&mut self, operand: &Operand<'a>) -> Result<Field, Reason> {
        match *operand {
            Operand::Name(name, 0) => Ok(Field::Register(self.predicate_register(name)?, Role::Source)),
            Operand::Not(name) => Ok(Field::Not(self.predicate_register(name)?)),
            Operand::Integer(value) => Ok(Field::Always(value != 0)),
            _ => Err(Reason::syntax("expected a predicate")),
        }
    }

    /// A predicate that is written.
    pub fn predicate_destination(&mut self, name: &'a str) -> Result<Field, Reason> {
        if name == "_" {
            return Ok(Field::Sink);
        }
        Ok(Field::Register(self.predicate_register(name)?, Role::Destination))
    }

    /// A register that is written.
    pub fn destination(&mut self, operand: &Operand<'a>, width: Width) -> Result<Field, Reason> {
        self.written(operand, width, Role::Destination)
    }

    /// A register that is written, in the given role.
    pub fn written(&mut self, operand: &Operand<'a>, width: Width, role: Role) -> Result<Field, Reason> {
        match *operand {
            Operand::Name("_", 0) => Ok(Field::Register(self.temporary(width), role)),
            Operand::Name(name, 0) => {
                let register = self.register(name).ok_or_else(|| unknown(name))?;
                self.expect(name, register, width)?;
                Ok(Field::Register(register, role))
            }
            _ => Err(Reason::syntax("expected a register to write to")),
        }
    }

    fn expect(&self, name: &str, register: Register, width: Width) -> Result<(), Reason> {
        let found = self.draft.registers[register.0 as usize];
        if found == width {
            return Ok(());
        }
        let bits = |width| match width {
            Width::Predicate => "a predicate",
            Width::Narrow => "up to 32 bits",
            Width::Wide => "64 bits",
        };
        Err(Reason::syntax(format!("`{name}` has {}, expected {}", bits(found), bits(width))))
    }

    /// The width of a register operand.
    pub fn width_of(&self, operand: &Operand<'a>) -> Option<Width> {
        match operand {
            Operand::Name(name, 0) => self.register(name).map(|register| self.draft.registers[register.0 as usize]),
            _ => None,
        }
    }

    /// A value of that type that is read: a register, a constant, a special register or an address.
    pub fn source(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Field, Reason> {
        let width = width_of(ty);
        if ty.bits > 64 {
            return Err(Reason::unsupported("values of 128 bits"));
        }
        match *operand {
            Operand::Integer(value) => Ok(constant(value, ty)),
            Operand::Single(bits) => Ok(match (ty.kind, ty.bits) {
                (TypeKind::Float, 64) => Field::Wide(f64::from(f32::from_bits(bits)).to_bits()),
                _ => constant(u64::from(bits), ty),
            }),
            Operand::Double(value) => Ok(match ty.bits {
                64 => Field::Wide(value.to_bits()),
                32 => Field::Narrow((value as f32).to_bits()),
                _ => Field::Narrow(u32::from(half::f16::from_f64(value).to_bits())),
            }),
            Operand::Name(name, offset) => {
                if let Some(register) = self.register(name) {
                    if offset != 0 {
                        return Err(Reason::syntax("a register plus an offset is no operand here"));
                    }
                    self.expect(name, register, width)?;
                    return Ok(Field::Register(register, Role::Source));
                }
                if let Some(special) = super::decode::special_register(self, name) {
                    let (run, modifier, natural) = special?;
                    let register = self.temporary(natural);
                    let fields = vec![Field::Register(register, Role::Destination)];
                    self.helper(run, fields).modifier = modifier;
                    return self.widen(register, natural, width);
                }
                self.address_of(name, offset, width)
            }
            _ => Err(Reason::syntax("expected a register or a constant")),
        }
    }

    /// A register in the width that an instruction wants it.
    fn widen(&mut self, register: Register, from: Width, to: Width) -> Result<Field, Reason> {
        if from == to {
            return Ok(Field::Register(register, Role::Source));
        }
        let wider = self.temporary(to);
        let run = match to {
            Width::Wide => crate::exec::map1(|_, a: u32| u64::from(a)),
            _ => crate::exec::map1(|_, a: u64| a as u32),
        };
        self.helper(run, vec![Field::Register(wider, Role::Destination), Field::Register(register, Role::Source)]);
        Ok(Field::Register(wider, Role::Source))
    }

    /// The address of a variable or function within its space.
    fn address_of(&mut self, name: &'a str, offset: i64, width: Width) -> Result<Field, Reason> {
        match self.lookup(name) {
            Some(Entity::Variable { space: StateSpace::Local, offset: begin, .. }) => {
                let register = self.temporary(width);
                let run = match width {
                    Width::Wide => crate::exec::act(crate::exec::access::local_address::<u64>),
                    _ => crate::exec::act(crate::exec::access::local_address::<u32>),
                };
                self.helper(run, vec![Field::Register(register, Role::Destination)]).immediate =
                    u64::from(begin).wrapping_add(offset as u64);
                Ok(Field::Register(register, Role::Source))
            }
            Some(Entity::Variable { offset: begin, .. }) => {
                let address = i64::from(begin).wrapping_add(offset);
                Ok(if width == Width::Wide { Field::Wide(address as u64) } else { Field::Narrow(address as u32) })
            }
            Some(_) => Err(Reason::syntax(format!("`{name}` is no value"))),
            None => self.builder.symbol(self.module, name, offset, width),
        }
    }

    /// Where a memory operand begins: the register or constant, the offset, and the space if the name of a variable tells it.
    pub fn address(&mut self, operand: &Operand<'a>) -> Result<Address, Reason> {
        let Operand::Address(parts) = operand else { return Err(Reason::syntax("expected an address in brackets")) };
        let [part] = parts.as_slice() else { return Err(Reason::unsupported("an address of several parts")) };
        match *part {
            Operand::Name(name, offset) => {
                if let Some(register) = self.register(name) {
                    let width = self.draft.registers[register.0 as usize];
                    return Ok(Address { base: Field::Register(register, Role::Source), width, offset, space: None });
                }
                let space = match self.lookup(name) {
                    Some(Entity::Variable { space, offset: begin, .. }) => {
                        if space == StateSpace::Local {
                            // The frame is added when it runs.
                            let offset = i64::from(begin).wrapping_add(offset);
                            return Ok(Address {
                                base: Field::Wide(0),
                                width: Width::Wide,
                                offset,
                                space: Some(space),
                            });
                        }
                        Some(space)
                    }
                    _ => self.builder.space_of(self.module, name),
                };
                let base = self.address_of(name, offset, Width::Wide)?;
                Ok(Address { base, width: Width::Wide, offset: 0, space })
            }
            Operand::Integer(value) => {
                Ok(Address { base: Field::Wide(value), width: Width::Wide, offset: 0, space: None })
            }
            _ => Err(Reason::syntax("expected a register or variable in brackets")),
        }
    }

    /// The place and bytes of a variable in the local frame: an argument or result of a call.
    pub fn local_variable(&self, operand: &Operand<'a>) -> Result<(u32, u32), Reason> {
        match *operand {
            Operand::Name(name, 0) => match self.lookup(name) {
                Some(Entity::Variable { space: StateSpace::Local, offset, bytes }) => Ok((offset, bytes)),
                _ => Err(Reason::unsupported(format!("`{name}` as an argument: it is no .param variable"))),
            },
            _ => Err(Reason::unsupported("an argument that is no .param variable")),
        }
    }

    /// Whether a name is that of a register.
    pub fn is_register(&self, name: &str) -> bool {
        self.register(name).is_some()
    }

    /// The carry of `add.cc` and its like: a predicate.
    pub fn carry(&mut self) -> Field {
        let register = match self.carry {
            Some(register) => register,
            None => self.temporary(Width::Predicate),
        };
        self.carry = Some(register);
        Field::Register(register, Role::Both)
    }

    /// The guard of the instruction.
    pub fn guard(&self) -> Option<(Register, bool)> {
        self.guard
    }
}

/// A memory operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Address {
    /// Register or constant.
    pub base: Field,
    /// How wide it is.
    pub width: Width,
    /// What is added to it.
    pub offset: i64,
    /// The space of the variable that was named.
    pub space: Option<StateSpace>,
}

fn unknown(name: &str) -> Reason {
    Reason { text: format!("`{name}` is not declared"), kind: LoadErrorKind::Syntax }
}

/// The kind of register that holds a type.
pub(super) fn width_of(ty: Type) -> Width {
    match ty.bits {
        1 => Width::Predicate,
        64 => Width::Wide,
        _ => Width::Narrow,
    }
}

/// An integer constant, cut to the width of a type.
fn constant(value: u64, ty: Type) -> Field {
    match ty.bits {
        64 => Field::Wide(value),
        32 => Field::Narrow(value as u32),
        1 => Field::Always(value != 0),
        bits => Field::Narrow(value as u32 & ((1u32 << bits) - 1)),
    }
}

/// The bytes of a variable that has some.
pub(super) fn size_of_variable(variable: &Variable<'_>) -> Result<u32, Reason> {
    let bytes = variable.bytes().filter(|&bytes| bytes < 1 << 24);
    bytes.map(|bytes| bytes as u32).ok_or_else(|| Reason::unsupported(format!("the size of `{}`", variable.name)))
}
