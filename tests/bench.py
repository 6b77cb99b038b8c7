"""How fast is it, and beside what? Ratios measured on the machine at hand, in one run.

    python tests/bench.py                 about five minutes on two idle cores
    python tests/bench.py --only 1 3      these sections alone; --quick: nano sizes, seconds, to see that all of it runs

The variants of a group take turns (A B C, C B A, ...), so that a busy machine slows them alike; ms is the median over the rounds, CPU that
of all threads' time. `ratio` is a variant's ms over that of its group's first, in brackets its range over the rounds: above 1, the first is
faster. `peak` is the share of a big matrix product's FLOP/s. float32; on CUDA also bfloat16 autocast. Random networks, no downloads.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Dataset, Split
from models import build, load_pretrained, parse_preset
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
STUDENT, TEACHER, SIZE = {"vit": "vit_tiny", "bert": "bert_mini"}, {"vit": "vit_base", "bert": "bert_base"}, {"vit": 224, "bert": 256}
SIZES, BATCHES, WORDS, SLOW, REPEAT = {"vit": (64, 112, 160, 224), "bert": (32, 64, 128, 256)}, (1, 8, 32), 30522, 10, 0.2
if args.quick:
    STUDENT, TEACHER, SIZE = {"vit": "vit_nano", "bert": "bert_nano"}, {"vit": "vit_micro", "bert": "bert_micro"}, {"vit": 64, "bert": 32}
    SIZES, BATCHES, WORDS, SLOW, REPEAT = {"vit": (32, 64), "bert": (16, 32)}, (1, 2, 4), 500, 0, 0
BATCH, MANY, PATCH, RATE = *BATCHES[1:], 16, {"vit": 0.15, "bert": 0.10}
CUDA = torch.cuda.is_available()
DEVICE, DTYPES, SYNC = torch.device("cuda" if CUDA else "cpu"), [torch.float32] + [torch.bfloat16] * CUDA, torch.cuda.synchronize if CUDA else lambda: None
amp = lambda dtype: torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
HAS = {name: importlib.util.find_spec(name) is not None for name in ("timm", "transformers")}
REKD = ["zero, teacher reads student", "drop, teacher reads student", "drop, teacher reads teacher", "transformers"]


def measure(title, variants, dtype, flops=None, note=""):
    """variants {name: function, or None: not installed} -> {name: median seconds}; prints a row each. flops: of each function's work."""
    runs, title = {name: run for name, run in variants.items() if run}, f"{title}, {dtype}".replace("torch.", "")
    for run in runs.values():  # first calls allocate, choose kernels and import
        SYNC(), (start := time.perf_counter()), run(), SYNC()
    repeat = min(max(1, round(REPEAT / (time.perf_counter() - start))), 100)  # short work is done several times a round
    wall, cpu, start = {name: [] for name in runs}, {name: [] for name in runs}, time.perf_counter()
    for turn in range(args.rounds):
        if turn >= 3 and time.perf_counter() - start > SLOW:
            break
        for name in list(runs)[::-1 if turn % 2 else 1]:
            SYNC(), (before := (time.perf_counter(), time.process_time())), [runs[name]() for _ in range(repeat)], SYNC()
            wall[name].append((time.perf_counter() - before[0]) / repeat), cpu[name].append((time.process_time() - before[1]) / repeat)
    first, times = next(iter(runs)), {name: median(wall[name]) for name in runs}
    for name in variants:
        if name in runs:
            each, peak = [a / b for a, b in zip(wall[name], wall[first])], f"{flops / times[name] / ceiling(dtype):4.0%}" if flops else "    "
            print(f"{title:<48} {name:<27} {1e3 * times[name]:>9.2f} {1e3 * median(cpu[name]):>9.2f} {times[name] / times[first]:>6.2f} "
                  f"({min(each):.2f}-{max(each):.2f}) {peak}  {len(each)} x {repeat:<3} {note}")
        else:
            print(f"{title:<48} {name:<27} skipped: {name} is not installed")
    return times


@functools.cache
def ceiling(dtype, n=8192 if CUDA else 1536):
    """FLOP/s of a big square matrix product, the best of 6."""
    a, times = torch.randn(n, n, device=DEVICE, dtype=dtype), []
    for _ in range(6):
        SYNC(), (start := time.perf_counter()), a @ a, SYNC(), times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


# ---------------------------------------------------------------- ours and theirs

