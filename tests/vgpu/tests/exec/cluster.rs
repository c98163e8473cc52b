//! Clusters: shared memory of other blocks, their barriers, copies to several of them, stores that an mbarrier counts; and grids whose blocks wait for each other.

use super::device::Parameter::*;
use super::memory::kernel;
use cuda::checks::Kind;
use cuda::machine::Machine;

const CLUSTER: &str = " .reqnctapercluster 4";

/// Shared words of four blocks of 32 threads: each writes its rank and thread, and reads those of the next block.
const NEIGHBOUR: &str = ".shared .align 8 .b8 tile[128];
    .reg .b64 %rd<8>; .reg .b32 %r<12>; 
    mov.u32 %r0, %cluster_ctarank;
    shl.b32 %r1, %thread, 2; mov.u32 %r2, tile; add.u32 %r3, %r2, %r1;
    mad.lo.u32 %r4, %r0, 1000, %thread;
    st.shared.u32 [%r3], %r4;
    BARRIER
    add.u32 %r5, %r0, 1; and.b32 %r5, %r5, 3;
    mapa.shared::cluster.u32 %r6, %r3, %r5;
    getctarank.shared::cluster.u32 %r9, %r6;
    ld.shared::cluster.u32 %r7, [%r6];
    mad.lo.u32 %r7, %r9, 100000, %r7;
    mov.u32 %r8, %ctaid.x; mad.lo.u32 %r8, %r8, 32, %thread;
    mul.wide.u32 %rd0, %r8, 4; add.u64 %rd1, %out, %rd0;
    st.global.u32 [%rd1], %r7;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

const WAIT: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

#[test]
fn shared_memory_of_the_next_block() {
    for threads in [1, 2] {
        let mut device = kernel(Machine::h100(), "", CLUSTER, &NEIGHBOUR.replace("BARRIER", WAIT));
        device.settings.threads = threads;
        let out = device.upload(&vec![0u32; 8 * 32]);
        device.must("k", 8, 32, &[Long(out)]);
        let expected: Vec<u32> = (0..8 * 32).map(|i| ((i / 32 + 1) % 4) * 101_000 + i % 32).collect();
        assert_eq!(device.download::<u32>(out, 8 * 32), expected);
    }
}

#[test]
fn remote_writes_are_in_order_behind_the_barrier_of_the_cluster() {
    // Each block writes into the next one, which reads what it got.
    let text = ".shared .align 8 .b8 tile[128];
        .reg .b64 %rd<8>; .reg .b32 %r<12>;
        mov.u32 %r0, %cluster_ctarank;
        shl.b32 %r1, %thread, 2; mov.u32 %r2, tile; add.u32 %r3, %r2, %r1;
        add.u32 %r5, %r0, 1; and.b32 %r5, %r5, 3;
        mapa.shared::cluster.u32 %r6, %r3, %r5;
        mad.lo.u32 %r4, %r0, 1000, %thread;
        st.shared::cluster.u32 [%r6], %r4;
        BARRIER
        ld.shared.u32 %r7, [%r3];
        mov.u32 %r8, %ctaid.x; mad.lo.u32 %r8, %r8, 32, %thread;
        mul.wide.u32 %rd0, %r8, 4; add.u64 %rd1, %out, %rd0;
        st.global.u32 [%rd1], %r7;";
    let device = kernel(Machine::h100(), "", CLUSTER, &text.replace("BARRIER", WAIT));
    let out = device.upload(&[0u32; 128]);
    device.must("k", 4, 32, &[Long(out)]);
    let expected: Vec<u32> = (0..128).map(|i| ((i / 32 + 3) % 4) * 1000 + i % 32).collect();
    assert_eq!(device.download::<u32>(out, 128), expected);
    // Without the barrier some block reads too early: never written, or not in order.
    let device = kernel(Machine::h100(), "", CLUSTER, &text.replace("BARRIER", "bar.sync 0;"));
    let out = device.upload(&[0u32; 128]);
    let fault = device.run("k", [4, 1, 1], [32, 1, 1], 0, &[Long(out)]).unwrap_err();
    assert!(
        fault.findings.iter().all(|f| matches!(f.kind, Kind::Uninitialised | Kind::SharedRace)),
        "{:?}",
        fault.findings
    );
}

