//! Instructions from their text on: what the decoder makes of modifiers and operands, lane by lane.

use super::device::Parameter::Long;
use super::memory::kernel;
use cuda::machine::Machine;
use cuda::program::{LoadErrorKind, Program};

/// Runs `text` for 64 triples of words, `%r1` to `%r3`, and compares what it leaves in `%r0` (any word before) with `wanted`.
fn check(text: &str, wanted: impl Fn(u32, u32, u32) -> u32) {
    let body = format!(
        ".reg .b32 %r<12>; .reg .b64 %rd<4>; .reg .b16 %rs<8>; .reg .pred %p<4>;
        mov.u32 %r9, %ctaid.x; mad.lo.u32 %r9, %r9, 32, %thread;
        mul.wide.u32 %rd0, %r9, 16; add.u64 %rd1, %out, %rd0;
        ld.global.v4.u32 {{%r0, %r1, %r2, %r3}}, [%rd1];
        setp.lt.u32 %p1, %r9, 32;
        {text}
        st.global.u32 [%rd1], %r0;"
    );
    let device = kernel(Machine::h100(), "", "", &body);
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Some bytes at the ends of their range.
        let bytes = (state as u32)
            .to_le_bytes()
            .map(|byte| if byte % 5 == 0 { [0, 0x7f, 0x80, 0xff][byte as usize / 5 % 4] } else { byte });
        u32::from_le_bytes(bytes)
    };
    let inputs: Vec<u32> = (0..256).map(|_| word()).collect();
    let out = device.upload(&inputs);
    device.must("k", 2, 32, &[Long(out)]);
    let found = device.download::<u32>(out, 256);
    for (index, lane) in inputs.chunks_exact(4).enumerate() {
        let [_, a, b, c] = [lane[0], lane[1], lane[2], lane[3]];
        assert_eq!(found[4 * index], wanted(a, b, c), "{text}: {a:#x} {b:#x} {c:#x}");
    }
}

fn byte(word: u32, index: u32) -> u32 {
    word >> (8 * index) & 0xff
}

fn half(word: u32, index: u32) -> u32 {
    word >> (16 * index) & 0xffff
}

#[test]
fn scalar_video_instructions() {
    check("vadd.u32.u32.u32 %r0, %r1, %r2;", |a, b, _| a.wrapping_add(b));
    check("vadd.u32.u32.u32.sat %r0, %r1.b1, %r2.h0;", |a, b, _| byte(a, 1) + half(b, 0));
    check("vadd.s32.s32.u32.sat.add %r0, %r1, %r2.b3, %r3;", |a, b, c| {
        (a as i32).saturating_add(byte(b, 3) as i32).wrapping_add(c as i32) as u32
    });
    check("vsub.s32.u32.u32.sat %r0.b2, %r1.b0, %r2.b1, %r3;", |a, b, c| {
        let difference = (byte(a, 0) as i32 - byte(b, 1) as i32).clamp(-128, 127);
        c & 0xff00_ffff | u32::from(difference as u8) << 16
    });
    check("vabsdiff.u32.s32.s32 %r0, %r1.h1, %r2.h0;", |a, b, _| {
        u32::from((half(a, 1) as i16).abs_diff(half(b, 0) as i16))
    });
    check("vmin.s32.s32.s32.max %r0, %r1, %r2, %r3;", |a, b, c| (a as i32).min(b as i32).max(c as i32) as u32);
    check("vmax.u32.u32.u32 %r0.h1, %r1.h0, %r2.h1, %r3;", |a, b, c| c & 0xffff | half(a, 0).max(half(b, 1)) << 16);
    check("vshl.u32.u32.u32.wrap %r0, %r1, %r2;", |a, b, _| a << (b & 31));
    check("vshr.s32.s32.u32.clamp.add %r0, %r1, %r2.b0, %r3;", |a, b, c| {
        ((i64::from(a as i32) >> byte(b, 0).min(32)) as u32).wrapping_add(c)
    });
    check("vset.s32.s32.lt %r0, %r1, %r2;", |a, b, _| u32::from((a as i32) < b as i32));
    check("vset.u32.u32.ge.add %r0, %r1.b3, %r2.b3, %r3;", |a, b, c| {
        c.wrapping_add(u32::from(byte(a, 3) >= byte(b, 3)))
    });
    check("vmad.s32.s32.s32.shr7 %r0, %r1.h0, -%r2.h1, %r3;", |a, b, c| {
        let product = i64::from(half(a, 0) as i16) * i64::from(half(b, 1) as i16);
        ((i64::from(c as i32) - product) >> 7) as u32
    });
    check("vmad.u32.u32.u32.po.sat %r0, %r1, %r2.b0, %r3;", |a, b, c| {
        let sum = u64::from(a) * u64::from(byte(b, 0)) + u64::from(c) + 1;
        u32::try_from(sum).unwrap_or(u32::MAX)
    });
}

