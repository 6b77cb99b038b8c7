"""How fast is it, and beside what? Ratios measured on the machine at hand, in one run: no number here stands alone.

    python tests/bench.py                 about five minutes on two idle cores
    python tests/bench.py --only 1 3      these sections alone; --quick: nano sizes, seconds, to see that all of it runs

The variants of a group take turns (A B C, C B A, ...), so that a busy machine slows them alike; ms is the median over the rounds, CPU that
of all threads' time. `ratio` is a variant's ms over that of its group's first, in brackets its range over the rounds: above 1, the first is
faster. `peak` is the share of a big matrix product's FLOP/s. float32; on CUDA also bfloat16 autocast. Random networks, no downloads.
"""

import argparse
import functools
import importlib.metadata
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Dataset, Split
from models import build, load_pretrained
from plain import Plain, hidden, hugging_face, timm_vit
from rekd import Rationalist, re_losses, rekd_losses
from train import hardware

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="nano sizes")
parser.add_argument("--rounds", type=int, default=5, help="of a group; a slow one stops after 3 (default: 5)")
parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: its own choice)")
parser.add_argument("--only", type=int, nargs="+", default=[1, 2, 3, 4], help="sections (default: all)")
parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # one REKD step in a process of its own
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
if args.quick:
    STUDENT, TEACHER, SIZES = {"vit": "vit_nano", "bert": "bert_nano"}, {"vit": "vit_micro", "bert": "bert_micro"}, {"vit": (32, 64), "bert": (16, 32)}
    BATCHES, WORDS, SLOW, REPEAT = (1, 2, 4), 500, 0, 0
else:
    STUDENT, TEACHER = {"vit": "vit_tiny", "bert": "bert_mini"}, {"vit": "vit_base", "bert": "bert_base"}
    SIZES, BATCHES, WORDS, SLOW, REPEAT = {"vit": (64, 112, 160, 224), "bert": (32, 64, 128, 256)}, (1, 8, 32), 30522, 10, 0.2
BATCH, PATCH, RATE, CUDA = BATCHES[1], 16, {"vit": 0.15, "bert": 0.10}, torch.cuda.is_available()
DEVICE, DTYPES, SYNC = torch.device("cuda" if CUDA else "cpu"), [torch.float32] + [torch.bfloat16] * CUDA, torch.cuda.synchronize if CUDA else lambda: None
VERSIONS = {package.name: package.version for package in importlib.metadata.distributions()}
REKD = ["zero, teacher reads student", "drop, teacher reads student", "drop, teacher reads teacher", "transformers"]
METHOD = dict(tau=1.0, alpha=0.5, lambda_select=0.01, lambda_rationale=0.5)
amp = lambda dtype: torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def measure(title, variants, dtype, flops=0, note=""):
    """variants {name: function, or None: not installed} -> {name: median seconds}; prints a row each. flops: of each function's work."""
    runs = {name: run for name, run in variants.items() if run}
    wall, cpu, repeat = {name: [] for name in runs}, {name: [] for name in runs}, {}
    for name, run in runs.items():  # first calls allocate, choose kernels and import
        SYNC(), (start := time.perf_counter()), run(), SYNC()
        repeat[name] = min(max(1, round(REPEAT / (time.perf_counter() - start))), 100)  # short work is done several times a round
    start = time.perf_counter()
    for turn in range(args.rounds):
        for name in list(runs)[::-1 if turn % 2 else 1] if turn < 3 or time.perf_counter() - start < SLOW else ():
            SYNC(), (before := (time.perf_counter(), time.process_time())), [runs[name]() for _ in range(repeat[name])], SYNC()
            wall[name].append((time.perf_counter() - before[0]) / repeat[name]), cpu[name].append((time.process_time() - before[1]) / repeat[name])
    first, times = next(iter(runs)), {name: median(wall[name]) for name in runs}
    for name in variants:
        row = f"{title}, {dtype}".replace("torch.", "").ljust(48) + f" {name:<27} "
        if name in runs:
            each = [a / b for a, b in zip(wall[name], wall[first])]
            row += (f"{1e3 * times[name]:>9.2f} {1e3 * median(cpu[name]):>9.2f} {times[name] / times[first]:>6.2f} ({min(each):.2f}-{max(each):.2f}) "
                    f"{f'{flops / times[name] / ceiling(dtype):.0%}' if flops else '':>4}  {len(each)} x {repeat[name]:<3} {note}")
        print(row if name in runs else f"{row}skipped: {name} is not installed")
    return times


@functools.cache
def ceiling(dtype, n=8192 if CUDA else 1536):
    """FLOP/s of a big square matrix product, the best of 6."""
    a, times = torch.randn(n, n, device=DEVICE, dtype=dtype), []
    for _ in range(6):
        SYNC(), (start := time.perf_counter()), a @ a, SYNC(), times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


# ---------------------------------------------------------------- what is measured