/// `st.async` or `red.async` from block 1 into block 0, which waits for the bytes.
fn counted(store: &str, bytes: u32) -> Vec<u32> {
    let text = format!(
        ".shared .align 16 .b8 tile[512]; .shared .align 8 .b64 ready;
        .reg .b64 %rd<8>; .reg .b32 %r<12>; .reg .pred %p<4>;
        mov.u32 %r0, %cluster_ctarank;
        setp.eq.u32 %p0, %thread, 0;
        mov.u32 %r2, tile; mad.lo.u32 %r3, %thread, 16, %r2; mov.u32 %r9, ready;
        @%p0 mbarrier.init.shared.b64 [%r9], 1;
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r9], {};
        st.shared.v4.u32 [%r3], {{%thread, 2, 3, 4}};
        {WAIT}
        mapa.shared::cluster.u32 %r6, %r3, 0;
        mapa.shared::cluster.u32 %r7, %r9, 0;
        add.u32 %r4, %thread, 100;
        setp.ne.u32 %p1, %r0, 0;
        @%p1 bra send;
        again:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r9], 0;
        @!%p2 bra again;
        ld.shared.u32 %r5, [%r3];
        mul.wide.u32 %rd0, %thread, 4; add.u64 %rd1, %out, %rd0;
        st.global.u32 [%rd1], %r5;
        ld.shared.u32 %r5, [%r3+4];
        st.global.u32 [%rd1+128], %r5;
        bra done;
        send:
        {store}
        done:
        {WAIT}",
        32 * bytes
    );
    let device = kernel(Machine::h100(), "", " .reqnctapercluster 2", &text);
    let out = device.upload(&[0u32; 64]);
    device.must("k", 2, 32, &[Long(out)]);
    device.download::<u32>(out, 64)
}

#[test]
fn stores_that_an_mbarrier_counts() {
    let pairs = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r6], {%r4, %thread}, [%r7];";
    let found = counted(pairs, 8);
    assert!((0..32).all(|i| found[i] == i as u32 + 100 && found[32 + i] == i as u32));
    let sums = "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r6], %r4, [%r7];";
    let found = counted(sums, 4);
    assert!((0..32).all(|i| found[i] == 2 * i as u32 + 100 && found[32 + i] == 2));
}

#[test]
fn bulk_copies_to_several_blocks() {
    // Block 0 sends 512 bytes of global memory to blocks 0, 1 and 3; block 3 passes them on to block 2.
    let text = format!(
        ".shared .align 16 .b8 tile[512]; .shared .align 8 .b64 ready;
        .reg .b64 %rd<8>; .reg .b32 %r<12>; .reg .b16 %mask; .reg .pred %p<6>;
        mov.u32 %r0, %cluster_ctarank;
        setp.eq.u32 %p0, %thread, 0;
        mov.u32 %r2, tile; mad.lo.u32 %r3, %thread, 16, %r2; mov.u32 %r9, ready;
        @%p0 mbarrier.init.shared.b64 [%r9], 1;
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r9], 512;
        {WAIT}
        setp.eq.and.u32 %p1, %r0, 0, %p0;
        mov.b16 %mask, 11;
        @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r2], [%out], 512, [%r9], %mask;
        again:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r9], 0;
        @!%p2 bra again;
        setp.eq.and.u32 %p3, %r0, 3, %p0;
        mapa.shared::cluster.u32 %r6, %r2, 2;
        mapa.shared::cluster.u32 %r7, %r9, 2;
        @%p3 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r6], [%r2], 512, [%r7];
        ld.shared.v4.u32 {{%r4, %r5, %r10, %r11}}, [%r3];
        mov.u32 %r8, %ctaid.x; add.u32 %r8, %r8, 1; mad.lo.u32 %r8, %r8, 32, %thread;
        mul.wide.u32 %rd0, %r8, 16; add.u64 %rd1, %out, %rd0;
        st.global.v4.u32 [%rd1], {{%r4, %r5, %r10, %r11}};
        {WAIT}"
    );
    let device = kernel(Machine::h100(), "", CLUSTER, &text);
    let words: Vec<u32> = (0..128).map(|i| i * 7 + 1).collect();
    let out = device.upload(&[words.clone(), vec![0; 512]].concat());
    device.must("k", 4, 32, &[Long(out)]);
    assert_eq!(device.download::<u32>(out, 640), words.repeat(5));
}

