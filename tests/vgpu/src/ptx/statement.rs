//! Bodies of functions: statements and operands.

use super::lexer::{Token, shorten};
use super::parser::Parser;
use super::tree::*;

impl<'a> Parser<'a> {
    /// The statements up to the brace that closes the body. Nested scopes are flat, as marks between the statements.
    pub(super) fn body(&mut self) -> Result<Vec<Statement<'a>>, SyntaxError> {
        let mut statements = Vec::new();
        let mut depth = 0u32;
        loop {
            match self.token {
                Token::Mark(b'{') => {
                    self.advance()?;
                    depth += 1;
                    statements.push(Statement::Open);
                }
                Token::Mark(b'}') => {
                    self.advance()?;
                    if depth == 0 {
                        return Ok(statements);
                    }
                    depth -= 1;
                    statements.push(Statement::Close);
                }
                Token::Mark(b';') => {
                    self.advance()?;
                }
                Token::Mark(b'@') => {
                    let start = self.start;
                    let guard = self.guard()?;
                    let line = self.line;
                    let opcode = self.word()?;
                    statements.push(Statement::Instruction(self.instruction(guard, opcode, start, line)?));
                }
                Token::Word(word) if word.starts_with('.') => self.directive(word, &mut statements)?,
                Token::Word(word) => {
                    // A label and an opcode both begin with a word; what follows tells them apart.
                    let (start, line) = (self.start, self.line);
                    self.advance()?;
                    if self.accept(b':')? {
                        self.after_label(word, line, &mut statements)?;
                    } else {
                        statements.push(Statement::Instruction(self.instruction(None, word, start, line)?));
                    }
                }
                Token::End => return Err(self.error("a function without its closing brace")),
                _ => return Err(self.error("expected an instruction")),
            }
        }
    }

    /// `@p` or `@!p`.
    fn guard(&mut self) -> Result<Option<(&'a str, bool)>, SyntaxError> {
        self.expect(b'@')?;
        let negated = self.accept(b'!')?;
        Ok(Some((self.word()?, negated)))
    }

    /// A label may name a list of targets or a prototype.
    fn after_label(
        &mut self,
        label: &'a str,
        line: u32,
        statements: &mut Vec<Statement<'a>>,
    ) -> Result<(), SyntaxError> {
        match self.token {
            Token::Word(".branchtargets" | ".calltargets") => {
                self.advance()?;
                let mut targets = vec![self.word()?];
                while self.accept(b',')? {
                    targets.push(self.word()?);
                }
                self.expect(b';')?;
                statements.push(Statement::Targets(label, targets));
            }
            Token::Word(".callprototype") => {
                self.advance()?;
                let returns = if self.at(b'(') { self.parameters()? } else { Vec::new() };
                self.word()?;
                let params = if self.at(b'(') { self.parameters()? } else { Vec::new() };
                while self.token != Token::Mark(b';') && self.token != Token::End {
                    // `.noreturn` and its like.
                    self.advance()?;
                }
                self.expect(b';')?;
                statements.push(Statement::Prototype(label, returns, params));
            }
            _ => statements.push(Statement::Label(label, line)),
        }
        Ok(())
    }

    fn directive(&mut self, word: &'a str, statements: &mut Vec<Statement<'a>>) -> Result<(), SyntaxError> {
        match word {
            ".loc" => {
                self.advance()?;
                let place = (self.integer()? as u32, self.integer()? as u32);
                self.integer()?;
                let mut inlined_at = None;
                if self.accept(b',')? {
                    // `function_name $str + 12, inlined_at 1 20 3`.
                    self.accept_word("function_name")?;
                    self.word()?;
                    if self.accept(b'+')? {
                        self.integer()?;
                    }
                    if self.accept(b',')? {
                        self.word()?;
                        inlined_at = Some((self.integer()? as u32, self.integer()? as u32));
                        self.integer()?;
                    }
                }
                statements.push(Statement::Location(place, inlined_at));
            }
            ".pragma" => self.skip_statement()?,
            ".reg" | ".local" | ".shared" | ".param" | ".global" | ".const" => {
                statements.extend(self.variables()?.into_iter().map(Statement::Variable));
            }
            _ => return Err(self.error(format!("`{word}` is no directive of a function"))),
        }
        Ok(())
    }

    /// The operands after an opcode, and the semicolon.
    fn instruction(
        &mut self,
        guard: Option<(&'a str, bool)>,
        opcode: &'a str,
        start: usize,
        line: u32,
    ) -> Result<Instruction<'a>, SyntaxError> {
        let mut operands = Vec::new();
        while !self.at(b';') {
            if !operands.is_empty() {
                // Between operands stands a comma.
                if !self.accept(b',')? {
                    let mut error = self.error("expected `,` or `;`");
                    error.text = shorten(self.text_from(start));
                    return Err(error);
                }
            }
            operands.push(self.operand()?);
        }
        let text = self.text_from(start);
        self.advance()?;
        Ok(Instruction { guard, opcode, operands, text, line })
    }

    fn operand(&mut self) -> Result<Operand<'a>, SyntaxError> {
        match self.token {
            Token::Mark(b'{') => Ok(Operand::Vector(self.operands_between(b'{', b'}')?)),
            Token::Mark(b'[') => Ok(Operand::Address(self.operands_between(b'[', b']')?)),
            Token::Mark(b'(') => Ok(Operand::List(self.operands_between(b'(', b')')?)),
            Token::Mark(b'!') => {
                self.advance()?;
                Ok(Operand::Not(self.word()?))
            }
            Token::Mark(b'-') => {
                self.advance()?;
                if let Token::Word(name) = self.token {
                    self.advance()?;
                    return Ok(Operand::Negated(name));
                }
                match self.number()? {
                    Initial::Single(bits) => Ok(Operand::Single(bits ^ 0x8000_0000)),
                    Initial::Double(value) => Ok(Operand::Double(-value)),
                    Initial::Integer(value) => Ok(Operand::Integer(value.wrapping_neg())),
                    _ => Err(self.error("expected a number")),
                }
            }
            Token::Mark(b'~' | b'+') | Token::Integer(_) | Token::Single(_) | Token::Double(_) => {
                match self.number()? {
                    Initial::Single(bits) => Ok(Operand::Single(bits)),
                    Initial::Double(value) => Ok(Operand::Double(value)),
                    Initial::Integer(value) => Ok(Operand::Integer(value)),
                    _ => Err(self.error("expected a number")),
                }
            }
            Token::Word(name) => {
                self.advance()?;
                if self.accept(b'|')? {
                    return Ok(Operand::Pair(name, self.word()?));
                }
                let mut offset = 0i64;
                while self.at(b'+') || self.at(b'-') {
                    let negative = self.accept(b'-')?;
                    self.accept(b'+')?;
                    let Initial::Integer(value) = self.number()? else { return Err(self.error("expected an integer")) };
                    offset = offset.wrapping_add(if negative { (value as i64).wrapping_neg() } else { value as i64 });
                }
                Ok(Operand::Name(name, offset))
            }
            _ => Err(self.error("expected an operand")),
        }
    }

    fn operands_between(&mut self, open: u8, close: u8) -> Result<Vec<Operand<'a>>, SyntaxError> {
        self.enter()?;
        self.expect(open)?;
        let mut operands = Vec::new();
        while !self.accept(close)? {
            if !operands.is_empty() {
                self.expect(b',')?;
            }
            operands.push(self.operand()?);
        }
        self.leave();
        Ok(operands)
    }

    /// A constant: a number with signs, or sums, products and shifts of integers.
    pub(super) fn number(&mut self) -> Result<Initial<'a>, SyntaxError> {
        match self.factor()? {
            Initial::Integer(first) => {
                let mut value = first;
                // From left to right: compilers only ever write `a+b`, `a*b`.
                while let Token::Mark(mark @ (b'*' | b'/' | b'%' | b'<' | b'>' | b'&' | b'^')) = self.token {
                    self.advance()?;
                    if matches!(mark, b'<' | b'>') {
                        self.expect(mark)?;
                    }
                    let Initial::Integer(next) = self.factor()? else {
                        return Err(self.error("expected an integer"));
                    };
                    value = match mark {
                        b'*' => value.wrapping_mul(next),
                        b'/' => value.checked_div(next).ok_or_else(|| self.error("division by zero"))?,
                        b'%' => value.checked_rem(next).ok_or_else(|| self.error("division by zero"))?,
                        b'<' => value.checked_shl(next as u32).unwrap_or(0),
                        b'>' => value.checked_shr(next as u32).unwrap_or(0),
                        b'&' => value & next,
                        _ => value ^ next,
                    };
                }
                Ok(Initial::Integer(value))
            }
            other => Ok(other),
        }
    }

    fn factor(&mut self) -> Result<Initial<'a>, SyntaxError> {
        let (mut negative, mut complement) = (false, false);
        loop {
            match self.token {
                Token::Mark(b'-') => negative = !negative,
                Token::Mark(b'+') => {}
                Token::Mark(b'~') => complement = !complement,
                _ => break,
            }
            self.advance()?;
        }
        match self.advance()? {
            Token::Integer(value) => {
                let value = if complement { !value } else { value };
                Ok(Initial::Integer(if negative { value.wrapping_neg() } else { value }))
            }
            Token::Single(bits) => Ok(Initial::Single(if negative { bits ^ 0x8000_0000 } else { bits })),
            Token::Double(value) => Ok(Initial::Double(if negative { -value } else { value })),
            _ => Err(self.error("expected a number")),
        }
    }
}