def inputs(kind, batch, size=None):
    """x, y; texts differ in length, so that a batch has padding."""
    size, y = size or SIZE[kind], torch.randint(10, (batch,), device=DEVICE)
    words = torch.arange(size) < torch.linspace(size, size // 2, batch).long()[:, None]
    return (torch.randn(batch, 3, size, size) if kind == "vit" else torch.randint(1, WORDS, (batch, size)) * words).to(DEVICE), y


def ours(kind, preset, masking="zero", size=None):
    """A Rationalist whose masks keep RATE of the features, as a trained one's: what `drop` costs hangs on it."""
    shape = {"image_size": size or SIZE["vit"], "patch_size": PATCH} if kind == "vit" else {"vocab_size": WORDS, "max_len": size or SIZE["bert"]}
    model = build(preset=preset, method="re", num_classes=10, masking=masking, **shape).to(DEVICE).eval()
    (x, _), last = inputs(kind, BATCH, size), model.generator.head[-1]
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.02) if p.ndim > 1 else None  # `build` begins with zeros
        keep = model(x).keep_logits[model.selectable(x)] + last.bias[0] - last.bias[1]
        last.weight.mul_(20 / keep.std())                # surer than the noise
        last.bias.copy_(torch.stack([20 * keep.quantile(1 - RATE[kind]) / keep.std(), keep.new_zeros(())]))
    return model


def theirs(kind, preset):
    """The ViTModel or BertModel of the preset's size, without dropout, as ours."""
    import transformers
    transformers.utils.logging.disable_progress_bar()
    config, model = (transformers.ViTConfig, transformers.ViTModel) if kind == "vit" else (transformers.BertConfig, transformers.BertModel)
    shape = dict(image_size=SIZE["vit"], patch_size=PATCH) if kind == "vit" else dict(vocab_size=WORDS, max_position_embeddings=SIZE["bert"])
    _, dim, depth, heads = parse_preset(preset)
    return model(config(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * dim, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, attn_implementation="sdpa", **shape), add_pooling_layer=False).to(DEVICE)


def hidden(network, x):
    return (network(x) if x.is_floating_point() else network(input_ids=x, attention_mask=(x != 0).long())).last_hidden_state


def timms(preset, network):
    """timm's vit_*_patch16_224, at the preset's size and with our weights."""
    import timm
    _, dim, depth, heads = parse_preset(preset)
    norm, names = functools.partial(nn.LayerNorm, eps=1e-12), dict(
        cls="cls_token", positions="pos_embed", patch_embedding="patch_embed.proj", qkv="attn.qkv", out="attn.proj", fc1="mlp.fc1", fc2="mlp.fc2")
    model = timm.models.VisionTransformer(SIZE["vit"], PATCH, num_classes=0, embed_dim=dim, depth=depth, num_heads=heads, norm_layer=norm)
    weights = {".".join(names.get(part, part) for part in key.split(".")): p for key, p in network.state_dict().items()}
    model.load_state_dict({key: p.view(-1, 3, PATCH, PATCH) if key == "patch_embed.proj.weight" else p for key, p in weights.items()})
    return model.to(DEVICE)


class Plain(nn.Module):
    """REKD as one would write it with transformers: two networks a side, a hook that multiplies the content embeddings by the mask."""

    def __init__(self, kind, preset):
        super().__init__()
        self.generator, self.predictor, dim, self.vit = theirs(kind, preset), theirs(kind, preset), parse_preset(preset)[1], kind == "vit"
        self.select = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.1), nn.Linear(dim, 2)).to(DEVICE)
        self.classify = nn.Sequential(nn.Dropout(0.1), nn.Linear(dim, 10)).to(DEVICE)
        content = self.predictor.embeddings.patch_embeddings if self.vit else self.predictor.embeddings.word_embeddings
        content.register_forward_hook(lambda module, inputs, output: output * self.mask.unsqueeze(-1))

    def sample(self, x, tau):
        return F.gumbel_softmax(self.select(hidden(self.generator, x)[:, int(self.vit):]), tau)           # (B, N, 2)

    def predict(self, x, mask):
        self.mask = mask if self.vit else F.pad(mask[:, 1:], (1, 0), value=1.0)                           # [CLS] is visible
        return self.classify(hidden(self.predictor, x)[:, 0])

    def loss(self, teacher, x, y, tau, rate):
        real = torch.ones_like(x[:, 0, ::PATCH, ::PATCH]).flatten(1) if self.vit else (x != 0).float()    # (B, N)
        soft = self.sample(x, tau)
        mask = ((soft[..., 1] > soft[..., 0]).float() - soft[..., 1].detach() + soft[..., 1]) * real      # straight-through
        logits = self.predict(x, mask)
        with torch.no_grad():
            teacher_soft, teacher_logits = teacher.sample(x, tau), teacher.predict(x, mask)
        rationale = (teacher_soft * ((teacher_soft + 1e-9).log() - (soft + 1e-9).log())).sum(-1) * real
        kd = F.kl_div((logits / tau).log_softmax(-1), (teacher_logits / tau).softmax(-1), reduction="batchmean")
        select = (mask.sum(1).mean() - rate * real.sum(1).mean()) ** 2
        return 0.5 * (F.cross_entropy(logits, y) + 0.01 * select) + 0.5 * (0.5 * rationale.sum(1).mean() + tau**2 * kd)


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
    masking, reads, (x, y) = variant[:4], variant.split()[-1], inputs(kind, BATCH)
    student, teacher = (Plain(kind, preset) if variant == "transformers" else ours(kind, preset, masking) for preset in (STUDENT[kind], TEACHER[kind]))
    teacher.eval().requires_grad_(False)
    # HERE a teacher cache becomes one more variant: what the step then takes in the teacher's place is made before the lambda.
    loss = (lambda: student.loss(teacher, x, y, 1.0, RATE[kind])) if variant == "transformers" else lambda: rekd_losses(
        student, teacher, x, y, tau=1.0, rate=RATE[kind], alpha=0.5, lambda_select=0.01, lambda_rationale=0.5, teacher_reads=reads)["loss"]
    return train_step(student, loss, dtype)