#[test]
fn bulk_reductions() {
    // Both blocks add, or take the larger of, their 512 bytes and what is there.
    let run = |operation: &str, start: &[u32], shift: u32| {
        let text = format!(
            ".shared .align 16 .b8 tile[512];
            .reg .b64 %rd<8>; .reg .b32 %r<12>; .reg .pred %p<6>;
            setp.eq.u32 %p0, %thread, 0;
            mov.u32 %r2, tile; mad.lo.u32 %r3, %thread, 16, %r2;
            mov.u32 %r0, %ctaid.x; add.u32 %r0, %r0, %thread; shl.b32 %r0, %r0, {shift};
            st.shared.v4.u32 [%r3], {{%r0, %r0, %thread, %r0}};
            fence.proxy.async.shared::cta;
            bar.sync 0;
            @%p0 cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation} [%out], [%r2], 512;
            @%p0 cp.async.bulk.commit_group;
            @%p0 cp.async.bulk.wait_group 0;"
        );
        let device = kernel(Machine::h100(), "", "", &text);
        let out = device.upload(start);
        device.must("k", 2, 32, &[Long(out)]);
        device.download::<u32>(out, 128)
    };
    let source = |block: u32, index: u32, shift: u32| {
        if index % 4 == 2 { index / 4 } else { (block + index / 4) << shift }
    };
    let start: Vec<u32> = (0..128).map(|i| i * 3).collect();
    for (name, operation) in [
        ("add.u32", (|a, b| a + b) as fn(u32, u32) -> u32),
        ("max.u32", |a: u32, b| a.max(b)),
        ("min.s32", |a: u32, b| a.min(b)),
        ("xor.b32", |a, b| a ^ b),
        ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
    ] {
        let found = run(name, &start, 0);
        for index in 0..128u32 {
            let of = |order: [u32; 2]| {
                order.iter().fold(start[index as usize], |value, &block| operation(value, source(block, index, 0)))
            };
            let found = found[index as usize];
            assert!([of([0, 1]), of([1, 0])].contains(&found), "{name} {index} {found}");
        }
    }
    // Small whole numbers are exact in f16, two of them in a word: the upper ones of the source are what the shift makes of them.
    let ones = u32::from(half::f16::from_f32(1.0).to_bits()) * 0x1_0001;
    let found = run("add.noftz.f16", &[ones; 128], 10);
    let value = |word: u32, upper: bool| half::f16::from_bits((word >> if upper { 16 } else { 0 }) as u16).to_f32();
    for index in 0..128u32 {
        for upper in [false, true] {
            let parts = [0, 1].map(|block| value(source(block, index, 10), upper));
            let orders = [1.0 + parts[0], 1.0 + parts[1]].map(|sum: f32| half::f16::from_f32(sum).to_f32());
            let sums = [orders[0] + parts[1], orders[1] + parts[0]].map(|sum| half::f16::from_f32(sum).to_f32());
            let found = value(found[index as usize], upper);
            assert!(sums.contains(&found) || found.is_nan() && sums[0].is_nan(), "{index}: {found} {sums:?}");
        }
    }
}

