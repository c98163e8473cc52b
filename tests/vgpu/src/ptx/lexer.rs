//! Text to tokens.

use super::tree::SyntaxError;

/// One token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// A name, a directive (`.reg`), an opcode with its modifiers (`ld.global.L1::evict_last.b32`) or a register with its component (`%tid.x`).
    Word(&'a str),
    /// An integer. Its suffix `U` is dropped.
    Integer(u64),
    /// The bits of an f32 written as `0f3F800000`.
    Single(u32),
    /// A double written as `0d...` or in decimal.
    Double(f64),
    /// What stands between quotation marks.
    Text(&'a str),
    /// Any other character; shifts are two of them.
    Mark(u8),
    /// The end of the source.
    End,
}

/// Where the next token begins.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    source: &'a str,
    /// Byte offset of what was not read yet.
    pub at: usize,
    /// Where the last token began.
    pub start: usize,
    /// Line of `at`, from 1.
    pub line: u32,
}

/// Whether a byte can begin a name.
fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'%' | b'$' | b'_' | b'.') || byte >= 0x80
}

/// Whether a byte can go on in one.
fn continues_word(byte: u8) -> bool {
    begins_word(byte) && byte != b'%' || byte.is_ascii_digit()
}

impl<'a> Lexer<'a> {
    /// A lexer at the begin of `source`.
    pub fn new(source: &'a str) -> Lexer<'a> {
        Lexer { source, at: 0, start: 0, line: 1 }
    }

    /// The text between two offsets, of which the second came later.
    pub fn text(&self, from: usize, to: usize) -> &'a str {
        self.source.get(from..to).unwrap_or("")
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Steps over blanks and comments.
    fn skip(&mut self) {
        let bytes = self.source.as_bytes();
        while self.at < bytes.len() {
            match bytes[self.at] {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c | 0 => self.at += 1,
                b'/' if self.byte(1) == b'/' => self.skip_line(),
                // Line markers of a preprocessor.
                b'#' => self.skip_line(),
                b'/' if self.byte(1) == b'*' => {
                    self.at += 2;
                    while self.at < bytes.len() && !(bytes[self.at] == b'*' && self.byte(1) == b'/') {
                        self.line += u32::from(bytes[self.at] == b'\n');
                        self.at += 1;
                    }
                    self.at = (self.at + 2).min(bytes.len());
                }
                _ => return,
            }
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.source.as_bytes()[self.at..];
        self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }

    /// Reads a token.
    pub fn next(&mut self) -> Result<Token<'a>, SyntaxError> {
        self.skip();
        let start = self.at;
        self.start = start;
        let bytes = self.source.as_bytes();
        let Some(&first) = bytes.get(start) else { return Ok(Token::End) };
        if begins_word(first) {
            self.at += 1;
            loop {
                let byte = self.byte(0);
                if continues_word(byte) {
                    self.at += 1;
                } else if byte == b':' && self.byte(1) == b':' && continues_word(self.byte(2)) {
                    // The double colon of `.shared::cluster`; a label ends with a single one.
                    self.at += 2;
                } else {
                    break;
                }
            }
            return Ok(Token::Word(self.text(start, self.at)));
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == b'"' {
            self.at += 1;
            let begin = self.at;
            loop {
                match self.byte(0) {
                    b'"' if self.at < bytes.len() => break,
                    b'\\' => self.at += 1,
                    b'\n' => return Err(self.error("a text without its closing quotation mark")),
                    _ => {}
                }
                if self.at >= bytes.len() {
                    return Err(self.error("a text without its closing quotation mark"));
                }
                self.at += 1;
            }
            self.at += 1;
            return Ok(Token::Text(self.text(begin, self.at - 1)));
        }
        self.at += 1;
        Ok(Token::Mark(first))
    }

    fn number(&mut self) -> Result<Token<'a>, SyntaxError> {
        let start = self.at;
        let (first, second) = (self.byte(0), self.byte(1) | 0x20);
        let (radix, skip) = match (first, second) {
            (b'0', b'x') => (16, 2),
            (b'0', b'b') => (2, 2),
            (b'0', b'f' | b'd') => {
                self.at += 2;
                let digits = if second == b'f' { 8 } else { 16 };
                let end = (self.at + digits).min(self.source.len());
                let bits = self.source.get(self.at..end).filter(|text| text.len() == digits);
                let bits = bits.and_then(|text| u64::from_str_radix(text, 16).ok());
                let bits =
                    bits.ok_or_else(|| self.error("a floating-point number that is not 8 or 16 hexadecimal digits"))?;
                self.at = end;
                return Ok(if digits == 8 { Token::Single(bits as u32) } else { Token::Double(f64::from_bits(bits)) });
            }
            _ => (10, 0),
        };
        self.at += skip;
        let begin = self.at;
        while self.byte(0).is_ascii_hexdigit() && (radix == 16 || self.byte(0).is_ascii_digit()) {
            self.at += 1;
        }
        let decimal_point = radix == 10 && self.byte(0) == b'.' && self.byte(1).is_ascii_digit();
        let exponent = radix == 10 && self.byte(0) | 0x20 == b'e';
        if decimal_point || exponent {
            self.at += 1;
            while self.byte(0).is_ascii_digit()
                || self.byte(0) | 0x20 == b'e'
                || (matches!(self.byte(0), b'+' | b'-') && self.source.as_bytes()[self.at - 1] | 0x20 == b'e')
            {
                self.at += 1;
            }
            let value = self.text(start, self.at).parse();
            return value.map(Token::Double).map_err(|_| self.error("not a number"));
        }
        let digits = self.text(begin, self.at);
        let radix = if radix == 10 && digits.len() > 1 && first == b'0' { 8 } else { radix };
        let value = u64::from_str_radix(digits, radix);
        if matches!(self.byte(0), b'U' | b'u') {
            self.at += 1;
        }
        value.map(Token::Integer).map_err(|_| self.error("not an integer of 64 bits"))
    }

    /// An error at the current line.
    pub fn error(&self, reason: impl Into<String>) -> SyntaxError {
        let from = self.source.get(..self.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let text = self.source.get(from..).and_then(|rest| rest.lines().next()).unwrap_or("").trim();
        SyntaxError { function: None, line: self.line, text: shorten(text), reason: reason.into() }
    }
}

/// At most 200 characters of a text, for messages.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