#[test]
fn simd_video_instructions() {
    let bytes = |f: &dyn Fn(u32) -> u32| (0..4).map(|index| (f(index) & 0xff) << (8 * index)).sum::<u32>();
    check("vadd4.u32.u32.u32.sat %r0, %r1, %r2, %r3;", |a, b, _| bytes(&|i| (byte(a, i) + byte(b, i)).min(255)));
    check("vsub4.s32.s32.s32 %r0, %r1, %r2, %r3;", |a, b, _| bytes(&|i| byte(a, i).wrapping_sub(byte(b, i))));
    check("vabsdiff4.u32.u32.u32.add %r0, %r1, %r2, %r3;", |a, b, c| {
        (0..4).fold(c, |sum, i| sum.wrapping_add(byte(a, i).abs_diff(byte(b, i))))
    });
    check("vavrg4.u32.u32.u32 %r0, %r1, %r2, %r3;", |a, b, _| bytes(&|i| (byte(a, i) + byte(b, i)).div_ceil(2)));
    check("vmax4.s32.s32.s32 %r0.b20, %r1, %r2, %r3;", |a, b, c| {
        bytes(&|i| if i % 2 == 0 { (byte(a, i) as i8).max(byte(b, i) as i8) as u32 } else { byte(c, i) })
    });
    // Elements 0 to 3 are those of a, 4 to 7 those of b; the name begins with the highest.
    check("vadd4.u32.u32.u32 %r0, %r1.b7654, %r2.b0123, %r3;", |a, b, _| bytes(&|i| byte(b, i) + byte(a, 3 - i)));
    check("vset4.u32.u32.eq.add %r0, %r1, %r2, %r3;", |a, b, c| {
        (0..4).fold(c, |sum, i| sum.wrapping_add(u32::from(byte(a, i) == byte(b, i))))
    });
    let halves = |f: &dyn Fn(u32) -> u32| f(0) & 0xffff | f(1) << 16;
    check("vmin2.s32.s32.s32 %r0, %r1, %r2, %r3;", |a, b, _| {
        halves(&|i| (half(a, i) as i16).min(half(b, i) as i16) as u32)
    });
    check("vadd2.s32.s32.s32.sat %r0.h1, %r1.h01, %r2.h32, %r3;", |a, b, c| {
        halves(&|i| match i {
            1 => (half(a, 0) as i16).saturating_add(half(b, 1) as i16) as u32,
            _ => half(c, 0),
        })
    });
}

#[test]
fn logic_with_a_predicate() {
    let selected = "selp.u32 %r0, 1, 2, %p0;";
    // %p1 holds in the first block alone: the same inputs are compared with both.
    check(
        &format!("setp.eq.u32 %p2, %r3, %r3; lop3.and.b32 %r4|%p0, %r1, %r2, %r3, 0x80, %p2; {selected}"),
        |a, b, c| {
            if a & b & c != 0 { 1 } else { 2 }
        },
    );
    check(
        &format!("setp.lt.u32 %p2, %r1, %r2; lop3.or.b32 _|%p0, %r1, %r1, %r3, 0x00, !%p2; {selected}"),
        |a, b, _| {
            if a >= b { 1 } else { 2 }
        },
    );
    check("setp.eq.u32 %p2, %r3, %r3; lop3.or.b32 %r0|%p2, %r1, %r2, %r3, 0x96, %p2;", |a, b, c| a ^ b ^ c);
    check("mad24.hi.sat.s32 %r0, %r1, %r2, %r3;", |a, b, c| {
        let low24 = |word: u32| i64::from((word << 8) as i32 >> 8);
        let product = (low24(a) * low24(b)) >> 16;
        (product + i64::from(c as i32)).clamp(i32::MIN.into(), i32::MAX.into()) as u32
    });
}

