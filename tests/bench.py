"""How fast is it, and beside what? Ratios measured on the machine at hand, in one run: no number here stands alone.

    python tests/bench.py                 about ten minutes on two idle cores
    python tests/bench.py --only 1 3      these sections alone; --quick: nano sizes, seconds, to see that all of it runs

The variants of a group take turns (A B C, C B A, ...), so that a busy machine slows them alike; ms is the median over the rounds, CPU that
of all threads' time. `ratio` is a variant's ms over that of its group's first, in brackets its range over the rounds: above 1, the first is
faster. The second ratio is that of the CPU times, steadier where cores are shared. float32; on CUDA also bfloat16 autocast, on a CPU with bfloat16 instructions in one row of section 2. Random networks, no downloads.
"""

import argparse
import functools
import importlib.metadata
import math
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Dataset, Split
from models import build
from plain import Plain, hidden, hugging_face, same_weights, timm_vit
from rekd import Rationalist, re_losses, rekd_losses
from train import hardware

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="nano sizes")
parser.add_argument("--rounds", type=int, default=5, help="of a group; a slow one stops after 3 (default: 5)")
parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: its own choice)")
parser.add_argument("--only", type=int, nargs="+", default=[1, 2, 3, 4], help="sections (default: all)")
parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # one REKD step in a process of its own
args = parser.parse_args()
torch.set_num_threads(args.threads), torch.manual_seed(0)
STUDENT, TEACHER = ({"vit": "vit_tiny", "bert": "bert_mini"}, {"vit": "vit_base", "bert": "bert_base"}) if not args.quick else (
    {"vit": "vit_nano", "bert": "bert_nano"}, {"vit": "vit_micro", "bert": "bert_micro"})
SIZES = {"vit": (32, 64), "bert": (16, 32)} if args.quick else {"vit": (64, 112, 160, 224), "bert": (32, 64, 128, 256)}
BATCHES, WORDS, SLOW, REPEAT = ((1, 2, 4), 500, 0, 0) if args.quick else ((1, 8, 32), 30522, 20, 0.2)
FULL, BATCH, PATCH, RATE, CUDA = {kind: sizes[-1] for kind, sizes in SIZES.items()}, BATCHES[1], 16, {"vit": 0.15, "bert": 0.10}, torch.cuda.is_available()
DEVICE, DTYPES, SYNC = torch.device("cuda" if CUDA else "cpu"), [torch.float32] + [torch.bfloat16] * CUDA, torch.cuda.synchronize if CUDA else lambda: None
BF16 = not CUDA and any(flag in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "") for flag in ("avx512_bf16", "amx_bf16"))
VERSIONS = {package.name: package.version for package in importlib.metadata.distributions()}
REKD = ["zero, teacher reads student", "drop, teacher reads student", "drop, teacher reads teacher",
        "drop, cache, teacher reads student", "drop, cache, teacher reads teacher", "transformers"]
CACHED, EPOCHS, VIEWS = REKD[4], 35, 4
METHOD = dict(tau=1.0, alpha=0.5, lambda_select=0.01, lambda_rationale=0.5)
shape_of = lambda kind, size=None: dict(image_size=size or FULL[kind], patch_size=PATCH) if kind == "vit" else dict(vocab_size=WORDS, max_len=size or FULL[kind])
amp = lambda dtype: torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def measure(title, variants, dtype, note=""):
    """variants {name: function, or None: not installed} -> {name: median seconds}; prints a row each."""
    runs, repeat = {name: run for name, run in variants.items() if run}, {}
    wall, cpu = {name: [] for name in runs}, {name: [] for name in runs}
    for name, run in runs.items():  # first calls allocate, choose kernels and import
        SYNC(), (start := time.perf_counter()), run(), SYNC()
        repeat[name] = min(max(1, round(REPEAT / (time.perf_counter() - start))), 100)  # short work is done several times a round
    start = time.perf_counter()
    for turn in range(args.rounds):
        for name in list(runs)[::-1 if turn % 2 else 1] if turn < 3 or time.perf_counter() - start < SLOW else ():
            SYNC(), (before := (time.perf_counter(), time.process_time()))
            for _ in range(repeat[name]):
                runs[name]()
            SYNC(), wall[name].append((time.perf_counter() - before[0]) / repeat[name]), cpu[name].append((time.process_time() - before[1]) / repeat[name])
    first, times = next(iter(runs)), {name: median(wall[name]) for name in runs}
    for name in variants:
        row = f"{title}, {dtype}".replace("torch.", "").ljust(48) + f" {name:<36} "
        if name in runs:
            each = [a / b for a, b in zip(wall[name], wall[first])]
            row += (f"{1e3 * times[name]:>9.2f} {1e3 * median(cpu[name]):>9.2f} {times[name] / times[first]:>6.2f} ({min(each):.2f}-{max(each):.2f}) {median(cpu[name]) / median(cpu[first]):>6.2f}"
                    f"  {len(each)} x {repeat[name]:<3} {note}")
        print(row if name in runs else f"{row}skipped: {name} is not installed")
    return times


