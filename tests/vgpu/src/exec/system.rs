//! What programs ask of the system: vprintf, assertions, malloc and free of kernels, nanosleep.

use super::FaultKind;
use super::access::LOCAL;
use super::code::{Flow, Instruction};
use super::stack;
use super::warp::{Progress, Warp};
use crate::checks::Kind;

/// The arguments of a call for a lane, as 64-bit words.
fn arguments<const N: usize>(warp: &Warp<'_>, instruction: &Instruction, lane: usize) -> [u64; N] {
    let call = &warp.grid.code.calls[instruction.immediate as usize];
    std::array::from_fn(|index| {
        let &(offset, bytes) = call.arguments.get(index).unwrap_or(&(0, 0));
        read_local(warp, lane, warp.frame.local + offset, bytes.min(8) as usize)
    })
}

fn read_local(warp: &Warp<'_>, lane: usize, offset: u32, bytes: usize) -> u64 {
    let begin = lane * warp.state.local_bytes as usize + offset as usize;
    let mut word = [0; 8];
    if let Some(found) = warp.state.local.get(begin..begin + bytes) {
        word[..bytes].copy_from_slice(found);
    }
    u64::from_le_bytes(word)
}

/// Gives a call's result to a lane.
fn give(warp: &mut Warp<'_>, instruction: &Instruction, lane: usize, value: u64) {
    let call = &warp.grid.code.calls[instruction.immediate as usize];
    let Some(&(offset, bytes)) = call.results.first() else { return };
    let begin = lane * warp.state.local_bytes as usize + (warp.frame.local + offset) as usize;
    let bytes = bytes.min(8) as usize;
    if let Some(place) = warp.state.local.get_mut(begin..begin + bytes) {
        place.copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
    if warp.state.track_local {
        warp.state.local_written[begin..begin + bytes].fill(1);
    }
}

/// A byte of a text in any memory; `None` where there is none.
fn read_byte(warp: &Warp<'_>, lane: usize, address: u64) -> Option<u8> {
    if address & !0xffff_ffff == LOCAL {
        let offset = address - LOCAL;
        if offset >= stack::BEGIN {
            let stack = &warp.state.stack;
            return stack.bytes.get(lane * stack.room + (offset - stack::BEGIN) as usize).copied();
        }
        let begin = lane * warp.state.local_bytes as usize;
        return warp.state.local.get(begin + offset as usize).copied();
    }
    let window = warp.grid.table.find(address, 1)?;
    // SAFETY: the window holds the address.
    Some(unsafe { window.host(address).read() })
}

/// A text that ends with a zero byte.
fn read_text(warp: &Warp<'_>, lane: usize, address: u64) -> String {
    let bytes = (0..4096).map_while(|index| read_byte(warp, lane, address + index).filter(|&byte| byte != 0));
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// `vprintf(format, arguments)`: to the standard output, each thread's text at once.
pub(crate) fn vprintf(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        let [format, values] = arguments(warp, instruction, lane);
        let format = read_text(warp, lane, format);
        let mut offset = 0;
        let mut take = |bytes: u64| {
            offset = u64::next_multiple_of(offset, bytes);
            let word = (0..bytes).map(|index| read_byte(warp, lane, values + offset + index).unwrap_or(0));
            let word = word.enumerate().map(|(index, byte)| u64::from(byte) << (8 * index)).sum();
            offset += bytes;
            word
        };
        let text = format_text(&format, &mut take, |address| read_text(warp, lane, address));
        let count = format.matches('%').count() as u64;
        use std::io::Write;
        // A program that closed its output does not want to read this.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        give(warp, instruction, lane, count);
    }
    Flow::Next
}

/// Formats as C does. `take` gives the next argument of 4 or 8 bytes, `text` a string by its address.
fn format_text(format: &str, take: &mut impl FnMut(u64) -> u64, text: impl Fn(u64) -> String) -> String {
    let mut result = String::new();
    let mut rest = format.chars().peekable();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            result.push(letter);
            continue;
        }
        let (mut left, mut zero, mut plus, mut blank, mut alternate) = (false, false, false, false, false);
        while let Some(&flag) = rest.peek() {
            match flag {
                '-' => left = true,
                '0' => zero = true,
                '+' => plus = true,
                ' ' => blank = true,
                '#' => alternate = true,
                _ => break,
            }
            rest.next();
        }
        let mut number = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            if rest.peek() == Some(&'*') {
                rest.next();
                return Some(take(4) as u32 as i32 as usize);
            }
            let mut value = None;
            while let Some(digit) = rest.peek().and_then(|letter| letter.to_digit(10)) {
                value = Some((value.unwrap_or(0) * 10 + digit as usize).min(4096));
                rest.next();
            }
            value
        };
        let width = number(&mut rest).unwrap_or(0).min(4096);
        let precision = if rest.peek() == Some(&'.') {
            rest.next();
            Some(number(&mut rest).unwrap_or(0).min(4096))
        } else {
            None
        };
        let mut long = false;
        while let Some(&size) = rest.peek() {
            match size {
                'l' | 'z' | 'j' | 't' => long = true,
                'h' => {}
                _ => break,
            }
            rest.next();
        }
        let bytes = if long { 8 } else { 4 };
        let signed = |word: u64| if long { word as i64 } else { i64::from(word as u32 as i32) };
        let sign = |negative: bool| {
            if negative {
                "-"
            } else if plus {
                "+"
            } else if blank {
                " "
            } else {
                ""
            }
        };
        let (prefix, digits) = match rest.next() {
            Some('d' | 'i') => {
                let value = signed(take(bytes));
                (sign(value < 0).to_owned(), value.unsigned_abs().to_string())
            }
            Some('u') => (String::new(), take(bytes).to_string()),
            Some('x') => (if alternate { "0x".into() } else { String::new() }, format!("{:x}", take(bytes))),
            Some('X') => (if alternate { "0X".into() } else { String::new() }, format!("{:X}", take(bytes))),
            Some('o') => (String::new(), format!("{:o}", take(bytes))),
            Some('p') => ("0x".into(), format!("{:x}", take(8))),
            Some('c') => (String::new(), char::from(take(4) as u8).to_string()),
            Some('s') => {
                let text = text(take(8));
                (String::new(), text.chars().take(precision.unwrap_or(usize::MAX)).collect())
            }
            Some(kind @ ('f' | 'F' | 'e' | 'E' | 'g' | 'G')) => {
                let value = f64::from_bits(take(8));
                (sign(value.is_sign_negative()).to_owned(), format_double(kind, value.abs(), precision.unwrap_or(6)))
            }
            Some('%') => (String::new(), "%".to_owned()),
            other => (String::new(), other.map_or("%".to_owned(), |letter| format!("%{letter}"))),
        };
        let missing = width.saturating_sub(prefix.chars().count() + digits.chars().count());
        match (left, zero) {
            (true, _) => result.extend([prefix, digits, " ".repeat(missing)]),
            (false, true) => result.extend([prefix, "0".repeat(missing), digits]),
            (false, false) => result.extend([" ".repeat(missing), prefix, digits]),
        }
    }
    result
}

