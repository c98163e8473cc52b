//! Attention: plain loops.

use crate::device::{Context, SendPtr};
use crate::dtype::{Element, Real};

/// The sizes and masks of an attention.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Problem<'a> {
    pub batch: usize,
    pub t: usize,
    pub s: usize,
    pub capacity: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub d: usize,
    pub scale: f64,
    pub causal: Option<usize>,
    pub keys: Option<&'a [u8]>,
}

/// What the backward reads.
#[allow(missing_docs)]
pub struct Saved<'a, E: Element> {
    pub q: &'a [E],
    pub k: &'a [E],
    pub v: &'a [E],
    pub out: &'a [E],
    pub lse: &'a [E::Acc],
    pub d_out: &'a [E],
}

impl Problem<'_> {
    /// How many of the two masks hide key `s` of image `b` from query `t`.
    fn masks(&self, b: usize, t: usize, s: usize) -> usize {
        let padded = self.keys.is_some_and(|keys| keys[b * self.s + s] == 0);
        let later = self.causal.is_some_and(|o| s > t + o);
        padded as usize + later as usize
    }
}

fn dot<E: Element>(a: &[E], b: &[E]) -> E::Acc {
    a.iter().zip(b).map(|(a, b)| a.to_acc() * b.to_acc()).sum()
}

/// See [`crate::ops::attention::forward`].
pub fn forward<E: Element>(
    cx: &Context,
    p: &Problem<'_>,
    q: &[E],
    k: &[E],
    v: &[E],
    out: &mut [E],
    lse: &mut [E::Acc],
) {
    let (d, scale) = (p.d, E::Acc::of(p.scale));
    let out = SendPtr(out.as_mut_ptr());
    cx.pool().run_parts(lse, p.t, |bn, lse| {
        let (b, n) = (bn / p.heads, bn % p.heads);
        let kv = n / (p.heads / p.kv_heads);
        let mut sums = vec![E::Acc::ZERO; d];
        for (t, lse) in lse.iter_mut().enumerate() {
            let at = ((b * p.t + t) * p.heads + n) * d;
            let key = |s: usize| ((b * p.capacity + s) * p.kv_heads + kv) * d;
            let score = |s: usize| scale * dot(&q[at..at + d], &k[key(s)..key(s) + d]);
            let mut max = E::Acc::LOWEST;
            let mut seen = 0usize;
            for s in (0..p.s).filter(|&s| p.masks(b, t, s) == 0) {
                max = max.max(score(s));
                seen += 1;
            }
            sums.fill(E::Acc::ZERO);
            let mut total = E::Acc::ZERO;
            for s in (0..p.s).filter(|&s| seen == 0 || p.masks(b, t, s) == 0) {
                let w = if seen == 0 { E::Acc::ONE } else { (score(s) - max).exp() };
                total += w;
                sums.iter_mut().zip(&v[key(s)..key(s) + d]).for_each(|(sum, v)| *sum += w * v.to_acc());
            }
            // SAFETY: each (b, t, n) is written by one chunk, and lies inside `out`.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), d) };
            for (out, &sum) in out.iter_mut().zip(&sums) {
                *out = E::from_acc(if p.s == 0 { E::Acc::ZERO } else { sum / total });
            }
            *lse = if seen == 0 { E::Acc::LOWEST } else { max + total.ln() };
        }
    });
}

/// See [`crate::ops::attention::backward`].
pub fn backward<E: Element>(cx: &Context, p: &Problem<'_>, x: &Saved<'_, E>, dq: &mut [E], dk: &mut [E], dv: &mut [E]) {
    let (d, scale, group) = (p.d, E::Acc::of(p.scale), p.heads / p.kv_heads);
    let (dq, dk, dv) = (SendPtr(dq.as_mut_ptr()), SendPtr(dk.as_mut_ptr()), SendPtr(dv.as_mut_ptr()));
    cx.pool().run(p.batch * p.kv_heads, |bk| {
        let (b, kv) = (bk / p.kv_heads, bk % p.kv_heads);
        let mut dk_sum = vec![E::Acc::ZERO; p.capacity * d];
        let mut dv_sum = vec![E::Acc::ZERO; p.capacity * d];
        let mut dq_sum = vec![E::Acc::ZERO; d];
        for n in kv * group..(kv + 1) * group {
            for t in 0..p.t {
                let at = ((b * p.t + t) * p.heads + n) * d;
                let (q, d_out) = (&x.q[at..at + d], &x.d_out[at..at + d]);
                let delta = dot(d_out, &x.out[at..at + d]);
                let lse = x.lse[(b * p.heads + n) * p.t + t];
                dq_sum.fill(E::Acc::ZERO);
                for s in 0..p.s {
                    let masks = p.masks(b, t, s);
                    if masks > 0 && lse != E::Acc::LOWEST {
                        continue;
                    }
                    let key = ((b * p.capacity + s) * p.kv_heads + kv) * d;
                    let (k, v) = (&x.k[key..key + d], &x.v[key..key + d]);
                    let (w, share) = if lse == E::Acc::LOWEST {
                        (E::Acc::ONE / E::Acc::of_usize(p.s), E::Acc::of(if masks == 1 { 0.5 } else { 0.0 }))
                    } else {
                        ((scale * dot(q, k) - lse).exp(), E::Acc::ONE)
                    };
                    let ds = share * scale * w * (dot(d_out, v) - delta);
                    for c in 0..d {
                        dv_sum[s * d + c] += w * d_out[c].to_acc();
                        dk_sum[s * d + c] += ds * q[c].to_acc();
                        dq_sum[c] += ds * k[c].to_acc();
                    }
                }
                for (c, &sum) in dq_sum.iter().enumerate() {
                    // SAFETY: (b, t, n) belongs to this chunk alone.
                    unsafe { *dq.get().add(at + c) = E::from_acc(sum) };
                }
            }
        }
        for s in 0..p.capacity {
            for c in 0..d {
                let to = ((b * p.capacity + s) * p.kv_heads + kv) * d + c;
                // SAFETY: (b, s, kv) belongs to this chunk alone.
                unsafe {
                    *dk.get().add(to) = E::from_acc(dk_sum[s * d + c]);
                    *dv.get().add(to) = E::from_acc(dv_sum[s * d + c]);
                }
            }
        }
    });
}
