//! One kernel with all functions that it can reach: decoded, allocated, and put into one array of instructions.

use std::collections::HashMap;

use super::allocate::{Allocation, allocate};
use super::draft::{Draft, Field, Label, Next, Role, Step, Width};
use super::flow::{Graph, NONE};
use super::function::{Body, Entity, Reason, size_of_variable};
use super::link::{Linked, Symbol};
use super::{Kernel, LoadError, LoadErrorKind, Param};
use crate::exec::{self, Call, Code, Instruction, Operand, Origin, Predicate, Relocation, SLOT, Slot, TensorWork};
use crate::ptx::{Function, Module, StateSpace, Statement, Variable};

/// What is known of a kernel while its functions are decoded.
pub(super) struct Builder<'a> {
    linked: &'a Linked<'a>,
    /// Functions that are reached, with the source of each; the kernel is the first.
    functions: Vec<(usize, &'a Function<'a>)>,
    /// Where shared variables were put, by their address in the tree.
    shared: HashMap<*const Variable<'a>, u32>,
    shared_bytes: u32,
    /// Call sites of all functions.
    pub calls: Vec<Call>,
    /// Shapes of matrix instructions.
    pub matrices: Vec<exec::matrix::MatrixShape>,
    /// Matrices of `wmma`.
    pub fragments: Vec<exec::fragment::Fragment>,
    /// The same of warpgroups.
    pub groups: Vec<exec::matrix::GroupShape>,
    /// The smallest access to shared memory so far.
    pub shared_granule: u32,
    /// Whether functions are called through pointers.
    calls_pointers: bool,
}

impl<'a> Builder<'a> {
    /// Puts a shared variable at its place.
    pub fn place_shared(&mut self, variable: &'a Variable<'a>) -> Result<Entity, Reason> {
        let bytes = size_of_variable(variable)?;
        let offset = *self.shared.entry(std::ptr::from_ref(variable)).or_insert_with(|| {
            let offset = self.shared_bytes.checked_next_multiple_of(variable.align).unwrap_or(u32::MAX);
            self.shared_bytes = offset.saturating_add(bytes);
            offset
        });
        Ok(Entity::Variable { space: StateSpace::Shared, offset, bytes })
    }

    /// The address of a name of the module.
    pub fn symbol(&mut self, module: usize, name: &str, offset: i64, width: Width) -> Result<Field, Reason> {
        match self.linked.find(module, name) {
            Some(Symbol::Global(index)) => Ok(Field::Global(index, offset)),
            Some(Symbol::Shared(variable)) if variable.bytes().unwrap_or(0) == 0 => {
                Ok(Field::DynamicShared(offset, width))
            }
            Some(Symbol::Shared(variable)) => {
                let Entity::Variable { offset: begin, .. } = self.place_shared(variable)? else {
                    return Err(Reason::syntax(format!("`{name}` is no variable")));
                };
                let address = i64::from(begin).wrapping_add(offset);
                Ok(if width == Width::Wide { Field::Wide(address as u64) } else { Field::Narrow(address as u32) })
            }
            Some(Symbol::Function(..)) => {
                let number = self.linked.number(module, name).unwrap_or(0);
                Ok(Field::Wide(exec::flow::address_of(number)))
            }
            None => Err(Reason { text: format!("`{name}` is not defined"), kind: LoadErrorKind::UnresolvedSymbol }),
        }
    }

    /// The space of a variable of the module.
    pub fn space_of(&self, module: usize, name: &str) -> Option<StateSpace> {
        match self.linked.find(module, name)? {
            Symbol::Global(index) => Some(self.linked.space(index)),
            Symbol::Shared(_) => Some(StateSpace::Shared),
            Symbol::Function(..) => None,
        }
    }

    /// The number within the kernel of a function that is called; `None` if no source defines it.
    pub fn function(&mut self, module: usize, name: &str) -> Option<u32> {
        let Some(Symbol::Function(owner, function)) = self.linked.find(module, name) else { return None };
        function.body.as_ref()?;
        Some(self.reach(owner, function))
    }

    fn reach(&mut self, owner: usize, function: &'a Function<'a>) -> u32 {
        let known = self.functions.iter().position(|known| std::ptr::eq(known.1, function));
        known.unwrap_or_else(|| {
            self.functions.push((owner, function));
            self.functions.len() - 1
        }) as u32
    }