# ---------------------------------------------------------------- the sections

def forwards(kind, dtype):
    """1. Forward and backward: the same weights, the same inputs"""
    network, (x, _) = ours(kind, STUDENT[kind]).predictor.backbone, inputs(kind, BATCH)
    calls = {"ours": network, "transformers": None, **({"timm": None} if kind == "vit" else {})}
    if HAS["transformers"]:
        other, calls["transformers"] = theirs(kind, STUDENT[kind]), lambda x: hidden(other, x)
        with tempfile.TemporaryDirectory() as folder:
            other.save_pretrained(folder)
            load_pretrained(network, f"{folder}/model.safetensors")
    if HAS["timm"] and kind == "vit":
        calls["timm"] = timms(STUDENT[kind], network).forward_features

    def run(call, backward):
        with torch.set_grad_enabled(backward), amp(dtype):
            out = call(x)
        return out.square().mean().backward() if backward else out

    real = (x != 0).unsqueeze(-1) if kind == "bert" else 1  # hidden states of padding are nobody's
    apart = max(((run(call, False) - run(network, False)) * real).abs().max().item() for call in calls.values() if call)
    for backward in (False, True):
        with FlopCounterMode(display=False) as flops, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # fused kernels may go uncounted
            run(network, backward)
        measure(f"{STUDENT[kind]} forward{' + backward' * backward}", {name: call and functools.partial(run, call, backward) for name, call in calls.items()},
                dtype, flops.get_total_flops(), f"outputs differ by {apart:.0e}")


def steps(kind, dtype):
    """2. A REKD step, and the parts of the first variant"""
    whole = measure(f"REKD step, {STUDENT[kind]} <- {TEACHER[kind]}", {v: rekd_step(kind, v, dtype) if HAS.get(v, True) else None for v in REKD}, dtype)[REKD[0]]
    model, (x, y), n = ours(kind, STUDENT[kind]), inputs(kind, BATCH), 256
    split = Split(torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8) if kind == "vit" else inputs(kind, n)[0].int(), inputs(kind, n)[1],
                  lengths=None if kind == "vit" else torch.full((n,), SIZE[kind])).to(DEVICE)
    data, history = Dataset("noise", [], split, None, None, {"image_size": SIZE["vit"]}, True, ""), torch.zeros(6, device=DEVICE)
    N = model.selectable(x).shape[1]
    keep, weight = (torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((BATCH, N, 2), (N, 10)))
    stub = Rationalist(lambda x: keep, lambda x, mask: mask @ weight)  # networks that cost nothing: sampling and losses remain
    method = dict(tau=1.0, rate=RATE[kind], alpha=0.5, lambda_select=0.01, lambda_rationale=0.5)
    re = lambda: re_losses(model, x, y, tau=1.0, rate=RATE[kind], lambda_select=0.01)["loss"]
    train_step(model, re, dtype)()
    parts = measure(f"parts, {STUDENT[kind]}", {
        "student there and back": train_step(model, re, dtype, update=False), "AdamW": torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True).step,
        "sampling and losses": lambda: rekd_losses(stub, stub, x, y, **method)["loss"].backward(),
        "data.batches": lambda: next(data.batches(data.train, BATCH, torch.randperm(n), training=True)),
        "logging": lambda: [history[i].copy_(y[0]) for i in range(6)]}, dtype)
    print("  shares of the step: " + ", ".join(f"{name} {seconds / whole:.2%}" for name, seconds in parts.items()) + f"; the rest, the teacher: {1 - sum(parts.values()) / whole:.1%}")