fn format_double(kind: char, value: f64, precision: usize) -> String {
    if !value.is_finite() {
        let text = if value.is_nan() { "nan" } else { "inf" };
        return if kind.is_ascii_uppercase() { text.to_uppercase() } else { text.to_owned() };
    }
    let scientific = |digits: usize| {
        let text = format!("{value:.digits$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        (mantissa.to_owned(), exponent)
    };
    let join = |mantissa: &str, exponent: i32| {
        let sign = if exponent < 0 { '-' } else { '+' };
        let letter = if kind.is_ascii_uppercase() { 'E' } else { 'e' };
        format!("{mantissa}{letter}{sign}{:02}", exponent.abs())
    };
    match kind.to_ascii_lowercase() {
        'f' => format!("{value:.precision$}"),
        'e' => {
            let (mantissa, exponent) = scientific(precision);
            join(&mantissa, exponent)
        }
        _ => {
            let digits = precision.max(1);
            let (mantissa, exponent) = scientific(digits - 1);
            let trim = |text: String| {
                if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
            };
            if exponent < -4 || exponent >= digits as i32 {
                join(&trim(mantissa), exponent)
            } else {
                let after = (digits as i32 - 1 - exponent) as usize;
                trim(format!("{value:.after$}"))
            }
        }
    }
}

/// `__assertfail(message, file, line, function, size)`.
pub(crate) fn assert_fail(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let lane = mask.trailing_zeros();
    let [message, file, line, function] = arguments(warp, instruction, lane as usize);
    let read = |address| read_text(warp, lane as usize, address);
    let detail = format!("{}:{}: {}: assertion `{}` failed", read(file), line as u32, read(function), read(message));
    warp.fault(instruction, lane, FaultKind::Assert, Kind::Trap, None, detail)
}

/// `malloc(bytes)`: there is no heap for kernels, which is an answer that programs must expect.
pub(crate) fn malloc(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        give(warp, instruction, lane, 0);
    }
    Flow::Next
}

/// `free(pointer)` of what `malloc` never gave.
pub(crate) fn free(warp: &mut Warp<'_>, instruction: &Instruction, mask: u32) -> Flow {
    let first = mask.trailing_zeros();
    let [pointer] = arguments(warp, instruction, first as usize);
    if pointer == 0 {
        return Flow::Next;
    }
    let detail = format!("{pointer:#x} is no pointer that malloc gave in a kernel");
    warp.fault(instruction, first, FaultKind::IllegalAddress, Kind::InvalidFree, None, detail)
}

/// `nanosleep`: the others have their turn.
pub(crate) fn nanosleep(warp: &mut Warp<'_>, instruction: &Instruction, _mask: u32) -> Flow {
    let next = warp.at(instruction) + 1;
    warp.state.yielded = true;
    warp.pause(next, Progress::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_c() {
        let format = |format: &str, words: &[u64]| {
            let mut words = words.iter().copied();
            format_text(format, &mut |_| words.next().unwrap_or(0), |_| "text".to_owned())
        };
        assert_eq!(format("%d|%5d|%-5d|%05d|%+d", &[7, 7, 7, 7, 7]), "7|    7|7    |00007|+7");
        assert_eq!(format("%d %u %ld", &[0xffff_ffff, 0xffff_ffff, u64::MAX]), "-1 4294967295 -1");
        assert_eq!(format("%x %#X %o %c %%", &[255, 255, 8, 65]), "ff 0XFF 10 A %");
        let (pi, big) = (std::f64::consts::PI.to_bits(), 1.5e10f64.to_bits());
        assert_eq!(
            format("%f %.2f %8.3f %e %g %g", &[pi, pi, pi, pi, pi, big]),
            "3.141593 3.14    3.142 3.141593e+00 3.14159 1.5e+10"
        );
        assert_eq!(format("%s %.2s|%6s", &[0, 0, 0]), "text te|  text");
    }
}
