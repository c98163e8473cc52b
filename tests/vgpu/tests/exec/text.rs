//! Loading: malformed text is an error and never more, errors say where, and linking joins sources.

use cuda::machine::{Capability, Machine};
use cuda::program::{LoadErrorKind, Program};

fn capability() -> Capability {
    Machine::h100().capability
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

/// Inline assembly brings the same label again and again, each in braces of its own.
#[test]
fn labels_of_scopes_are_their_own() {
    use super::device::Parameter::Long;
    let count = |register: &str| {
        format!(
            "{{ .reg .pred %p; again: add.u32 {register}, {register}, 1; setp.lt.u32 %p, {register}, 5; @%p bra again; }}\n"
        )
    };
    let body = format!(
        ".reg .b32 %r<4>; .reg .pred %p; mov.u32 %r0, 0; mov.u32 %r1, 0; mov.u32 %r2, 0;
         {}{}again: {{ {} }} add.u32 %r2, %r2, 1; setp.lt.u32 %p, %r2, 10; @%p bra again;
         mad.lo.u32 %r3, %r0, 10, %r1; mad.lo.u32 %r3, %r3, 100, %r2;
         st.global.u32 [%out], %r3;",
        count("%r0"),
        count("%r1"),
        count("%r2"),
    );
    let device = super::memory::kernel(Machine::h100(), "", "", &body);
    let out = device.upload(&[0u32]);
    device.must("k", 1, 1, &[Long(out)]);
    // The outer loop goes from 6 to 7, and so on: the inner one adds one, and the outer one another.
    assert_eq!(device.download::<u32>(out, 1), [5510]);
}
