//! Declarations: variables, registers, parameters and their initial values.

use super::lexer::Token;
use super::parser::Parser;
use super::tree::*;

impl<'a> Parser<'a> {
    /// `.global .align 16 .b8 a[4] = {...}, b;`: everything up to the semicolon.
    pub(super) fn variables(&mut self) -> Result<Vec<Variable<'a>>, SyntaxError> {
        let prefix = self.qualifiers()?;
        let mut variables = Vec::new();
        loop {
            let mut variable = self.declarator(&prefix)?;
            if self.accept(b'=')? {
                self.initial(&mut variable.init)?;
                if variable.elements.is_none() && !variable.init.is_empty() {
                    variable.elements = Some(variable.init.len() as u64);
                }
            }
            variables.push(variable);
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';')?;
        Ok(variables)
    }

    /// `(.param .b64 a, .reg .b32 b)`: parameters of a function.
    pub(super) fn parameters(&mut self) -> Result<Vec<Variable<'a>>, SyntaxError> {
        self.expect(b'(')?;
        let mut parameters = Vec::new();
        while !self.accept(b')')? {
            if !parameters.is_empty() {
                self.expect(b',')?;
            }
            let prefix = self.qualifiers()?;
            parameters.push(self.declarator(&prefix)?);
        }
        Ok(parameters)
    }

    /// Everything before the name: state space, alignment, vector, type and attributes.
    fn qualifiers(&mut self) -> Result<Variable<'a>, SyntaxError> {
        let (mut space, mut align, mut vector, mut ty) = (None, None, 1, None);
        while let Token::Word(word) = self.token {
            let Some(name) = word.strip_prefix('.') else { break };
            self.advance()?;
            match name {
                "reg" => space = Some(StateSpace::Register),
                "global" => space = space.or(Some(StateSpace::Global)),
                "const" => space = space.or(Some(StateSpace::Const)),
                "shared" | "shared::cta" => space = space.or(Some(StateSpace::Shared)),
                "local" => space = space.or(Some(StateSpace::Local)),
                "param" => space = space.or(Some(StateSpace::Param)),
                "align" => align = Some(self.integer()?),
                "v2" => vector = 2,
                "v4" => vector = 4,
                // `.param .u64 .ptr .global .align 4 name`: a promise about the pointer, which every access is checked for anyway.
                "ptr" => {
                    self.pointer_attributes()?;
                    break;
                }
                "attribute" => self.skip_attribute()?,
                _ => match Type::parse(name) {
                    Some(found) => ty = Some(found),
                    None => return Err(self.error(format!("`.{name}` is no type that is supported"))),
                },
            }
        }
        let space = space.ok_or_else(|| self.error("expected a state space"))?;
        let ty = ty.ok_or_else(|| self.error("expected a type"))?;
        let align = align.unwrap_or(u64::from(ty.bytes().max(1)) * vector);
        if !align.is_power_of_two() || align > 1 << 20 {
            return Err(self.error("an alignment must be a power of two"));
        }
        Ok(Variable {
            linkage: Linkage::Private,
            space,
            align: align as u32,
            vector: vector as u32,
            ty,
            name: "_",
            elements: Some(1),
            is_array: false,
            family: None,
            init: Vec::new(),
            line: self.line,
        })
    }

    fn pointer_attributes(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.token {
                Token::Word(".global" | ".const" | ".shared" | ".local" | ".param") => {
                    self.advance()?;
                }
                Token::Word(".align") => {
                    self.advance()?;
                    self.integer()?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// `.attribute(.managed)`, `.attribute(.unified(19, 95))`.
    fn skip_attribute(&mut self) -> Result<(), SyntaxError> {
        self.expect(b'(')?;
        let mut depth = 1;
        while depth > 0 {
            match self.advance()? {
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') => depth -= 1,
                Token::End => return Err(self.error("expected `)`")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Attributes before the name of a function.
    pub(super) fn skip_attributes(&mut self) -> Result<(), SyntaxError> {
        while self.accept_word(".attribute")? {
            self.skip_attribute()?;
        }
        self.accept_word(".noreturn")?;
        Ok(())
    }

    /// A name with its dimensions, or a family of registers.
    fn declarator(&mut self, prefix: &Variable<'a>) -> Result<Variable<'a>, SyntaxError> {
        let mut variable = Variable { line: self.line, ..prefix.clone() };
        match self.token {
            Token::Word(name) => {
                self.advance()?;
                variable.name = name;
            }
            // Parameters of prototypes may have no name.
            Token::Mark(b',' | b')') => return Ok(variable),
            _ => return Err(self.error("expected a name")),
        }
        if self.accept(b'<')? {
            let count = self.integer()?;
            if count > 1 << 20 {
                return Err(self.error("more than a million registers"));
            }
            variable.family = Some(count as u32);
            self.expect(b'>')?;
        }
        while self.accept(b'[')? {
            variable.is_array = true;
            if self.accept(b']')? {
                variable.elements = None;
                continue;
            }
            let Initial::Integer(count) = self.number()? else { return Err(self.error("expected a size")) };
            self.expect(b']')?;
            let elements = variable.elements.and_then(|elements| elements.checked_mul(count));
            if variable.elements.is_some() && elements.is_none_or(|elements| elements > 1 << 40) {
                return Err(self.error("an array of more than 2^40 elements"));
            }
            variable.elements = elements;
        }
        Ok(variable)
    }

    /// A value or a list in braces, appended to `values`. Inner lists must be complete, as compilers write them.
    fn initial(&mut self, values: &mut Vec<Initial<'a>>) -> Result<(), SyntaxError> {
        if self.accept(b'{')? {
            self.enter()?;
            while !self.accept(b'}')? {
                self.initial(values)?;
                if !self.at(b'}') {
                    self.expect(b',')?;
                }
            }
            self.leave();
            return Ok(());
        }
        let value = match self.token {
            // `generic(a)` is where a generic pointer finds `a`: with our flat addresses, the same.
            Token::Word("generic") => {
                self.advance()?;
                self.expect(b'(')?;
                let name = self.word()?;
                self.expect(b')')?;
                let offset = self.offset()?;
                Initial::Symbol { name, offset, mask: None }
            }
            Token::Word(name) => {
                self.advance()?;
                let offset = self.offset()?;
                Initial::Symbol { name, offset, mask: None }
            }
            _ => match self.number()? {
                // `0xff00(a)`: one byte of an address.
                Initial::Integer(mask) if self.accept(b'(')? => {
                    let is_generic = self.accept_word("generic")? && self.accept(b'(')?;
                    let name = self.word()?;
                    let mut offset = self.offset()?;
                    self.expect(b')')?;
                    if is_generic {
                        offset = offset.wrapping_add(self.offset()?);
                        self.expect(b')')?;
                    }
                    Initial::Symbol { name, offset, mask: Some(mask) }
                }
                number => number,
            },
        };
        values.push(value);
        Ok(())
    }

    fn offset(&mut self) -> Result<i64, SyntaxError> {
        if !self.at(b'+') && !self.at(b'-') {
            return Ok(0);
        }
        match self.number()? {
            Initial::Integer(value) => Ok(value as i64),
            _ => Err(self.error("expected an integer")),
        }
    }
}