#[test]
fn outside_of_tensors_products_are_nothing() {
    // What is no such NaN is multiplied as ever.
    let plain = |word: u32| ::half::f16::from_bits(word as u16);
    check(
        "cvt.u16.u32 %rs1, %r1; mov.b16 %rs2, 0x7fff; fma.rn.oob.f16 %rs0, %rs1, %rs2, %rs1; cvt.u32.u16 %r0, %rs0;",
        |_, _, _| 0,
    );
    check(
        "and.b32 %r1, %r1, 0x3fff; and.b32 %r2, %r2, 0x3fff; cvt.u16.u32 %rs1, %r1; cvt.u16.u32 %rs2, %r2; mov.b16 %rs3, 0; fma.rn.oob.f16 %rs0, %rs1, %rs2, %rs3; cvt.u32.u16 %r0, %rs0;",
        |a, b, _| {
            let product = plain(a & 0x3fff).to_f64() * plain(b & 0x3fff).to_f64();
            u32::from(::half::f16::from_f64(product).to_bits())
        },
    );
}

#[test]
fn comparisons_of_pairs_with_a_predicate() {
    let plain = |word: u32, index: u32| ::half::f16::from_bits(half(word, index) as u16).to_f32();
    check("setp.lt.u32 %p2, %r3, 0x80000000; set.lt.and.u32.f16x2 %r0, %r1, %r2, %p2;", move |a, b, c| {
        let holds = |index| c < 1 << 31 && plain(a, index) < plain(b, index);
        [0, 1].iter().map(|&index| if holds(index) { 0xffff << (16 * index) } else { 0 }).sum()
    });
    check("setp.lt.u32 %p2, %r3, 0x80000000; set.neu.xor.f16x2.f16x2 %r0, %r1, %r2, !%p2;", move |a, b, c| {
        let differs = |index: u32| {
            let (x, y) = (plain(a, index), plain(b, index));
            x.is_nan() || y.is_nan() || x != y
        };
        let holds = |index| differs(index) != (c >= 1 << 31);
        [0, 1].iter().map(|&index| if holds(index) { 0x3c00 << (16 * index) } else { 0 }).sum()
    });
}

#[test]
fn what_the_decoder_refuses() {
    let refuses = |text: &str| {
        let text = format!(
            ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n.reg .b32 %r<8>;\n{text}\nret;\n}}\n"
        );
        Program::load(&[&text], Machine::h100().capability).unwrap_err().kind
    };
    for text in [
        "vadd.u32.u32.u32 %r0.b2, %r1, %r2;",
        "vadd.u32.u32.u32 %r0, %r1.b4, %r2;",
        "vadd4.u32.u32.u32 %r0, %r1.b123, %r2, %r3;",
        "vadd4.u32.u32.u32 %r0, %r1.b8123, %r2, %r3;",
        "vadd2.u32.u32.u32 %r0.b1, %r1, %r2, %r3;",
        "vmad.s32.s32.s32 %r0, -%r1, %r2, -%r3;",
        "vshl.u32.u32.u32 %r0, %r1, %r2;",
        "vavrg.u32.u32.u32 %r0, %r1, %r2;",
        "add.u32 %r0, -%r1, %r2;",
        "mma.sp.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%r4, %r5}, {%r0, %r1, %r2, %r3}, %r6, 2;",
    ] {
        assert!(matches!(refuses(text), LoadErrorKind::Syntax | LoadErrorKind::Unsupported), "{text}");
    }
}
