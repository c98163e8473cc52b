//! Ways to memory that compilers take rarely: registers of 128 bits, the stack, lanes of several state spaces in one access.

use super::device::{Device, Parameter::*};
use cuda::exec::FaultKind;
use cuda::machine::Machine;

/// A module of one kernel `k(.u64 out)`, whose address `%out` holds; `%thread` is the thread.
pub fn kernel(machine: Machine, prologue: &str, declarations: &str, body: &str) -> Device {
    let target = if machine.capability.major == 9 { "sm_90a" } else { "sm_80" };
    let text = format!(
        ".version 8.6\n.target {target}\n.address_size 64\n{prologue}\n.visible .entry k(.param .u64 p){declarations}\n{{\n\
         .reg .b32 %thread;\n.reg .b64 %out;\nld.param.u64 %out, [p];\nmov.u32 %thread, %tid.x;\n{body}\nret;\n}}\n"
    );
    Device::new(machine, &text)
}

#[test]
fn registers_of_128_bits() {
    let device = kernel(
        Machine::h100(),
        "",
        "",
        ".reg .b128 %q<3>; .reg .b128 %single; .reg .b64 %rd<8>; .reg .b32 %r<4>;
         mul.wide.u32 %rd0, %thread, 32;
         add.u64 %rd1, %out, %rd0;
         ld.global.b128 %q0, [%rd1];
         mov.b128 {%rd2, %rd3}, %q0;
         add.u64 %rd2, %rd2, 1;
         mov.b128 %q1, {%rd3, %rd2};
         mov.b128 %single, %q1;
         st.global.b128 [%rd1+16], %single;",
    );
    let words: Vec<u64> = (0..128).map(|i| i * 0x0101_0101_0101).collect();
    let out = device.upload(&words);
    device.must("k", 1, 32, &[Long(out)]);
    let expected: Vec<u64> = words.chunks(4).flat_map(|w| [w[0], w[1], w[1], w[0] + 1]).collect();
    assert_eq!(device.download::<u64>(out, 128), expected);
}

#[test]
fn atomics_of_128_bits() {
    // Every thread adds 1 to the lower and 3 to the upper half, by compare and swap.
    let mut device = kernel(
        Machine::h100(),
        "",
        "",
        ".reg .b128 %old, %seen, %new; .reg .b64 %lo, %hi, %a, %b; .reg .pred %p, %q;
         mov.b64 %lo, 0; mov.b64 %hi, 0;
         mov.b128 %old, {%lo, %hi};
         again:
         mov.b128 {%lo, %hi}, %old;
         add.u64 %a, %lo, 1; add.u64 %b, %hi, 3;
         mov.b128 %new, {%a, %b};
         atom.global.cas.b128 %seen, [%out], %old, %new;
         mov.b128 {%a, %b}, %seen;
         mov.b128 %old, %seen;
         setp.ne.u64 %p, %a, %lo; setp.ne.or.u64 %q, %b, %hi, %p;
         @%q bra again;
         mov.b64 %lo, 7;
         mov.b128 %new, {%lo, %lo};
         atom.global.exch.b128 %old, [%out+16], %new;",
    );
    device.settings.threads = 2;
    let out = device.upload(&[0u64, 0, 5, 6]);
    device.must("k", 4, 64, &[Long(out)]);
    assert_eq!(device.download::<u64>(out, 4), [256, 768, 7, 7]);
}

/// Each thread takes as many words as its number plus one, fills them, calls a function that takes memory too, and adds up.
const STACK: &str = ".reg .b64 %rd<12>; .reg .b32 %r<12>; .reg .pred %p;
    add.u32 %r0, %thread, 1;
    mul.wide.u32 %rd0, %r0, 4;
    stacksave.u64 %rd9;
    alloca.u64 %rd1, %rd0, 16;
    mov.u32 %r1, 0;
    fill:
    mul.wide.u32 %rd2, %r1, 4;
    add.u64 %rd3, %rd1, %rd2;
    add.u32 %r2, %r1, 5;
    st.local.u32 [%rd3], %r2;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p, %r1, %r0;
    @%p bra fill;
    { .param .b32 a; st.param.b32 [a], %r0; call.uni f, (a); }
    mov.u32 %r3, 0; mov.u32 %r1, 0;
    cvta.local.u64 %rd8, %rd1;
    sum:
    mul.wide.u32 %rd2, %r1, 4;
    add.u64 %rd3, %rd8, %rd2;
    ld.u32 %r2, [%rd3];
    add.u32 %r3, %r3, %r2;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p, %r1, %r0;
    @%p bra sum;
    stackrestore.u64 %rd9;
    mul.wide.u32 %rd4, %thread, 4;
    add.u64 %rd5, %out, %rd4;
    st.global.u32 [%rd5], %r3;";

const TAKER: &str = ".func f(.param .b32 a)
{ .reg .b64 %rd<4>; .reg .b32 %r<4>;
  ld.param.b32 %r0, [a]; mul.wide.u32 %rd0, %r0, 8;
  alloca.u64 %rd1, %rd0; st.local.u32 [%rd1], 77; st.local.u32 [%rd1+4], 78; ret; }";

#[test]
fn memory_from_the_stack() {
    let device = kernel(Machine::a100(), TAKER, "", STACK);
    let out = device.upload(&[0u32; 64]);
    device.must("k", 1, 64, &[Long(out)]);
    let expected: Vec<u32> = (1..=64).map(|n| (0..n).map(|i| i + 5).sum()).collect();
    assert_eq!(device.download::<u32>(out, 64), expected);
}

