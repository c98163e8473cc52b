//! An opcode taken apart: `ld.global.L1::evict_last.v4.b32` is a root and modifiers that decoders take away one by one. What is left over at the end was not
//! understood.

use std::cell::RefCell;

use crate::ptx::Type;

/// The root of an opcode and the modifiers that nobody took yet.
pub(super) struct Opcode<'a> {
    /// The part before the first dot.
    pub root: &'a str,
    modifiers: RefCell<Vec<&'a str>>,
}

impl<'a> Opcode<'a> {
    /// Cuts an opcode at its dots.
    pub fn new(text: &'a str) -> Opcode<'a> {
        let mut parts = text.split('.');
        Opcode { root: parts.next().unwrap_or(""), modifiers: RefCell::new(parts.collect()) }
    }

    /// Takes a modifier away. False if it is not there.
    pub fn take(&self, name: &str) -> bool {
        self.choose(&[(name, ())]).is_some()
    }

    /// Whether a modifier is there, which stays.
    pub fn has(&self, name: &str) -> bool {
        self.modifiers.borrow().contains(&name)
    }

    /// Takes away the first modifier that is in the list, and tells what it stands for.
    pub fn choose<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        self.find(|name| choices.iter().find(|choice| choice.0 == name).map(|choice| choice.1))
    }

    /// Takes away the first modifier of which `meaning` knows something.
    pub fn find<T>(&self, meaning: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let mut modifiers = self.modifiers.borrow_mut();
        let (index, found) = modifiers.iter().enumerate().find_map(|(index, name)| Some((index, meaning(name)?)))?;
        modifiers.remove(index);
        Some(found)
    }

    /// Takes away the first modifier that names a type; with its name.
    pub fn ty(&self) -> Option<(&'a str, Type)> {
        self.find(|name| Some((name, Type::parse(name)?)))
    }

    /// The first modifier that names a type, which stays.
    pub fn peek_type(&self) -> Option<(&'a str, Type)> {
        self.modifiers.borrow().iter().find_map(|name| Some((*name, Type::parse(name)?)))
    }

    /// Takes away the first modifier, whatever it is.
    pub fn first(&self) -> Option<&'a str> {
        self.find(Some)
    }

    /// Takes away hints that do not change what an instruction does: caches, prefetching, and memory order, which our memory always keeps.
    pub fn drop_hints(&self) {
        self.modifiers.borrow_mut().retain(|name| {
            !(name.starts_with("L1::") || name.starts_with("L2::") || name.starts_with("level::")) && *name != "unified"
        });
    }

    /// The modifiers that nobody took.
    pub fn rest(&self) -> String {
        self.modifiers.borrow().iter().map(|name| format!(".{name}")).collect()
    }
}