def inputs(kind, batch, size=None):
    """x, y; texts differ in length, so that a batch has padding."""
    size, y = size or SIZES[kind][-1], torch.randint(10, (batch,), device=DEVICE)
    words = torch.arange(size) < torch.linspace(size, size // 2, batch).long()[:, None]
    return (torch.randn(batch, 3, size, size) if kind == "vit" else torch.randint(1, WORDS, (batch, size)) * words).to(DEVICE), y


def shape_of(kind, size=None):
    size = size or SIZES[kind][-1]
    return {"image_size": size, "patch_size": PATCH} if kind == "vit" else {"vocab_size": WORDS, "max_len": size}


def ours(kind, preset, masking="zero", size=None):
    """A Rationalist whose masks keep RATE of the features, as a trained one's: what `drop` costs hangs on it."""
    x, _ = inputs(kind, BATCH, size)
    model = build(preset=preset, method="re", num_classes=10, masking=masking, **shape_of(kind, size)).to(DEVICE).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.02) if p.ndim > 1 else None  # `build` begins with zeros
        last, keep = model.generator.head[-1], model(x).keep_logits[model.selectable(x)]
        last.weight.mul_(20 / keep.std())                # surer than the noise
        last.bias.mul_(20 / keep.std())[1] -= 20 * keep.quantile(1 - RATE[kind]) / keep.std()
    return model