#[test]
fn warps_give_registers_to_others() {
    let device = kernel(
        Machine::h100(),
        "",
        "",
        ".reg .b64 %rd<3>; .reg .b32 %r<3>; .reg .pred %p;
         setp.lt.u32 %p, %thread, 128;
         @%p bra producer;
         setmaxnreg.inc.sync.aligned.u32 240;
         mov.u32 %r0, 2; bra.uni done;
         producer:
         setmaxnreg.dec.sync.aligned.u32 24;
         mov.u32 %r0, 1;
         done:
         mul.wide.u32 %rd0, %thread, 4; add.u64 %rd1, %out, %rd0;
         st.global.u32 [%rd1], %r0;",
    );
    let out = device.upload(&[0u32; 256]);
    device.must("k", 1, 256, &[Long(out)]);
    assert_eq!(device.download::<u32>(out, 256), [[1; 128], [2; 128]].concat());
}

/// Blocks count themselves and wait until all are there, again and again: only possible if all run at once.
#[test]
fn blocks_of_a_cooperative_launch_wait_for_each_other() {
    for threads in [1, 2] {
        let mut device = kernel(
            Machine::a100(),
            "",
            "",
            ".reg .b64 %rd<3>; .reg .b32 %r<8>; .reg .pred %p<3>;
             setp.eq.u32 %p0, %thread, 0;
             mov.u32 %r0, %nctaid.x; mov.u32 %r1, 0; mov.u32 %r4, 0;
             round:
             add.u32 %r1, %r1, %r0;
             bar.sync 0;
             @!%p0 bra wait;
             atom.add.acq_rel.gpu.global.u32 %r2, [%out], 1;
             poll:
             ld.acquire.gpu.global.u32 %r3, [%out];
             setp.lt.u32 %p1, %r3, %r1;
             @%p1 bra poll;
             wait:
             bar.sync 0;
             add.u32 %r4, %r4, 1;
             setp.lt.u32 %p1, %r4, 5;
             @%p1 bra round;",
        );
        device.cooperative = true;
        device.settings.threads = threads;
        let out = device.upload(&[0u32]);
        device.must("k", 100, 64, &[Long(out)]);
        assert_eq!(device.download::<u32>(out, 1), [500]);
    }
}

/// The device runtime's barrier of the whole grid, which is linked to programs that call it.
#[test]
fn the_grid_has_a_barrier() {
    for threads in [1, 2] {
        let mut device = kernel(
            Machine::a100(),
            ".extern .func (.param .b32 error) cudaCGSynchronize(.param .b64 handle, .param .b32 flags);
             .extern .func (.param .b64 handle) cudaCGGetIntrinsicHandle(.param .b32 scope);",
            "",
            ".reg .b64 %rd<6>; .reg .b32 %r<8>; .reg .pred %p<3>;
             .param .b32 scope; .param .b64 handle; .param .b32 flags; .param .b32 error;
             st.param.b32 [scope], 1; call.uni (handle), cudaCGGetIntrinsicHandle, (scope);
             st.param.b32 [flags], 0;
             mov.u32 %r0, %ctaid.x; mad.lo.u32 %r0, %r0, 32, %thread;
             mul.wide.u32 %rd0, %r0, 4; add.u64 %rd1, %out, %rd0;
             sub.u32 %r1, 127, %r0; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd3, %out, %rd2;
             mov.u32 %r2, 0;
             round:
             ld.volatile.global.u32 %r3, [%rd3];
             call.uni (error), cudaCGSynchronize, (handle, flags);
             add.u32 %r3, %r3, 1;
             st.volatile.global.u32 [%rd1], %r3;
             call.uni (error), cudaCGSynchronize, (handle, flags);
             add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, 5;
             @%p0 bra round;",
        );
        device.cooperative = true;
        device.settings.threads = threads;
        let out = device.upload(&[0u32; 128]);
        device.must("k", 4, 32, &[Long(out)]);
        assert_eq!(device.download::<u32>(out, 128), [5; 128]);
    }
}