def packed(kind, dtype):
    """3. Evaluation of the selected features alone"""
    zero, drop, (x, _) = ours(kind, STUDENT[kind]), ours(kind, STUDENT[kind], "drop"), inputs(kind, MANY)
    mask = torch.no_grad()(drop)(x).mask

    def run(model, pack, generate):
        with torch.no_grad(), amp(dtype):
            model.generator(x) if generate else None
            model.predictor(x, mask, pack)

    for title in ("predictor", "generator + predictor"):
        measure(f"{STUDENT[kind]} {title}", {name: functools.partial(run, model, pack, title != "predictor") for name, model, pack in (
            ("zero", zero, False), ("drop, all", drop, False), ("drop, packed", drop, True))}, dtype,
            note=f"batch {MANY}: {mask.sum(1).mean():.1f} of {mask.shape[1]} selected, at most {int(mask.sum(1).max())}")


def growth(kind, dtype):
    """4. Memory of a REKD step; how the cost of a student's step without a teacher grows"""
    for variant in (REKD[0], REKD[2], REKD[3]):
        command = [sys.executable, __file__, "--threads", str(args.threads), *["--quick"] * args.quick, "--memory", kind, variant]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip() if HAS.get(variant, True) else f"skipped: {variant} is not installed"
        print(f"{f'memory, {STUDENT[kind]} <- {TEACHER[kind]}':<48} {variant:<27} {out}")
    cases, variants = [(BATCH, size) for size in SIZES[kind]] + [(batch, SIZE[kind]) for batch in BATCHES if batch != BATCH], {}
    for batch, size in cases:
        model, (x, y) = ours(kind, STUDENT[kind], size=size), inputs(kind, batch, size)
        loss = lambda model=model, x=x, y=y: re_losses(model, x, y, tau=1.0, rate=RATE[kind], lambda_select=0.01)["loss"]
        variants[f"batch {batch}, {model.selectable(x).shape[1]} features"] = train_step(model, loss, dtype)
    times = measure(f"RE step, {STUDENT[kind]}", variants, dtype)
    points = [(int(name.split()[2]), batch, seconds) for (name, seconds), (batch, _) in zip(times.items(), cases)]  # (N, B, seconds)
    power = lambda a, b, axis: f"{math.log(b[2] / a[2]) / math.log(b[axis] / a[axis]):.2f}"
    line, (few, *more) = points[:len(SIZES[kind])], sorted([*points[len(SIZES[kind]):], points[len(SIZES[kind]) - 1]], key=lambda point: point[1])
    print("  examples/s: " + ", ".join(f"{B / seconds:.1f} (batch {B}, {N})" for N, B, seconds in points) + "\n  time grows as features to the power of "
          + ", ".join(power(a, b, 0) for a, b in zip(line, line[1:])) + "; as batch to the power of " + ", ".join(power(a, b, 1) for a, b in zip([few, *more], more)))


def memory(kind, variant):
    step = rekd_step(kind, variant, DTYPES[-1])
    step(), step()  # the second has AdamW's averages in memory too
    # (not getrusage's ru_maxrss: a child's begins at its parent's)
    status = Path("/proc/self/status")
    peak = torch.cuda.max_memory_allocated() if CUDA else 1024 * int(status.read_text().split("VmHWM:")[1].split()[0]) if status.exists() else None
    print(f"{peak / 2**20:.0f} MiB at most" if peak else "skipped: not known on this system")


if args.memory:
    memory(*args.memory)
else:
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" if there else f"no {name}" for name, there in HAS.items())
    print(f"torch {torch.__version__}, {found}; {hardware(DEVICE)}; at most {args.rounds} rounds; peak {', '.join(f'{ceiling(d) / 1e9:.0f} GFLOP/s ({d})' for d in DTYPES)}")
    for section in (forwards, steps, packed, growth):
        if int(section.__doc__[0]) in args.only:
            print(f"\n{section.__doc__}\n{'':<76} {'ms':>9} {'CPU ms':>9}  ratio (range)     peak  rounds x calls")
            for dtype in DTYPES:
                section("vit", dtype), section("bert", dtype)
