"""Times ops of PyTorch at the sizes of `deem bench`: a line of JSON each. Needs a torch that sees a GPU; run by gpu.sh."""
import json
import statistics

import torch
import torch.nn.functional as F


def timed(op, shape, dtype, call):
    for _ in range(5):
        call()
    times = []
    for _ in range(50):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    name = {torch.bfloat16: "bf16", torch.float32: "f32"}[dtype]
    print(json.dumps({"op": op, "shape": shape, "dtype": name, "us": round(statistics.median(times), 2)}), flush=True)


def cases(dtype):
    def numbers(*shape, grad=False):
        return (torch.rand(*shape, device="cuda", dtype=dtype) - 0.5).requires_grad_(grad)

    for m, n, k in [(1024, 1024, 1024), (8, 4096, 4096), (308, 3072, 768)]:
        a, b = numbers(m, k), numbers(n, k)
        timed("gemm nt", f"[{m}, {n}, {k}]", dtype, lambda: a @ b.T)
    for b, t, n, d, causal in [(1, 1024, 8, 64, False), (1, 512, 8, 128, True), (2, 1024, 8, 40, False)]:
        shape = f"[{b}, {t}, {t}, {n}, {d}]{' causal' if causal else ''}"
        # Heads beside each other in memory, as deem has them.
        q, k, v = (numbers(b, t, n, d, grad=True).transpose(1, 2) for _ in range(3))
        timed("attention forward", shape, dtype, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        d_out = torch.rand_like(out)
        timed("attention backward", shape, dtype, lambda: torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True))
    q, (k, v) = numbers(2, 4096, 8, 40).transpose(1, 2), (numbers(2, 77, 8, 40).transpose(1, 2) for _ in range(2))
    timed("cross_attention forward", "[2, 4096, 77, 8, 40]", dtype, lambda: F.scaled_dot_product_attention(q, k, v))
    for stride in (1, 2):
        x = numbers(2, 320, 32, 32).to(memory_format=torch.channels_last)
        w = numbers(320, 320, 3, 3).to(memory_format=torch.channels_last)
        timed("conv2d forward", f"[2, 32, 32, 320] 3x3/{stride} to 320", dtype, lambda: F.conv2d(x, w, stride=stride, padding=1))
    x, w = numbers(2, 128, 64, 64).to(memory_format=torch.channels_last), numbers(128, 1, 7, 7)
    timed("conv2d_depthwise forward", "[2, 64, 64, 128] 7x7", dtype, lambda: F.conv2d(x, w, padding=3, groups=128))
    x, w, bias = numbers(4096, 1024), numbers(1024), numbers(1024)
    timed("layernorm forward", "[4096, 1024]", dtype, lambda: F.layer_norm(x, (1024,), w, bias))
    y, g, b2 = numbers(2, 320, 64, 64).to(memory_format=torch.channels_last), numbers(320), numbers(320)
    timed("groupnorm+silu forward", "[2, 64, 64, 320]", dtype, lambda: F.silu(F.group_norm(y, 32, g, b2)))
    z = numbers(1024, 3072)
    timed("activation gelu", "[1024, 3072]", dtype, lambda: F.gelu(z))
    logits, targets = numbers(512, 32006), torch.randint(0, 32006, (512,), device="cuda")
    timed("cross_entropy forward", "[512, 32006]", dtype, lambda: F.cross_entropy(logits, targets))
    table, ids = numbers(32006, 1024), torch.randint(0, 32006, (2048,), device="cuda")
    timed("embedding gather", "[2048] of [32006, 1024]", dtype, lambda: F.embedding(ids, table))


torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
for kind in (torch.bfloat16, torch.float32):
    cases(kind)