#[test]
fn the_stack_has_bounds() {
    let run = |body: &str| {
        let device = kernel(Machine::a100(), "", "", body);
        let out = device.upload(&[0u32; 64]);
        device.run("k", [1; 3], [32, 1, 1], 0, &[Long(out)]).unwrap_err()
    };
    let beyond = run(".reg .b64 %rd<4>; .reg .b32 %r<2>; alloca.u64 %rd0, 64; st.local.u32 [%rd0+64], %thread;");
    assert_eq!(beyond.kind, FaultKind::IllegalAddress);
    let unwritten = run(".reg .b64 %rd<4>; .reg .b32 %r<2>; alloca.u64 %rd0, 64; ld.local.u32 %r0, [%rd0+60];");
    assert_eq!(unwritten.findings[0].kind, cuda::checks::Kind::Uninitialised);
    let much = run(".reg .b64 %rd<4>; alloca.u64 %rd0, 99999999;");
    assert_eq!(much.kind, FaultKind::IllegalAddress);
}

#[test]
fn lanes_of_several_spaces_in_one_access() {
    // By the thread modulo 3, a generic address of global, shared or local memory.
    let device = kernel(
        Machine::a100(),
        "",
        "",
        ".shared .align 4 .b8 tile[128]; .local .align 4 .b8 own[8];
         .reg .b64 %rd<12>; .reg .b32 %r<8>; .reg .pred %p<3>;
         rem.u32 %r0, %thread, 3;
         mul.wide.u32 %rd0, %thread, 4;
         add.u64 %rd1, %out, %rd0;
         mov.u64 %rd2, tile; cvta.shared.u64 %rd2, %rd2; add.u64 %rd2, %rd2, %rd0;
         mov.u64 %rd3, own; cvta.local.u64 %rd3, %rd3;
         setp.eq.u32 %p0, %r0, 0; setp.eq.u32 %p1, %r0, 1;
         selp.b64 %rd4, %rd1, %rd2, %p0; 
         @!%p0 selp.b64 %rd4, %rd2, %rd3, %p1;
         mul.lo.u32 %r1, %thread, 10;
         st.u32 [%rd4], %r1;
         ld.u32 %r2, [%rd4];
         add.u32 %r2, %r2, %r0;
         st.global.u32 [%rd1+128], %r2;",
    );
    let out = device.upload(&[9u32; 64]);
    device.must("k", 1, 32, &[Long(out)]);
    let found = device.download::<u32>(out, 64);
    for thread in 0..32 {
        assert_eq!(found[thread], if thread % 3 == 0 { thread as u32 * 10 } else { 9 });
        assert_eq!(found[32 + thread], thread as u32 * 10 + thread as u32 % 3);
    }
}

/// Warp 1 hands a value to warp 0 through shared memory, with a flag.
fn handed(store: &str, load: &str) -> Result<u32, Vec<cuda::checks::Kind>> {
    let device = kernel(
        Machine::a100(),
        "",
        "",
        &format!(
            ".shared .align 4 .b32 value; .shared .align 4 .b32 flag;
             .reg .b32 %r<8>; .reg .pred %p<4>;
             setp.eq.u32 %p0, %thread, 0;
             @%p0 st.shared.u32 [flag], 0;
             bar.sync 0;
             setp.eq.u32 %p1, %thread, 32;
             @%p1 st.shared.u32 [value], 7;
             @%p1 {store} [flag], 1;
             @!%p0 bra done;
             poll:
             {load} %r0, [flag];
             setp.eq.u32 %p2, %r0, 0;
             @%p2 bra poll;
             ld.shared.u32 %r1, [value];
             st.global.u32 [%out], %r1;
             done:"
        ),
    );
    let out = device.upload(&[0u32]);
    match device.run("k", [1; 3], [64, 1, 1], 0, &[Long(out)]) {
        Ok(_) => Ok(device.download::<u32>(out, 1)[0]),
        Err(fault) => Err(fault.findings.iter().map(|finding| finding.kind).collect()),
    }
}

#[test]
fn what_is_released_is_seen_by_who_acquires_it() {
    use cuda::checks::Kind::SharedRace;
    assert_eq!(handed("st.release.cta.shared.u32", "ld.acquire.cta.shared.u32"), Ok(7));
    assert_eq!(handed("st.relaxed.cta.shared.u32", "ld.relaxed.cta.shared.u32"), Ok(7));
    assert!(handed("st.shared.u32", "ld.shared.u32").is_err_and(|kinds| kinds.contains(&SharedRace)));
}

/// Two warps store the same number to the same word: no harm, as compilers know; another number is a race.
#[test]
fn stores_of_the_same_value_are_no_race() {
    let run = |value: &str| {
        let text = format!(
            ".shared .align 4 .b32 word; .reg .b32 %r<4>; .reg .b64 %rd<3>;
            shr.u32 %r0, %thread, 5; mov.u32 %r1, {value};
            st.shared.u32 [word], %r1;
            bar.sync 0;
            ld.shared.u32 %r2, [word];
            mul.wide.u32 %rd0, %thread, 4; add.u64 %rd1, %out, %rd0;
            st.global.u32 [%rd1], %r2;"
        );
        let device = kernel(Machine::h100(), "", "", &text);
        let out = device.upload(&[0u32; 64]);
        device.run("k", [1; 3], [64, 1, 1], 0, &[Long(out)]).map(|_| device.download::<u32>(out, 64))
    };
    assert_eq!(run("7").unwrap(), [7; 64]);
    let fault = run("%r0").unwrap_err();
    assert_eq!(fault.findings[0].kind, cuda::checks::Kind::SharedRace);
}
