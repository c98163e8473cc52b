//! Operands of the text to fields of a [`super::draft::Draft`]: registers, constants, special registers, addresses.

use super::LoadErrorKind;
use super::draft::{Field, Register, Role, Width};
use super::function::{Body, Entity, Reason, width_of};
use crate::ptx::{Operand, StateSpace, Type, TypeKind};

impl<'a> Body<'_, 'a> {
    /// The family or single register of that name, and which one of it.
    fn member(&self, name: &str) -> Option<(Entity, u32)> {
        if let Some(entity @ (Entity::Registers { count: 0, .. } | Entity::Pairs { count: 0, .. })) = self.lookup(name)
        {
            return Some((entity, 0));
        }
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        // `%r<10>` declares %r0 to %r9; the prefix itself may end in digits.
        (1..=digits).rev().find_map(|digits| {
            let (prefix, number) = name.split_at(name.len() - digits);
            let entity = self.lookup(prefix)?;
            let (Entity::Registers { count, .. } | Entity::Pairs { count, .. }) = entity else { return None };
            let number: u32 = number.parse().ok()?;
            (number < count).then_some((entity, number))
        })
    }

    /// The register of that name.
    fn register(&self, name: &str) -> Option<Register> {
        if let Some((Entity::Registers { first, vector: 1, .. }, number)) = self.member(name) {
            return Some(Register(first.0 + number));
        }
        let (base, component) = name.rsplit_once('.')?;
        let Some(Entity::Registers { first, vector, count: 0 }) = self.lookup(base) else { return None };
        let index = match component {
            "x" | "r" => 0,
            "y" | "g" => 1,
            "z" | "b" => 2,
            "w" | "a" => 3,
            _ => return None,
        };
        (vector > 1 && index < vector).then_some(Register(first.0 + index))
    }

    /// The lower and upper half of a value of 128 bits: of a register of that size, or two registers in braces.
    pub fn halves(&mut self, operand: &Operand<'a>, role: Role) -> Result<[Field; 2], Reason> {
        match operand {
            Operand::Name("_", 0) if role != Role::Source => {
                Ok([0; 2].map(|_| Field::Register(self.temporary(Width::Wide), role)))
            }
            Operand::Name(name, 0) => match self.member(name) {
                Some((Entity::Pairs { first, .. }, number)) => {
                    Ok([0, 1].map(|half| Field::Register(Register(first.0 + 2 * number + half), role)))
                }
                _ => Err(Reason::syntax(format!("`{name}` is no register of 128 bits"))),
            },
            Operand::Vector(parts) if parts.len() == 2 => {
                let mut half = |part: &Operand<'a>| match role {
                    Role::Source => self.source(part, Type { kind: TypeKind::Bits, bits: 64 }),
                    _ => self.written(part, Width::Wide, role),
                };
                Ok([half(&parts[0])?, half(&parts[1])?])
            }
            _ => Err(Reason::syntax("expected a register of 128 bits")),
        }
    }

    pub(super) fn predicate_register(&self, name: &str) -> Result<Register, Reason> {
        let register = self.register(name).ok_or_else(|| unknown(name))?;
        if self.draft.registers[register.0 as usize] != Width::Predicate {
            return Err(Reason::syntax(format!("`{name}` is no predicate")));
        }
        Ok(register)
    }

    /// A predicate that is read.
    pub fn predicate(&mut self, operand: &Operand<'a>) -> Result<Field, Reason> {
        match *operand {
            Operand::Name("%is_explicit_cluster", 0) => {
                let register = self.temporary(Width::Predicate);
                let run = crate::exec::special::explicit_cluster();
                self.helper(run, vec![Field::Register(register, Role::Destination)]);
                Ok(Field::Register(register, Role::Source))
            }
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
        let address = self.plain_address(operand)?;
        if self.is_multicast { self.unicast(address) } else { Ok(address) }
    }

    /// The same as written.
    fn plain_address(&mut self, operand: &Operand<'a>) -> Result<Address, Reason> {
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

    /// A memory operand whose offset was added to its base.
    pub fn whole_address(&mut self, operand: &Operand<'a>) -> Result<Address, Reason> {
        let address = self.address(operand)?;
        if address.offset == 0 {
            return Ok(address);
        }
        let sum = self.temporary(address.width);
        let (run, offset) = match address.width {
            Width::Wide => {
                (crate::exec::map2(|_, a: u64, b: u64| a.wrapping_add(b)), Field::Wide(address.offset as u64))
            }
            _ => (crate::exec::map2(|_, a: u32, b: u32| a.wrapping_add(b)), Field::Narrow(address.offset as u32)),
        };
        self.helper(run, vec![Field::Register(sum, Role::Destination), address.base, offset]);
        Ok(Address { base: Field::Register(sum, Role::Source), offset: 0, ..address })
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

/// An integer constant, cut to the width of a type.
fn constant(value: u64, ty: Type) -> Field {
    match ty.bits {
        64 => Field::Wide(value),
        32 => Field::Narrow(value as u32),
        1 => Field::Always(value != 0),
        bits => Field::Narrow(value as u32 & ((1u32 << bits) - 1)),
    }
}