def inputs(kind, batch, size=None):
    """x, y; texts differ in length, so that a batch has padding."""
    size, y = size or FULL[kind], torch.randint(10, (batch,), device=DEVICE)
    words = torch.arange(size) < torch.linspace(size, size // 2, batch).long()[:, None]
    return (torch.randn(batch, 3, size, size) if kind == "vit" else torch.randint(1, WORDS, (batch, size)) * words).to(DEVICE), y


def ours(kind, preset, masking="zero", size=None):
    """A Rationalist whose masks keep RATE of the features, as a trained one's: what `drop` costs hangs on it."""
    (x, _), model = inputs(kind, BATCH, size), build(preset=preset, method="re", num_classes=10, masking=masking, **shape_of(kind, size)).to(DEVICE).eval()
    with torch.no_grad():
        [p.normal_(std=0.02) for p in model.parameters() if p.ndim > 1]  # `build` begins with zeros
        last, keep = model.generator.head[-1], model(x).keep_logits[model.selectable(x)]
        last.weight.mul_(20 / keep.std())                # surer than the noise
        last.bias.mul_(20 / keep.std())[1] -= 20 * keep.quantile(1 - RATE[kind]) / keep.std()
    return model


def train_step(model, loss, dtype, update=True):
    """-> a function: one step of AdamW on loss(); without update, its forward and backward alone."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)
    forward = amp(dtype)(loss)
    return lambda: (value := forward(), optimizer.zero_grad(set_to_none=True), value.backward(), optimizer.step() if update else None)


def rekd_step(kind, variant, dtype):
    """variant: "transformers", or "MASKING[, cache], teacher reads WHOSE" mask."""
    (x, y), plain, reads = inputs(kind, BATCH), variant == "transformers", variant.split()[-1]
    make = lambda preset: Plain(preset, shape_of(kind), 10).to(DEVICE) if plain else ours(kind, preset, variant[:4])
    student, teacher = make(STUDENT[kind]), make(TEACHER[kind]).eval().requires_grad_(False)
    with torch.no_grad():  # a warm cache: what train.answers_of keeps of the teacher
        known = (lambda out: (out.keep_logits.half(), out.logits.half()))(teacher(x)) if "cache" in variant else None
    return train_step(student, (lambda: student.loss(teacher, x, y, tau=1.0, rate=RATE[kind])) if plain else lambda: rekd_losses(
        student, teacher, x, y, **METHOD, rate=RATE[kind], teacher_reads=reads, known=known)["loss"], dtype)


def forwards(kind, dtype):
    """1. Forward and backward: the same weights, the same inputs"""
    preset, (x, _), network = STUDENT[kind], inputs(kind, BATCH), ours(kind, STUDENT[kind]).predictor.backbone
    calls = {"ours": network, "transformers": None, **({"timm": None} if kind == "vit" else {})}
    if "transformers" in VERSIONS:
        same_weights(network, other := hugging_face(preset, shape_of(kind)).to(DEVICE))
        calls["transformers"] = lambda x: hidden(other, x)
    if "timm" in VERSIONS and kind == "vit":
        calls["timm"] = timm_vit(preset, shape_of(kind), network).to(DEVICE).forward_features
    embed = amp(dtype)(lambda call: call(x))  # a context manager decorates, too
    forward, both = torch.no_grad()(embed), lambda call: embed(call).square().mean().backward()
    real = (x != 0).unsqueeze(-1) if kind == "bert" else 1  # hidden states of padding are nobody's
    apart = max(((forward(call) - forward(network)) * real).abs().max().item() for call in calls.values() if call)
    n = 8192 if CUDA else 1536
    a = torch.randn(n, n, device=DEVICE, dtype=dtype)
    for title, run in (("forward", forward), ("forward + backward", both)):
        with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # fused kernels may go uncounted
            run(network)
        variants = {name: call and functools.partial(run, call) for name, call in calls.items()}
        times = measure(f"{preset} {title}", {**variants, f"a {n} x {n} matrix product": lambda: a @ a}, dtype, f"outputs differ by {apart:.0e}")
        print(f"  ours does {counter.get_total_flops() / times['ours'] * times.popitem()[1] / (2 * n**3):.0%} of the matrix product's FLOP/s")


def steps(kind, dtype):
    """2. A REKD step, and its parts (of the cached one where the teacher reads its own mask)"""
    title, steps = f"REKD step, {STUDENT[kind]} <- {TEACHER[kind]}", {v: rekd_step(kind, v, dtype) if v != "transformers" or v in VERSIONS else None for v in REKD}
    if BF16:
        steps["drop, cache, teacher, in bfloat16"] = rekd_step(kind, CACHED, torch.bfloat16)
    model, teacher, (x, y), (texts, labels) = *(ours(kind, size[kind], "drop") for size in (STUDENT, TEACHER)), inputs(kind, BATCH), inputs(kind, 256)
    split = Split(texts, labels, lengths=(texts != 0).sum(1).cpu()) if kind == "bert" else Split((255 * torch.rand(256, 3, 32, 32, device=DEVICE)).byte(), labels)
    data, history = Dataset("", [], split, None, None, {"image_size": FULL["vit"]}, torch.randint(2, (1, 256, 3), device=DEVICE), ""), torch.zeros(6, device=DEVICE)
    keep, weight = (torch.randn(shape, device=DEVICE, requires_grad=True) for N in model.selectable(x).shape[1:] for shape in ((BATCH, N, 2), (N, 10)))
    stub = Rationalist(lambda x: keep, lambda x, mask: mask @ weight)  # networks that cost nothing: sampling and losses remain
    known = keep.detach()[..., 0].half(), torch.randn(BATCH, 10, device=DEVICE).half()
    student = train_step(model, lambda: re_losses(model, x, y, tau=1.0, rate=RATE[kind], lambda_select=0.01)["loss"], dtype, update=False)
    student()  # AdamW needs gradients
    parts = {"student, forward and backward": student, "AdamW": torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True).step,
             "sampling and losses": lambda: rekd_losses(stub, stub, x, y, **METHOD, rate=RATE[kind], teacher_reads="teacher", known=known)["loss"].backward(),
             "data.batches": lambda: next(data.batches(split, BATCH, torch.randperm(256), view=0)),
             "logging": lambda: [history[i].copy_(labels[i]) for i in range(6)]}
    times = measure(title, {**steps, **parts, "asking the teacher": torch.no_grad()(amp(dtype)(lambda: teacher(x)))}, dtype)
    share = {part: times[part] / times[CACHED] for part in parts}
    print(f"  parts of \"{CACHED}\" (the student's also hold RE's sampling and losses): {', '.join(f'{part} {of:.2%}' for part, of in share.items())}")
    if "transformers" in times:
        views = VIEWS if kind == "vit" else 1  # texts are not augmented
        spread = times[CACHED] + views / EPOCHS * times["asking the teacher"]
        ratios = {**{v: times["transformers"] / times[v] for v in REKD[:-1]}, f"{CACHED}, and its answers, {views} a text or image in {EPOCHS} epochs": times["transformers"] / spread}
        print("  transformers / ours:", *(f"{ratio:>8.2f}  {v}" for v, ratio in ratios.items()), sep="\n  ")


def packed(kind, dtype):
    """3. Evaluation of the selected features alone"""
    zero, drop, (x, _) = ours(kind, STUDENT[kind]), ours(kind, STUDENT[kind], "drop"), inputs(kind, BATCHES[-1])
    mask = torch.no_grad()(lambda: drop(x).mask)()
    predict = torch.no_grad()(amp(dtype)(lambda model, packed: model.predictor(x, mask, packed)))
    both = torch.no_grad()(amp(dtype)(lambda model, packed: (model.generator(x), model.predictor(x, mask, packed))))
    for title, run in (("predictor", predict), ("generator + predictor", both)):
        measure(f"{STUDENT[kind]} {title}", {"zero": lambda: run(zero, False), "drop, all": lambda: run(drop, False), "drop, packed": lambda: run(drop, True)},
                dtype, note=f"batch {len(x)}: {mask.sum(1).mean():.1f} of {mask.shape[1]} selected, at most {int(mask.sum(1).max())}")


def growth(kind, dtype):
    """4. Memory of a REKD step, and how the cost of a step without a teacher grows"""
    for variant in REKD[:1] if args.quick else REKD[::2] + REKD[-1:] * ("transformers" in VERSIONS) if dtype == DTYPES[-1] else ():
        command = [sys.executable, __file__, "--threads", str(args.threads), *["--quick"] * args.quick, "--memory", kind, variant]
        peak = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        print(f"{f'memory, {STUDENT[kind]} <- {TEACHER[kind]}':<48} {variant:<36} {peak}")
    steps, cases = {}, [(BATCH, size) for size in SIZES[kind]] + [(batch, FULL[kind]) for batch in BATCHES if batch != BATCH]
    for batch, size in cases:
        model, (x, y) = ours(kind, STUDENT[kind], size=size), inputs(kind, batch, size)
        loss = lambda model=model, x=x, y=y: re_losses(model, x, y, tau=1.0, rate=RATE[kind], lambda_select=0.01)["loss"]
        steps[batch, model.selectable(x).shape[1]] = train_step(model, loss, dtype)
    times = measure(f"RE step, {STUDENT[kind]}", {f"batch {B}, {N} features": step for (B, N), step in steps.items()}, dtype).values()
    points = sorted((*key, seconds) for key, seconds in zip(steps, times))  # (B, N, seconds)
    print("  examples/s: " + ", ".join(f"{B / seconds:.1f} ({B} x {N})" for B, N, seconds in points))
    for i, what in enumerate(("batch", "features")):
        line = [point for point in points if point[1 - i] == (max(N for _, N, _ in points), BATCH)[i]]
        powers = ", ".join(f"{math.log(b[2] / a[2]) / math.log(b[i] / a[i]):.2f}" for a, b in zip(line, line[1:]))
        print(f"  time grows as {what} ({', '.join(str(point[i]) for point in line)}) to the power of {powers}")


def memory(kind, variant):
    status = Path("/proc/self/status")  # (not getrusage's ru_maxrss: a child's begins at its parent's)
    peak = lambda: torch.cuda.max_memory_allocated() >> 20 if CUDA else int(status.read_text().split("VmHWM:")[1].split()[0]) >> 10 if status.exists() else 0
    bare, step = peak(), rekd_step(kind, variant, DTYPES[-1])
    step(), step()  # AdamW's averages are there in the second
    print(f"at most {peak()} MiB, {peak() - bare} of them for this" if peak() else "skipped: this system does not tell")


if args.memory:
    memory(*args.memory)
else:
    print(f"torch {torch.__version__}, timm {VERSIONS.get('timm')}, transformers {VERSIONS.get('transformers')}; {hardware(DEVICE)}; at most {args.rounds} rounds")
    for section in (forwards, steps, packed, growth):
        for dtype in DTYPES if int(section.__doc__[0]) in args.only else ():
            print(f"\n{section.__doc__}\n{'':<85} {'ms':>9} {'CPU ms':>9}  ratio (range)      CPU  rounds x calls")
            section("vit", dtype), section("bert", dtype)