def train_step(model, loss, dtype, update=True):
    """-> a function: one step of AdamW on loss(); without update, its forward and backward alone."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)

    def step():
        with amp(dtype):
            value = loss()
        optimizer.zero_grad(set_to_none=True), value.backward(), optimizer.step() if update else None
    return step


def rekd_step(kind, variant, dtype):
    """variant: "transformers", or "MASKING, teacher reads WHOSE" mask."""
    (x, y), plain, method = inputs(kind, BATCH), variant == "transformers", dict(METHOD, teacher_reads=variant.split()[-1])
    student, teacher = (Plain(preset, shape_of(kind), 10).to(DEVICE) if plain else ours(kind, preset, variant[:4]) for preset in (STUDENT[kind], TEACHER[kind]))
    teacher.eval().requires_grad_(False)
    # HERE a teacher cache becomes one more variant: what the step then takes in the teacher's place is made before the lambda.
    loss = (lambda: student.loss(teacher, x, y, tau=1.0, rate=RATE[kind])) if plain else lambda: rekd_losses(student, teacher, x, y, **method, rate=RATE[kind])["loss"]
    return train_step(student, loss, dtype)


# ---------------------------------------------------------------- the sections

def forwards(kind, dtype):
    """1. Forward and backward: the same weights, the same inputs"""
    preset, (x, _) = STUDENT[kind], inputs(kind, BATCH)
    network = ours(kind, preset).predictor.backbone
    calls = {"ours": network, "transformers": None, **({"timm": None} if kind == "vit" else {})}
    if "transformers" in VERSIONS:
        other = hugging_face(preset, shape_of(kind)).to(DEVICE)
        calls["transformers"] = lambda x: hidden(other, x)
        with tempfile.TemporaryDirectory() as folder:
            other.save_pretrained(folder)
            load_pretrained(network, f"{folder}/model.safetensors")
    if "timm" in VERSIONS and kind == "vit":
        calls["timm"] = timm_vit(preset, shape_of(kind), network).to(DEVICE).forward_features

    def run(call, backward):
        with torch.set_grad_enabled(backward), amp(dtype):
            out = call(x)
        return out.square().mean().backward() if backward else out

    real = (x != 0).unsqueeze(-1) if kind == "bert" else 1  # hidden states of padding are nobody's
    apart = max(((run(call, False) - run(network, False)) * real).abs().max().item() for call in calls.values() if call)
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # fused kernels may go uncounted
            run(network, backward)
        measure(f"{preset} forward{' + backward' * backward}", {name: call and functools.partial(run, call, backward) for name, call in calls.items()},
                dtype, counter.get_total_flops(), f"outputs differ by {apart:.0e}")


def steps(kind, dtype):
    """2. A REKD step, and its parts (of the first variant)"""
    steps = {v: rekd_step(kind, v, dtype) if v != "transformers" or v in VERSIONS else None for v in REKD}
    model, (x, y), (texts, labels) = ours(kind, STUDENT[kind]), inputs(kind, BATCH), inputs(kind, 256)
    pixels = torch.randint(256, (256, 3, 32, 32), dtype=torch.uint8)
    split = (Split(pixels, labels) if kind == "vit" else Split(texts, labels, lengths=(texts != 0).sum(1).cpu())).to(DEVICE)
    data, history = Dataset("", [], split, None, None, {"image_size": SIZES["vit"][-1]}, True, ""), torch.zeros(6, device=DEVICE)
    N = model.selectable(x).shape[1]
    keep, weight = (torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((BATCH, N, 2), (N, 10)))
    stub = Rationalist(lambda x: keep, lambda x, mask: mask @ weight)  # networks that cost nothing: sampling and losses remain
    student = train_step(model, lambda: re_losses(model, x, y, tau=1.0, rate=RATE[kind], lambda_select=0.01)["loss"], dtype, update=False)
    student()  # gradients for AdamW
    parts = {"student there and back": student, "AdamW": torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True).step,
             "sampling and losses": lambda: rekd_losses(stub, stub, x, y, **METHOD, rate=RATE[kind])["loss"].backward(),
             "data.batches": lambda: next(data.batches(split, BATCH, torch.randperm(256), training=True)),
             "logging": lambda: [history[i].copy_(labels[i]) for i in range(6)]}
    times = measure(f"REKD step, {STUDENT[kind]} <- {TEACHER[kind]}", {**steps, **parts}, dtype)
    rest = 1 - sum(times[part] for part in parts) / times[REKD[0]]
    print(f"  parts of the first: {', '.join(f'{part} {times[part] / times[REKD[0]]:.2%}' for part in parts)}, the rest (teacher) {rest:.1%}")


def packed(kind, dtype):
    """3. Evaluation of the selected features alone"""
    zero, drop, (x, _) = ours(kind, STUDENT[kind]), ours(kind, STUDENT[kind], "drop"), inputs(kind, BATCHES[-1])
    mask = torch.no_grad()(drop)(x).mask

    @torch.no_grad()
    def run(model, packed, generate):
        with amp(dtype):
            model.generator(x) if generate else None
            model.predictor(x, mask, packed)

    for generate in (False, True):
        measure(f"{STUDENT[kind]} {'generator + ' * generate}predictor", {name: functools.partial(run, model, pack, generate) for name, model, pack in (
            ("zero", zero, False), ("drop, all", drop, False), ("drop, packed", drop, True))}, dtype,
            note=f"batch {len(x)}: {mask.sum(1).mean():.1f} of {mask.shape[1]} selected, at most {int(mask.sum(1).max())}")


def growth(kind, dtype):
    """4. Memory of a REKD step, and how the cost of a step without a teacher grows"""
    for variant in REKD[:1] if args.quick else REKD[::2] + REKD[-1:] * ("transformers" in VERSIONS) if dtype == DTYPES[-1] else ():
        command = [sys.executable, __file__, "--threads", str(args.threads), *["--quick"] * args.quick, "--memory", kind, variant]
        peak = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        print(f"{f'memory, {STUDENT[kind]} <- {TEACHER[kind]}':<48} {variant:<27} {peak}")
    steps, cases = {}, [(BATCH, size) for size in SIZES[kind]] + [(batch, SIZES[kind][-1]) for batch in BATCHES if batch != BATCH]
    for batch, size in cases:
        model, (x, y) = ours(kind, STUDENT[kind], size=size), inputs(kind, batch, size)
        loss = lambda model=model, x=x, y=y: re_losses(model, x, y, tau=1.0, rate=RATE[kind], lambda_select=0.01)["loss"]
        steps[batch, model.selectable(x).shape[1]] = train_step(model, loss, dtype)
    times = measure(f"RE step, {STUDENT[kind]}", {f"batch {B}, {N} features": step for (B, N), step in steps.items()}, dtype)
    points = {key: seconds for key, seconds in zip(steps, times.values())}
    full = max(N for _, N in points)
    for what, line in (("features", {N: s for (B, N), s in sorted(points.items()) if B == BATCH}), ("batch", {B: s for (B, N), s in sorted(points.items()) if N == full})):
        powers = [f"{math.log(line[b] / line[a]) / math.log(b / a):.2f}" for a, b in zip(line, list(line)[1:])]
        rates = [f"{(BATCH if what == 'features' else at) / s:.1f} at {at}" for at, s in line.items()]
        print(f"  {what}: {', '.join(rates)} examples/s; from each to the next, time grows as {what} to the power of {', '.join(powers)}")


def memory(kind, variant):
    """The peak of one process (not ru_maxrss: a child's begins at its parent's)."""
    status = Path("/proc/self/status")
    peak = lambda: torch.cuda.max_memory_allocated() >> 20 if CUDA else int(status.read_text().split("VmHWM:")[1].split()[0]) >> 10 if status.exists() else 0
    bare, step = peak(), rekd_step(kind, variant, DTYPES[-1])
    step(), step()  # AdamW's averages are there in the second
    print(f"at most {peak()} MiB, {peak() - bare} of them for this" if peak() else "skipped: this system does not tell")


if args.memory:
    memory(*args.memory)
else:
    print(f"torch {torch.__version__}, {', '.join(f'{name} {VERSIONS.get(name)}' for name in ('timm', 'transformers'))}; {hardware(DEVICE)}; at most {args.rounds} rounds; "
          f"peak {', '.join(f'{ceiling(dtype) / 1e9:.0f} GFLOP/s ({dtype})' for dtype in DTYPES)}")
    for section in (forwards, steps, packed, growth):
        for dtype in DTYPES if int(section.__doc__[0]) in args.only else ():
            print(f"\n{section.__doc__}\n{'':<76} {'ms':>9} {'CPU ms':>9}  ratio (range)     peak  rounds x calls")
            section("vit", dtype), section("bert", dtype)
