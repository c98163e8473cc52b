//! Names across sources: which definition each use means (PTX ISA 5.4.8, 10.7 "Linking Directives").

use std::collections::HashMap;

use super::{Global, LoadError, LoadErrorKind, Space};
use crate::exec::flow::address_of;
use crate::ptx::{Function, Initial, Linkage, Module, StateSpace, Statement, Variable};

/// What a name of a module stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Symbol<'a> {
    /// A variable in global or constant memory, by its index in the program.
    Global(u32),
    /// A shared variable.
    Shared(&'a Variable<'a>),
    /// A function and the source that holds it.
    Function(usize, &'a Function<'a>),
}

/// Sources whose names are resolved.
#[derive(Debug, Default)]
pub(super) struct Linked<'a> {
    /// Names that only one source sees, for each source.
    private: Vec<HashMap<&'a str, Symbol<'a>>>,
    /// Names that all see.
    public: HashMap<&'a str, Symbol<'a>>,
    /// `.alias`.
    aliases: HashMap<&'a str, &'a str>,
    spaces: Vec<StateSpace>,
    /// All functions with a body.
    all: Vec<(usize, &'a Function<'a>)>,
}

impl<'a> Linked<'a> {
    /// Collects the names of all sources, and the variables that need a place.
    pub fn new(modules: &'a [Module<'a>]) -> Result<(Linked<'a>, Vec<Global>), LoadError> {
        let mut linked = Linked::default();
        let mut variables: Vec<(usize, &'a Variable<'a>)> = Vec::new();
        let mut weak: HashMap<&'a str, bool> = HashMap::new();
        for (index, module) in modules.iter().enumerate() {
            linked.private.push(HashMap::new());
            linked.aliases.extend(module.aliases.iter().copied());
            for function in module.functions.iter().filter(|function| function.body.is_some()) {
                linked.define(index, function.name, function.linkage, Symbol::Function(index, function), &mut weak);
                linked.all.push((index, function));
            }
            let hidden = module.functions.iter().flat_map(|function| function.body.iter().flatten());
            let hidden = hidden.filter_map(|statement| match statement {
                Statement::Variable(variable) => Some(variable),
                _ => None,
            });
            for variable in module.variables.iter().chain(hidden) {
                match variable.space {
                    StateSpace::Shared => {
                        linked.define(index, variable.name, variable.linkage, Symbol::Shared(variable), &mut weak);
                    }
                    StateSpace::Global | StateSpace::Const if variable.linkage != Linkage::Extern => {
                        let symbol = Symbol::Global(variables.len() as u32);
                        if linked.define(index, variable.name, variable.linkage, symbol, &mut weak) {
                            linked.spaces.push(variable.space);
                            variables.push((index, variable));
                        }
                    }
                    _ => {}
                }
            }
        }
        let globals = variables.iter().map(|&(module, variable)| linked.place(module, variable));
        let globals = globals.collect::<Result<_, _>>()?;
        Ok((linked, globals))
    }

    /// Notes a definition. False if another one counts.
    fn define(
        &mut self,
        module: usize,
        name: &'a str,
        linkage: Linkage,
        symbol: Symbol<'a>,
        weak: &mut HashMap<&'a str, bool>,
    ) -> bool {
        let is_weak = matches!(linkage, Linkage::Weak | Linkage::Common);
        match linkage {
            Linkage::Private => {
                self.private[module].insert(name, symbol);
                true
            }
            _ if self.public.contains_key(name) && (is_weak || !weak.get(name).copied().unwrap_or(false)) => {
                // Extern shared arrays are one and the same in all sources.
                false
            }
            _ => {
                weak.insert(name, is_weak);
                self.public.insert(name, symbol);
                true
            }
        }
    }

    /// What a name means in a source.
    pub fn find(&self, module: usize, name: &str) -> Option<Symbol<'a>> {
        let direct = self.private.get(module)?.get(name).or_else(|| self.public.get(name)).copied();
        match self.aliases.get(name) {
            Some(target) if direct.is_none() && *target != name => {
                self.private.get(module)?.get(target).or_else(|| self.public.get(target)).copied()
            }
            _ => direct,
        }
    }

    /// The number of a function within the program.
    pub fn number(&self, module: usize, name: &str) -> Option<u32> {
        let Some(Symbol::Function(_, wanted)) = self.find(module, name) else { return None };
        self.all.iter().position(|(_, function)| std::ptr::eq(*function, wanted)).map(|index| index as u32)
    }

    /// The space of a variable of the program.
    pub fn space(&self, global: u32) -> StateSpace {
        self.spaces[global as usize]
    }

    /// All functions with a body and the source of each.
    pub fn functions(&self) -> impl Iterator<Item = (usize, &'a Function<'a>)> + '_ {
        self.all.iter().copied()
    }

    /// A variable with its initial bytes.
    fn place(&self, module: usize, variable: &Variable<'a>) -> Result<Global, LoadError> {
        let fail = |reason: &str, kind| LoadError {
            kernel: None,
            line: variable.line,
            text: variable.name.to_owned(),
            reason: reason.to_owned(),
            kind,
        };
        let unsized_variable =
            || fail("a variable without a size, or of more than 2^40 bytes", LoadErrorKind::Unsupported);
        let bytes = variable.bytes().filter(|&bytes| bytes <= 1 << 40).ok_or_else(unsized_variable)?;
        let size = variable.ty.bytes() as usize;
        let mut init = Vec::with_capacity(variable.init.len() * size);
        let mut references = Vec::new();
        for value in &variable.init {
            let word = match *value {
                Initial::Integer(value) => value,
                Initial::Single(bits) if size == 8 => f64::from(f32::from_bits(bits)).to_bits(),
                Initial::Single(bits) => u64::from(bits),
                Initial::Double(value) if size == 4 => u64::from((value as f32).to_bits()),
                Initial::Double(value) => value.to_bits(),
                Initial::Symbol { name, offset, mask } => match self.find(module, name) {
                    Some(Symbol::Function(..)) if mask.is_none() => {
                        address_of(self.number(module, name).unwrap_or(0)).wrapping_add(offset as u64)
                    }
                    Some(Symbol::Global(_)) if mask.is_none() && size == 8 => {
                        references.push((init.len() as u64, name.to_owned()));
                        offset as u64
                    }
                    Some(Symbol::Global(_)) if size == 1 => {
                        // Eight bytes of an address, one by one: noted with the lowest.
                        if mask == Some(0xff) {
                            references.push((init.len() as u64, name.to_owned()));
                        }
                        let shift = mask.map_or(0, u64::trailing_zeros).min(63);
                        offset as u64 >> shift
                    }
                    Some(_) => return Err(fail("such an address as an initial value", LoadErrorKind::Unsupported)),
                    None => return Err(fail(&format!("`{name}` is not defined"), LoadErrorKind::UnresolvedSymbol)),
                },
            };
            init.extend_from_slice(&word.to_le_bytes()[..size]);
        }
        if init.len() as u64 > bytes {
            return Err(fail("more initial values than elements", LoadErrorKind::Syntax));
        }
        let space = if variable.space == StateSpace::Const { Space::Const } else { Space::Global };
        Ok(Global { name: variable.name.to_owned(), space, bytes, align: variable.align, init, references })
    }
}