    /// Any function of the program may be called.
    pub fn reach_all(&mut self) {
        if !std::mem::replace(&mut self.calls_pointers, true) {
            let all: Vec<_> = self.linked.functions().filter(|(_, function)| !function.is_entry).collect();
            for (owner, function) in all {
                self.reach(owner, function);
            }
        }
    }
}

/// Decodes a kernel.
pub(super) fn build<'a>(
    linked: &'a Linked<'a>,
    modules: &'a [Module<'a>],
    owner: usize,
    entry: &'a Function<'a>,
) -> Result<Kernel, LoadError> {
    let mut builder = Builder {
        linked,
        functions: vec![(owner, entry)],
        shared: HashMap::new(),
        shared_bytes: 0,
        calls: Vec::new(),
        matrices: Vec::new(),
        fragments: Vec::new(),
        groups: Vec::new(),
        shared_granule: 4,
        calls_pointers: false,
    };
    let mut assembler = Assembler::default();
    let mut kernel = interface(&modules[owner], entry)?;
    let mut local = 0;
    let mut index = 0;
    while let Some(&(module, function)) = builder.functions.get(index) {
        let statements = function.body.as_deref().unwrap_or_default();
        let body = Body::decode(&mut builder, (module, modules[module].version), function).map_err(
            |(statement, reason)| {
                let at = statement.and_then(|index| statements.get(index));
                let (line, text) = text_of(at).unwrap_or((function.line, function.name));
                let (name, text) = (function.name.to_owned(), text.to_owned());
                LoadError { kernel: Some(name), line, text, reason: reason.text, kind: reason.kind }
            },
        )?;
        let (draft, local_bytes) = (body.draft, body.local_bytes);
        let (parameters, results) = (body.parameters, body.results);
        let graph = Graph::new(&draft);
        let allocation = allocate(&draft, &graph);
        if index == 0 {
            // What a compiler keeps besides the values of the program.
            kernel.registers = (allocation.pressure + 8).min(255);
        }
        local = u32::saturating_add(local, local_bytes);
        assembler.code.functions.push(exec::Function {
            name: function.name.to_owned(),
            number: linked.number(module, function.name).unwrap_or(0),
            entry: assembler.code.instructions.len() as u32,
            register_bytes: allocation.register_bytes,
            predicates: allocation.predicates,
            local_bytes,
            parameters,
            results,
        });
        assembler.files(&modules[module]);
        assembler.tracks_uses = !builder.groups.is_empty();
        assembler.append(&draft, &graph, &allocation, index as u32, statements);
        index += 1;
    }
    let mut code = assembler.code;
    code.calls = builder.calls;
    code.matrices = builder.matrices;
    code.fragments = builder.fragments;
    code.groups = builder.groups;
    code.shared_granule = builder.shared_granule;
    kernel.static_shared_bytes = builder.shared_bytes.checked_next_multiple_of(16).unwrap_or(u32::MAX);
    kernel.local_bytes = local;
    kernel.code = code;
    Ok(kernel)
}

/// What the host sees of a kernel.
fn interface(module: &Module<'_>, entry: &Function<'_>) -> Result<Kernel, LoadError> {
    let mut kernel = Kernel {
        name: entry.name.to_owned(),
        ptx_version: module.version,
        target: module.target.to_owned(),
        ..Kernel::default()
    };
    for variable in &entry.params {
        let size = size_of_variable(variable).map_err(|reason| LoadError {
            kernel: Some(entry.name.to_owned()),
            line: variable.line,
            text: variable.name.to_owned(),
            reason: reason.text,
            kind: reason.kind,
        })?;
        let offset = kernel.param_bytes.checked_next_multiple_of(variable.align).unwrap_or(u32::MAX);
        kernel.params.push(Param { offset, size, align: variable.align });
        kernel.param_bytes = offset.saturating_add(size);
    }
    let shape = |numbers: &[u64]| std::array::from_fn(|axis| numbers.get(axis).map_or(1, |&count| count as u32));
    for (name, numbers) in &entry.limits {
        let first = numbers.first().map(|&number| number as u32);
        match *name {
            ".maxntid" => {
                let [x, y, z]: [u32; 3] = shape(numbers);
                kernel.max_threads = Some(x.saturating_mul(y).saturating_mul(z));
            }
            ".reqntid" => kernel.required_block = Some(shape(numbers)),
            ".minnctapersm" => kernel.min_blocks = first,
            ".reqnctapercluster" => kernel.required_cluster = Some(shape(numbers)),
            ".maxnreg" => kernel.max_registers = first,
            // `.explicitcluster`, `.maxclusterrank`, `.noreturn`: nothing that we would do differently.
            _ => {}
        }
    }
    Ok(kernel)
}

