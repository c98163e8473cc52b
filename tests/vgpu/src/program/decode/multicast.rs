//! `multimem` (PTX ISA 9.7.9.14 to 9.7.9.16): ld_reduce, st, red. An object has the memory of one device, so that they are a load, a store and a reduction there.

use super::{atomic, memory, required};
use crate::exec::{Class, act, multicast};
use crate::program::draft::{Field, Role, Width};
use crate::program::function::{Body, Reason};
use crate::program::opcode::Opcode;
use crate::program::operand::Address;
use crate::ptx::Operand;

/// Decodes the instructions of this file; `None` if it is none of them.
pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'a>,
    operands: &[Operand<'a>],
) -> Option<Result<(), Reason>> {
    (opcode.root == "multimem").then(|| multimem(body, opcode, operands))
}

fn multimem<'a>(body: &mut Body<'_, 'a>, opcode: &Opcode<'a>, operands: &[Operand<'a>]) -> Result<(), Reason> {
    let verb = opcode.choose(&[("ld_reduce", "ld"), ("st", "st"), ("red", "red")]);
    let verb = required(verb, ".ld_reduce, .st or .red")?;
    if verb == "ld" {
        // What is summed is one value, in whatever precision.
        opcode.choose(&[("acc::f32", ()), ("acc::f16", ())]);
        let operations = ["add", "min", "max", "and", "or", "xor"];
        required(opcode.find(|name| operations.contains(&name).then_some(())), "an operation")?;
    }
    body.is_multicast = true;
    let result = match verb {
        "red" => atomic::update(body, opcode, operands, false),
        _ => memory::transfer(body, opcode, operands, verb == "st"),
    };
    body.is_multicast = false;
    result
}

impl Body<'_, '_> {
    /// The address of the bound memory for one of a multicast object.
    pub(in crate::program) fn unicast(&mut self, address: Address) -> Result<Address, Reason> {
        if address.width != Width::Wide {
            return Err(Reason::unsupported("addresses of 32 bits"));
        }
        let target = self.temporary(Width::Wide);
        let fields = vec![Field::Register(target, Role::Destination), address.base];
        let step = self.step(act(multicast::unicast), Class::Move, fields);
        step.immediate = address.offset as u64;
        step.modifier = 1 << 8;
        step.class = None;
        Ok(Address { base: Field::Register(target, Role::Source), offset: 0, ..address })
    }
}
