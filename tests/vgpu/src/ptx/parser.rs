//! Tokens to modules, functions, statements and operands. Declarations of variables are in [`super::declare`].

use super::lexer::{Lexer, Token};
use super::tree::*;

/// Nested braces, parentheses and brackets that a text may have.
const MAXIMUM_DEPTH: u32 = 64;

/// Parses a source file.
///
/// # Errors
/// The first thing that is not PTX.
pub fn parse(source: &str) -> Result<Module<'_>, SyntaxError> {
    // Some producers end the text with a zero byte, as a C string.
    Parser::new(source.trim_end_matches('\0'))?.module()
}

/// A recursive-descent parser with one token of look-ahead.
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next token.
    pub token: Token<'a>,
    /// Its line.
    pub line: u32,
    /// Where it begins in the source.
    pub start: usize,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Result<Parser<'a>, SyntaxError> {
        let mut parser = Parser { lexer: Lexer::new(source), token: Token::End, line: 1, start: 0, depth: 0 };
        parser.advance()?;
        Ok(parser)
    }

    /// Reads the next token and returns the one before it.
    pub fn advance(&mut self) -> Result<Token<'a>, SyntaxError> {
        let before = self.token;
        self.token = self.lexer.next()?;
        self.line = self.lexer.line;
        self.start = self.lexer.start;
        Ok(before)
    }

    /// An error at the next token.
    pub fn error(&self, reason: impl Into<String>) -> SyntaxError {
        let mut error = self.lexer.error(reason);
        error.line = self.line;
        error
    }

    /// Whether the next token is this character.
    pub fn at(&self, mark: u8) -> bool {
        self.token == Token::Mark(mark)
    }

    /// Steps over a character if it is next.
    pub fn accept(&mut self, mark: u8) -> Result<bool, SyntaxError> {
        let found = self.at(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Steps over a character that must be next.
    pub fn expect(&mut self, mark: u8) -> Result<(), SyntaxError> {
        if self.accept(mark)? { Ok(()) } else { Err(self.error(format!("expected `{}`", mark as char))) }
    }

    /// Reads a name.
    pub fn word(&mut self) -> Result<&'a str, SyntaxError> {
        match self.token {
            Token::Word(word) => {
                self.advance()?;
                Ok(word)
            }
            _ => Err(self.error("expected a name")),
        }
    }

    /// Reads a directive or keyword if it is next.
    pub fn accept_word(&mut self, wanted: &str) -> Result<bool, SyntaxError> {
        let found = self.token == Token::Word(wanted);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Reads an unsigned integer.
    pub fn integer(&mut self) -> Result<u64, SyntaxError> {
        match self.token {
            Token::Integer(value) => {
                self.advance()?;
                Ok(value)
            }
            _ => Err(self.error("expected an integer")),
        }
    }

    /// Goes one level deeper into nested text.
    pub fn enter(&mut self) -> Result<(), SyntaxError> {
        self.depth += 1;
        if self.depth > MAXIMUM_DEPTH { Err(self.error("nested too deeply")) } else { Ok(()) }
    }

    /// Comes back from [`Parser::enter`].
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    fn module(mut self) -> Result<Module<'a>, SyntaxError> {
        let mut module = Module { address_size: 64, ..Module::default() };
        while self.token != Token::End {
            if self.accept(b';')? {
                continue;
            }
            match self.token {
                Token::Word(".version") => {
                    self.advance()?;
                    module.version = self.version()?;
                }
                Token::Word(".target") => {
                    self.advance()?;
                    module.target = self.word()?;
                    while self.accept(b',')? {
                        self.word()?;
                    }
                }
                Token::Word(".address_size") => {
                    self.advance()?;
                    module.address_size = self.integer()? as u32;
                }
                Token::Word(".file") => {
                    self.advance()?;
                    let number = self.integer()? as u32;
                    let Token::Text(path) = self.advance()? else { return Err(self.error("expected a path")) };
                    module.files.push((number, path));
                    while self.accept(b',')? {
                        self.integer()?;
                    }
                }
                Token::Word(".section") => self.skip_section()?,
                Token::Word(".pragma") => self.skip_statement()?,
                Token::Word(".alias") => {
                    self.advance()?;
                    let name = self.word()?;
                    self.expect(b',')?;
                    let target = self.word()?;
                    self.expect(b';')?;
                    module.aliases.push((name, target));
                }
                Token::Word(_) => self.declaration_or_function(&mut module)?,
                _ => return Err(self.error("expected a directive")),
            }
        }
        if module.version == (0, 0) {
            return Err(self.error("no .version directive"));
        }
        Ok(module)
    }

    /// `8.7`, which the lexer takes for a number.
    fn version(&mut self) -> Result<(u32, u32), SyntaxError> {
        let text = self.lexer.text(self.start, self.lexer.at);
        let (major, minor) = text.split_once('.').ok_or_else(|| self.error("expected a version such as 8.0"))?;
        let parts = major.parse().ok().zip(minor.parse().ok());
        let version = parts.ok_or_else(|| self.error("expected a version such as 8.0"))?;
        self.advance()?;
        Ok(version)
    }

    /// The source from an offset up to the next token, without the blanks around it.
    pub fn text_from(&self, start: usize) -> &'a str {
        self.lexer.text(start, self.start).trim()
    }

    /// Debug information: `.section .debug_info { ... }`.
    fn skip_section(&mut self) -> Result<(), SyntaxError> {
        self.advance()?;
        self.word()?;
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.advance()? {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') => depth -= 1,
                Token::End => return Err(self.error("a section without its closing brace")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Steps behind the next semicolon.
    pub(super) fn skip_statement(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.advance()? {
                Token::Mark(b';') => return Ok(()),
                Token::End => return Err(self.error("expected `;`")),
                _ => {}
            }
        }
    }

    fn declaration_or_function(&mut self, module: &mut Module<'a>) -> Result<(), SyntaxError> {
        let linkage = self.linkage()?;
        let Token::Word(word) = self.token else { return Err(self.error("expected a directive")) };
        match word {
            ".entry" | ".func" => {
                self.advance()?;
                module.functions.push(self.function(linkage, word == ".entry")?);
            }
            ".global" | ".const" | ".shared" | ".local" => {
                for variable in self.variables()? {
                    module.variables.push(Variable { linkage, ..variable });
                }
            }
            _ => return Err(self.error(format!("`{word}` is no directive of a module"))),
        }
        Ok(())
    }

    fn linkage(&mut self) -> Result<Linkage, SyntaxError> {
        let mut linkage = Linkage::Private;
        loop {
            linkage = match self.token {
                Token::Word(".visible") => Linkage::Visible,
                Token::Word(".extern") => Linkage::Extern,
                Token::Word(".weak") => Linkage::Weak,
                Token::Word(".common") => Linkage::Common,
                _ => return Ok(linkage),
            };
            self.advance()?;
        }
    }

    fn function(&mut self, linkage: Linkage, is_entry: bool) -> Result<Function<'a>, SyntaxError> {
        self.skip_attributes()?;
        let returns = if !is_entry && self.at(b'(') { self.parameters()? } else { Vec::new() };
        let line = self.line;
        let name = self.word()?;
        let in_function = |error: SyntaxError| SyntaxError { function: Some(name.to_owned()), ..error };
        let mut rest = || -> Result<Function<'a>, SyntaxError> {
            let params = if self.at(b'(') { self.parameters()? } else { Vec::new() };
            let mut limits = Vec::new();
            while let Token::Word(directive) = self.token {
                self.advance()?;
                if directive == ".pragma" || directive == ".abi_preserve" || directive == ".abi_preserve_control" {
                    while !matches!(self.token, Token::Mark(b';') | Token::End | Token::Mark(b'{')) {
                        self.advance()?;
                    }
                    self.accept(b';')?;
                    continue;
                }
                let mut numbers = Vec::new();
                while let Token::Integer(value) = self.token {
                    self.advance()?;
                    numbers.push(value);
                    self.accept(b',')?;
                }
                limits.push((directive, numbers));
            }
            let body = if self.accept(b';')? {
                None
            } else {
                self.expect(b'{')?;
                Some(self.body()?)
            };
            Ok(Function { is_entry, linkage, name, returns: Vec::new(), params, limits, body, line })
        };
        let function = rest().map_err(in_function)?;
        Ok(Function { returns, ..function })
    }
}