/// Line and text of a statement.
fn text_of<'a>(statement: Option<&Statement<'a>>) -> Option<(u32, &'a str)> {
    match statement? {
        Statement::Instruction(instruction) => Some((instruction.line, instruction.text)),
        Statement::Variable(variable) => Some((variable.line, variable.name)),
        _ => None,
    }
}

/// Puts functions into code.
#[derive(Default)]
struct Assembler {
    code: Code,
    /// Slots of constants that are there already; narrow ones by value, and wide ones.
    narrow: HashMap<u32, u32>,
    wide: HashMap<u64, u32>,
    /// Whether the function has matrix products of warpgroups, whose sums are tracked.
    tracks_uses: bool,
    /// Where the files of each source begin in the list of all.
    file_numbers: HashMap<u32, u32>,
}

impl Assembler {
    /// Makes the files of a source known under its own numbers.
    fn files(&mut self, module: &Module<'_>) {
        self.file_numbers.clear();
        for &(number, path) in &module.files {
            let known = self.code.files.iter().position(|file| file == path);
            let index = known.unwrap_or_else(|| {
                self.code.files.push(path.to_owned());
                self.code.files.len() - 1
            });
            self.file_numbers.insert(number, index as u32);
        }
    }

    /// Appends the instructions of a function.
    fn append(
        &mut self,
        draft: &Draft,
        graph: &Graph,
        allocation: &Allocation,
        function: u32,
        statements: &[Statement<'_>],
    ) {
        // A mark stands before each block at which ways meet.
        let mut is_meeting = vec![false; graph.blocks.len()];
        for block in &graph.blocks {
            let last = &draft.steps[block.end as usize - 1];
            let parts = match last.next {
                Next::Branch(_) => last.guard.is_some(),
                Next::Table(_) | Next::Meet => true,
                _ => false,
            };
            let meet =
                if last.next == Next::Meet { graph.of_step.get(block.end as usize).copied() } else { Some(block.meet) };
            if let Some(meet) = meet.filter(|&meet| parts && meet != NONE) {
                is_meeting[meet as usize] = true;
            }
        }
        let base = self.code.instructions.len() as u32;
        let mut begins = Vec::with_capacity(graph.blocks.len());
        let mut at = base;
        for (block, &meeting) in graph.blocks.iter().zip(&is_meeting) {
            begins.push(at);
            at += block.end - block.first + u32::from(meeting);
        }
        let place = |label: Label| {
            let step = draft.labels[label.0 as usize].unwrap_or(0);
            graph.of_step.get(step as usize).map_or(base, |&block| begins[block as usize])
        };
        for (&(file, line), &(calling, at)) in &draft.inlined {
            let index = |file| self.file_numbers.get(&file).copied().unwrap_or(0);
            let (inner, outer) = ((index(file), line), (index(calling), at));
            self.code.inlined.insert((function, inner), outer);
        }
        let first_table = self.code.tables.len() as u32;
        for table in &draft.tables {
            self.code.tables.push(table.iter().map(|&label| place(label)).collect());
        }
        for (block, &meeting) in graph.blocks.iter().zip(&is_meeting) {
            if meeting {
                self.mark(draft.steps[block.first as usize].origin.line, function);
            }
            for step in &draft.steps[block.first as usize..block.end as usize] {
                let mut operands = [Operand::default(); 6];
                let placed = step.fields.iter().map(|field| self.operand(field, allocation));
                let placed: Vec<Operand> = placed.collect();
                if step.listed {
                    operands[0] = Operand(self.code.lists.len() as u32);
                    operands[1] = Operand(placed.len() as u32);
                    self.code.lists.extend(placed);
                } else {
                    operands[..placed.len()].copy_from_slice(&placed);
                }
                let mut instruction = Instruction {
                    run: step.run,
                    operands,
                    immediate: step.immediate,
                    modifier: step.modifier,
                    target: 0,
                    guard: step.guard.map_or(Predicate::TRUE, |(register, negated)| {
                        Predicate::new(allocation.places[register.0 as usize], negated)
                    }),
                    class: step.class,
                };
                let meet = match block.meet {
                    NONE => exec::flow::NOWHERE,
                    meet => begins[meet as usize],
                };
                match step.next {
                    Next::Branch(label) => {
                        instruction.target = place(label);
                        instruction.immediate = u64::from(meet);
                    }
                    Next::Table(table) => {
                        instruction.modifier = first_table + table;
                        instruction.immediate = u64::from(meet);
                    }
                    _ => {}
                }
                if self.tracks_uses {
                    self.note_uses(step, allocation);
                }
                if let Some((inputs, flop, is_warpgroup)) = step.tensor {
                    let at = self.code.instructions.len() as u32;
                    self.code.tensor.insert(at, TensorWork { inputs, flop, is_warpgroup });
                }
                self.code.instructions.push(instruction);
                let (line, text) =
                    text_of(statements.get(step.origin.statement as usize)).unwrap_or((step.origin.line, ""));
                let (file, source_line) = step.origin.source;
                let source = self.file_numbers.get(&file).map_or((0, 0), |&index| (index, source_line));
                self.code.origins.push(Origin { line, text: text.into(), source, function });
            }
        }
    }

    /// Notes which registers of 32 bits a step reads and writes. The sums of a product of a warpgroup are neither: they may be those of one that is under way.
    fn note_uses(&mut self, step: &Step, allocation: &Allocation) {
        let is_product = step.tensor.is_some_and(|(_, _, is_warpgroup)| is_warpgroup);
        let of = |wanted: &[Role]| -> Box<[Operand]> {
            let registers = step.fields.iter().filter_map(|field| match *field {
                Field::Register(register, role) if wanted.contains(&role) => Some(register),
                _ => None,
            });
            let plain = registers.filter(|&register| !allocation.is_predicate(register));
            plain.map(|register| Operand(allocation.places[register.0 as usize])).collect()
        };
        let reads = if is_product { of(&[Role::Source]) } else { of(&[Role::Source, Role::Both]) };
        let writes = of(&[Role::Destination]);
        let copies = step.class == Some(exec::Class::Move) && step.fields.len() == 2 && reads.len() == writes.len();
        if !reads.is_empty() || !writes.is_empty() {
            let at = self.code.instructions.len() as u32;
            self.code.uses.insert(at, exec::in_flight::Uses { reads, writes, copies });
        }
    }

    /// The mark at which fragments meet.
    fn mark(&mut self, line: u32, function: u32) {
        self.code.instructions.push(Instruction {
            run: exec::act(exec::flow::join),
            operands: [Operand::default(); 6],
            immediate: 0,
            modifier: 0,
            target: 0,
            guard: Predicate::TRUE,
            class: None,
        });
        self.code.origins.push(Origin { line, function, ..Origin::default() });
    }

    fn operand(&mut self, field: &Field, allocation: &Allocation) -> Operand {
        match *field {
            Field::None => Operand::default(),
            Field::Register(register, Role::Source | Role::Destination | Role::Both) => {
                // Predicates are told by where they are used: as an index that is shifted for the sign.
                Operand(allocation.places[register.0 as usize] << u32::from(allocation.is_predicate(register)))
            }
            Field::Not(register) => Operand(allocation.places[register.0 as usize] << 1 | 1),
            Field::Always(value) => Operand(u32::from(Predicate::new(0, !value).0)),
            Field::Sink => Operand(u32::from(Predicate::SINK.0)),
            Field::Narrow(value) => {
                let slots = &mut self.code.constants;
                let slot = *self.narrow.entry(value).or_insert_with(|| {
                    slots.push(Slot([value; 32]));
                    slots.len() as u32 - 1
                });
                Operand(Operand::CONSTANT | (slot * SLOT))
            }
            Field::Wide(value) => {
                let slots = &mut self.code.constants;
                let slot = *self.wide.entry(value).or_insert_with(|| {
                    let slot = slots.len() as u32;
                    slots.extend([Slot::default(); 2]);
                    exec::put_constant(slots, slot * SLOT, value);
                    slot
                });
                Operand(Operand::CONSTANT | (slot * SLOT))
            }
            Field::Global(global, offset) => {
                let slot = self.unfilled();
                self.code.relocations.push(Relocation::Global { slot, global, offset });
                Operand(Operand::CONSTANT | slot)
            }
            Field::DynamicShared(offset, width) => {
                let slot = self.unfilled();
                let is_wide = width == Width::Wide;
                self.code.relocations.push(Relocation::DynamicShared { slot, offset, is_wide });
                Operand(Operand::CONSTANT | slot)
            }
        }
    }

    /// Room for a 64-bit constant that is known at launch.
    fn unfilled(&mut self) -> u32 {
        let slot = self.code.constants.len() as u32 * SLOT;
        self.code.constants.extend([Slot::default(); 2]);
        slot
    }
}
