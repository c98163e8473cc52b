//! The driver API, called as programs call it.

mod clients;
mod contexts;
mod graphs;
mod memory;
mod modules;
mod multicast;
mod robustness;
mod streams;

/// Adds one to each of `n` words.
pub const INCREMENT: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry increment(.param .u64 words, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd0, [words];
    ld.param.u32 %r0, [n];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r4, %r1, %r2, %r3;
    setp.ge.u32 %p, %r4, %r0;
    @%p bra DONE;
    cvta.to.global.u64 %rd1, %rd0;
    mul.wide.u32 %rd2, %r4, 4;
    add.u64 %rd3, %rd1, %rd2;
    ld.global.u32 %r5, [%rd3];
    add.u32 %r5, %r5, 1;
    st.global.u32 [%rd3], %r5;
DONE:
    ret;
}
";
