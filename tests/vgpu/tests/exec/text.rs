//! Loading: malformed text is an error and never more, errors say where, and linking joins sources.

use cuda::machine::{Capability, Machine};
use cuda::program::{LoadErrorKind, Program};

const SMALL: &str = include_str!("kernels/small.ptx");
const GEMM: &str = include_str!("kernels/gemm.ptx");

fn capability() -> Capability {
    Machine::h100().capability
}

/// A random number generator (xorshift) below a bound.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % bound.max(1)
    }
}

/// Texts that were PTX until something happened to them: `VGPU_FUZZ` says how many, few by default.
#[test]
fn no_text_makes_the_loader_panic() {
    let rounds: u64 = std::env::var("VGPU_FUZZ").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    for round in 0..rounds {
        let mut next = random(round + 1);
        let source = if round % 2 == 0 { SMALL } else { GEMM };
        // A window of the text keeps a round short; the header stays, or nothing would be looked at.
        let begin = next(source.len());
        let body: String = source.chars().skip(begin).take(3000).collect();
        let mut text =
            format!(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f(.param .u64 p)\n{{\n{body}");
        for _ in 0..1 + next(8) {
            let at = (0..text.len()).cycle().skip(next(text.len())).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            match next(5) {
                0 => text.truncate(at),
                1 => text.insert(
                    at,
                    ['{', '}', '[', ']', ';', ',', '.', '%', '"', '\\', '\u{e9}', '0', '-', '(', '@'][next(15)],
                ),
                2 => {
                    let end = (at + next(40)).min(text.len());
                    if text.is_char_boundary(end) {
                        text.replace_range(at..end, "");
                    }
                }
                3 => text.insert_str(
                    at,
                    [" .reg .b32 %r<99>; ", "99999999999999999999", "0f3f", "ld.global.v4.u64", "$L"][next(5)],
                ),
                _ => {
                    let end = (at + next(200)).min(text.len());
                    if text.is_char_boundary(end) {
                        let part = text[at..end].to_owned();
                        text.insert_str(at, &part);
                    }
                }
            }
            if text.is_empty() {
                break;
            }
        }
        let _ = Program::load(&[&text], capability());
    }
}

#[test]
fn nesting_is_bounded() {
    for mark in ["{", "[", "(", ".global .b8 x[1] = {", "mov.b32 %r, {", "-", "~"] {
        let text = format!(".version 8.0\n.target sm_80\n.visible .entry f()\n{{\n{}", mark.repeat(100_000));
        assert!(Program::load(&[&text], capability()).is_err());
    }
}

#[test]
fn errors_name_function_line_and_instruction() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f()\n{\n\t.reg .b32 %r<2>;\n\tfrobnicate.b32 %r0, %r1;\n\tret;\n}\n";
    let error = Program::load(&[text], capability()).unwrap_err();
    assert_eq!((error.kernel.as_deref(), error.line, error.kind), (Some("f"), 7, LoadErrorKind::Unsupported));
    assert_eq!(error.text, "frobnicate.b32 %r0, %r1");
    let newer = text.replace("sm_80", "sm_100");
    assert_eq!(Program::load(&[&newer], capability()).unwrap_err().kind, LoadErrorKind::WrongTarget);
    let unknown = text.replace("frobnicate.b32 %r0, %r1", "add.u32 %r0, %r1, %r7");
    assert_eq!(Program::load(&[&unknown], capability()).unwrap_err().kind, LoadErrorKind::UnresolvedSymbol);
}

#[test]
fn functions_and_variables_are_found_in_other_sources() {
    let header = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let caller = format!(
        "{header}.extern .func (.param .b32 r) f(.param .b32 a);\n.extern .global .align 4 .u32 v;\n.visible .entry k()\n{{\n\
         .reg .b32 %r<3>;\n.param .b32 x;\n.param .b32 y;\nld.global.u32 %r0, [v];\nst.param.b32 [x], %r0;\n\
         call.uni (y), f, (x);\nld.param.b32 %r1, [y];\nst.global.u32 [v], %r1;\nret;\n}}\n"
    );
    let called = format!(
        "{header}.visible .global .align 4 .u32 v = 5;\n.visible .func (.param .b32 r) f(.param .b32 a)\n{{\n.reg .b32 %r<3>;\n\
         ld.param.b32 %r0, [a];\nadd.u32 %r1, %r0, 1;\nst.param.b32 [r], %r1;\nret;\n}}\n"
    );
    let program = Program::load(&[&caller, &called], capability()).unwrap();
    assert_eq!((program.kernels.len(), program.globals.len()), (1, 1));
    let error = Program::load(&[&caller], capability()).unwrap_err();
    assert_eq!(error.kind, LoadErrorKind::UnresolvedSymbol);
}
