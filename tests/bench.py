"""How fast is it, and beside what? Ratios, measured on the machine at hand in one run.

    python tests/bench.py               about ten minutes on two idle cores
    python tests/bench.py --only 1 3    these sections alone
    python tests/bench.py --quick       nano sizes, seconds: does all of it run?

1  forward and backward of our networks, of transformers' and of timm's
2  a REKD step, beside one written with transformers alone, and what its parts take
3  evaluation: what it saves to compute the selected features alone
4  the memory of a REKD step; how time grows with the batch and with the number of features

How to read a row: the variants of a group take turns (A B C, C B A, ...), so that a busy machine
slows them alike. `ms` is the median over the rounds, `CPU ms` the median of all threads' time.
`ratio` is a variant's ms over that of the group's first, in brackets the range over the rounds:
above 1, the first is faster. `CPU` is the ratio of the CPU times, steadier where cores are shared.

All is float32; on CUDA bfloat16 is measured too, on a CPU that has bfloat16 instructions in one row
of section 2. Networks are random and nothing is downloaded. What is not installed is skipped.
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
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Dataset, Split
from models import build, load_pretrained, parse_preset
from rekd import Rationalist, ask, re_losses, rekd_losses
from results.progress import hardware
from train import autocast, packed_length

# The weights of the losses; which they are changes no time. Plain steers its rate by L_select.
WEIGHTS = {"alpha": 0.5, "lambda_rationale": 0.5}
LAMBDA_SELECT = 0.01
TAU = 1.0
CLASSES = 10


# ---------------------------------------------------------------- what we compare with
# The networks of transformers and timm at a preset's size, and REKD as one would write it with
# `transformers` alone. shape: image_size and patch_size, or vocab_size and max_len.

def installed(package):
    """Its version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hugging_face(preset, shape):
    """The ViTModel or BertModel of the preset's size, without dropout, as ours."""
    import transformers
    transformers.utils.logging.disable_progress_bar()
    kind, dim, depth, heads = parse_preset(preset)
    size = dict(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads,
                intermediate_size=4 * dim, attn_implementation="sdpa",
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if kind == "vit":
        config = transformers.ViTConfig(**size, **shape)
        return transformers.ViTModel(config, add_pooling_layer=False)
    config = transformers.BertConfig(**size, vocab_size=shape["vocab_size"],
                                     max_position_embeddings=shape["max_len"])
    return transformers.BertModel(config, add_pooling_layer=False)


def hidden_states(network, x):
    """(B, T, dim), the last ones of a network of transformers. In texts, id 0 is padding."""
    if x.is_floating_point():
        return network(x).last_hidden_state
    return network(input_ids=x, attention_mask=(x != 0).long()).last_hidden_state


def take_weights(ours, theirs):
    """Our network takes the weights of one of transformers, through the file that it saves."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        load_pretrained(ours, f"{folder}/model.safetensors")


TIMM_NAMES = {
    "cls": "cls_token",
    "positions": "pos_embed",
    "patch_embedding": "patch_embed.proj",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def timm_vit(preset, shape, ours):
    """timm's vit_*_patch16_224 at the preset's size, with the weights of our ViT."""
    import timm
    _, dim, depth, heads = parse_preset(preset)
    vit = timm.models.VisionTransformer(
        shape["image_size"], shape["patch_size"], num_classes=0, embed_dim=dim, depth=depth,
        num_heads=heads, norm_layer=functools.partial(nn.LayerNorm, eps=1e-12))
    slots = vit.state_dict()
    weights = {}
    for name, weight in ours.state_dict().items():
        theirs = ".".join(TIMM_NAMES.get(part, part) for part in name.split("."))
        weights[theirs] = weight.view_as(slots[theirs])  # a convolution's, where ours is a matrix
    vit.load_state_dict(weights)
    return vit


class Plain(nn.Module):
    """Two networks, and a hook that multiplies the predictor's content embeddings by the mask."""

    def __init__(self, preset, shape):
        super().__init__()
        kind, dim, _, _ = parse_preset(preset)
        self.is_vit = kind == "vit"
        self.generator = hugging_face(preset, shape)
        self.predictor = hugging_face(preset, shape)
        self.select = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.1), nn.Linear(dim, 2))
        self.classify = nn.Sequential(nn.Dropout(0.1), nn.Linear(dim, CLASSES))
        embeddings = self.predictor.embeddings
        content = embeddings.patch_embeddings if self.is_vit else embeddings.word_embeddings
        content.register_forward_hook(self.hide)

    def hide(self, module, inputs, output):
        return output * self.mask.unsqueeze(-1)

    def sample(self, x):
        """-> (B, N, 2), the soft sample."""
        hidden = hidden_states(self.generator, x)
        if self.is_vit:
            hidden = hidden[:, 1:]  # [CLS] is no patch
        return F.gumbel_softmax(self.select(hidden), TAU)

    def predict(self, x, mask):
        """x, mask (B, N) -> logits (B, C)."""
        if not self.is_vit:
            mask = F.pad(mask[:, 1:], (1, 0), value=1.0)  # [CLS] is visible
        self.mask = mask
        return self.classify(hidden_states(self.predictor, x)[:, 0])

    def loss(self, teacher, x, y, rate):
        """The teacher, another Plain, reads the student's mask: L_REKD, a scalar."""
        soft = self.sample(x)                                             # (B, N, 2)
        keep = soft[..., 1]                                               # (B, N)
        real = torch.ones_like(keep) if self.is_vit else (x != 0).float()
        hard = (keep > soft[..., 0]).float()
        mask = (hard - keep.detach() + keep) * real                       # straight-through
        logits = self.predict(x, mask)                                    # (B, C)
        with torch.no_grad():
            teacher_soft = teacher.sample(x)
            teacher_logits = teacher.predict(x, mask)

        prediction = F.cross_entropy(logits, y)
        selection = (mask.sum(1).mean() - rate * real.sum(1).mean()) ** 2
        log_ratio = (teacher_soft + 1e-9).log() - (soft + 1e-9).log()
        kl = (teacher_soft * log_ratio).sum(-1) * real                    # (B, N)
        rationale_kd = kl.sum(1).mean()
        prediction_kd = F.kl_div((logits / TAU).log_softmax(-1), (teacher_logits / TAU).softmax(-1),
                                 reduction="batchmean")
        extraction = prediction + LAMBDA_SELECT * selection
        distillation = WEIGHTS["lambda_rationale"] * rationale_kd + TAU**2 * prediction_kd
        return WEIGHTS["alpha"] * extraction + (1 - WEIGHTS["alpha"]) * distillation


# ---------------------------------------------------------------- options and sizes
class Sizes(NamedTuple):
    student: dict    # preset, by kind
    teacher: dict
    inputs: dict     # pixels a side, or tokens; the last is what all sections but 4 measure
    batches: tuple   # the second is what sections 1 and 2 measure, the last what 3 does
    words: int       # in the vocabulary
    patience: float  # seconds, after which a group ends with its third round
    at_least: float  # seconds of a round: shorter work is done several times


FULL = Sizes(student={"vit": "vit_tiny", "bert": "bert_mini"},
             teacher={"vit": "vit_base", "bert": "bert_base"},
             inputs={"vit": (64, 112, 160, 224), "bert": (32, 64, 128, 256)},
             batches=(1, 8, 32), words=30522, patience=20, at_least=0.2)
NANO = Sizes(student={"vit": "vit_nano", "bert": "bert_nano"},
             teacher={"vit": "vit_micro", "bert": "bert_micro"},
             inputs={"vit": (32, 64), "bert": (16, 32)},
             batches=(1, 2, 4), words=500, patience=0, at_least=0)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="nano sizes")
    add("--rounds", type=int, default=5, help="of a group; a slow one stops after 3 (default: 5)")
    add("--threads", type=int, default=torch.get_num_threads(),
        help="of torch (default: its own choice)")
    add("--only", type=int, nargs="+", default=[1, 2, 3, 4], help="sections (default: all)")
    add("--memory", nargs=2, help=argparse.SUPPRESS)  # one REKD step in a process of its own
    return parser.parse_args()


args = parse_args()
sizes = NANO if args.quick else FULL
BATCH = sizes.batches[1]
RATE = {"vit": 0.15, "bert": 0.10}  # the paper's
EPOCHS, VIEWS = 35, 4               # the paper's epochs, train.py's views of an image

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
PRECISIONS = ["float32", "bfloat16"] if CUDA else ["float32"]


def bfloat16_on_cpu():
    """Does this CPU have instructions for it? (On CUDA, where all is measured in it: False.)"""
    file = Path("/proc/cpuinfo")
    if CUDA or not file.exists():
        return False
    flags = file.read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


# ---------------------------------------------------------------- measuring
class Times(NamedTuple):
    """Seconds of one call, in each round."""
    wall: list
    cpu: list
    calls: int  # in a round


def seconds_of(run, calls=1):
    """-> seconds of one call: on the wall, and of all threads."""
    wait_for_device()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    wait_for_device()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def wait_for_device():
    if CUDA:
        torch.cuda.synchronize()


def take_turns(variants):
    """{name: function} -> {name: Times}."""
    times = {}
    for name, run in variants.items():  # first calls allocate, choose kernels and import
        first, _ = seconds_of(run)
        calls = max(1, round(sizes.at_least / first))
        times[name] = Times([], [], min(calls, 100))
    start = time.perf_counter()
    order = list(variants)
    for turn in range(args.rounds):
        if turn >= 3 and time.perf_counter() - start > sizes.patience:
            break
        for name in order:
            wall, cpu = seconds_of(variants[name], times[name].calls)
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
        order.reverse()
    return times


def measure(title, variants, note=""):
    """{name: function, or None: not installed} -> {name: median seconds}; prints a row each."""
    times = take_turns({name: run for name, run in variants.items() if run})
    first = next(iter(times.values()))
    for name in variants:
        if name in times:
            print_row(title, name, f"{numbers(times[name], first)} {note}")
        else:
            print_row(title, name, f"skipped: {name} is not installed")
    return {name: median(found.wall) for name, found in times.items()}


def numbers(times, first):
    """Times, those of the group's first -> what a row says of them."""
    wall, cpu = median(times.wall), median(times.cpu)
    ratios = [a / b for a, b in zip(times.wall, first.wall)]
    return (f"{1e3 * wall:>9.2f} {1e3 * cpu:>9.2f} "
            f"{wall / median(first.wall):>6.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"{cpu / median(first.cpu):>6.2f}  {len(ratios)} x {times.calls:<3}")


def print_row(title, name, text):
    print(f"{title:<48} {name:<36} {text}")


def print_header(title):
    print(f"\n{title}")
    print(f"{'':<85} {'ms':>9} {'CPU ms':>9}  ratio (range)      CPU  rounds x calls")


# ---------------------------------------------------------------- inputs, models, steps
def shape_of(kind, size=None):
    size = size or sizes.inputs[kind][-1]
    if kind == "vit":
        return {"image_size": size, "patch_size": 16}
    return {"vocab_size": sizes.words, "max_len": size}


def inputs(kind, batch=BATCH, size=None):
    """-> x, y. Texts differ in length, from all of size to half of it, so there is padding."""
    size = size or sizes.inputs[kind][-1]
    y = torch.randint(CLASSES, (batch,), device=DEVICE)
    if kind == "vit":
        return torch.randn(batch, 3, size, size, device=DEVICE), y
    lengths = torch.linspace(size, size // 2, batch).long()
    words = torch.randint(1, sizes.words, (batch, size))
    words[torch.arange(size) >= lengths.unsqueeze(1)] = 0
    return words.to(DEVICE), y


@torch.no_grad()
def ours(kind, preset, masking="zero", size=None):
    """A random Rationalist in eval mode, whose masks keep RATE of the features, as a trained one's
    do: what `drop` costs hangs on it."""
    model = build(preset=preset, method="re", num_classes=CLASSES, masking=masking,
                  **shape_of(kind, size)).to(DEVICE).eval()
    for p in model.parameters():
        if p.ndim > 1:
            p.normal_(std=0.02)  # `build` begins with zeros
    x, _ = inputs(kind, size=size)
    keep_logits = model(x).keep_logits[model.selectable(x)]
    scale = 20 / keep_logits.std()  # surer than the Gumbel noise
    threshold = scale * keep_logits.quantile(1 - RATE[kind])
    last = model.generator.head[-1]
    last.weight.mul_(scale)
    last.bias.mul_(scale)
    last.bias[1] -= threshold
    return model


def forward_backward(model, loss, precision):
    """-> a function that computes the gradients of the scalar loss()."""
    model.train()

    def run():
        with autocast(DEVICE, precision):
            value = loss()
        model.zero_grad(set_to_none=True)
        value.backward()
    return run


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def train_step(model, loss, precision):
    """-> a function that does one step of AdamW on the scalar loss()."""
    gradients = forward_backward(model, loss, precision)
    optimizer = adamw(model)

    def step():
        gradients()
        optimizer.step()
    return step


def sampling(kind, model, x):
    """The options of a step's masks, as train.py has them once the rate is at its target."""
    config = argparse.Namespace(masking=model.predictor.backbone.masking, lambda_select=None)
    features = model.selectable(x).shape[1]
    return {"tau": TAU, "rate": RATE[kind],
            "packed": packed_length(features, RATE[kind], config)}


def re_loss(model, kind, x, y):
    return re_losses(model, x, y, **sampling(kind, model, x))["loss"]


class Variant(NamedTuple):
    """Of our REKD step."""
    masking: str
    cached: bool        # the teacher's answers are at hand
    teacher_reads: str  # the mask of whom


VARIANTS = {
    "zero, teacher reads student": Variant("zero", False, "student"),
    "drop, teacher reads student": Variant("drop", False, "student"),
    "drop, teacher reads teacher": Variant("drop", False, "teacher"),
    "drop, cache, teacher reads student": Variant("drop", True, "student"),
    "drop, cache, teacher reads teacher": Variant("drop", True, "teacher"),
}
FASTEST = "drop, cache, teacher reads teacher"


def rekd_step(kind, name, precision):
    """-> a function that does one step. name: of VARIANTS, or transformers."""
    if name == "transformers":
        return plain_step(kind, precision)
    variant = VARIANTS[name]
    x, y = inputs(kind)
    student = ours(kind, sizes.student[kind], variant.masking)
    teacher = ours(kind, sizes.teacher[kind], variant.masking).requires_grad_(False)
    known = None
    if variant.cached:
        known = [answer.half() for answer in ask(teacher, x)]  # what train.py keeps of them

    def loss():
        losses = rekd_losses(student, teacher, x, y, **sampling(kind, student, x), **WEIGHTS,
                             teacher_reads=variant.teacher_reads, known=known)
        return losses["loss"]
    return train_step(student, loss, precision)


def plain_step(kind, precision):
    x, y = inputs(kind)
    student = Plain(sizes.student[kind], shape_of(kind)).to(DEVICE)
    teacher = Plain(sizes.teacher[kind], shape_of(kind)).to(DEVICE).eval().requires_grad_(False)
    loss = lambda: student.loss(teacher, x, y, RATE[kind])
    return train_step(student, loss, precision)


# ---------------------------------------------------------------- 1. forward and backward
def networks(kind):
    """{whose: x -> hidden states}, all with the same weights; None: not installed."""
    preset, shape = sizes.student[kind], shape_of(kind)
    network = ours(kind, preset).predictor.backbone
    found = {"ours": network, "transformers": None}
    if installed("transformers"):
        theirs = hugging_face(preset, shape).to(DEVICE)
        take_weights(network, theirs)
        found["transformers"] = functools.partial(hidden_states, theirs)
    if kind == "vit":
        found["timm"] = None
        if installed("timm"):
            found["timm"] = timm_vit(preset, shape, network).to(DEVICE).forward_features
    return found


def forwards(kind, precision):
    x, _ = inputs(kind)
    found = networks(kind)

    def forward_and_graph(network):
        with autocast(DEVICE, precision):
            return network(x)

    @torch.no_grad()
    def forward(network):
        return forward_and_graph(network)

    def both(network):
        forward_and_graph(network).square().mean().backward()

    outputs = {name: forward(network) for name, network in found.items() if network}
    if kind == "bert":  # the hidden states of padding are nobody's
        outputs = {name: output[x != 0] for name, output in outputs.items()}
    apart = max((output - outputs["ours"]).abs().max() for output in outputs.values())
    note = f"outputs differ by {apart:.0e}"
    preset = sizes.student[kind]
    compare_networks(f"{preset} forward, {precision}", forward, found, precision, note)
    compare_networks(f"{preset} forward + backward, {precision}", both, found, precision, note)


def compare_networks(title, run, networks, precision, note):
    """Times run(network) of each, and how near ours comes to what the machine can do."""
    n = 8192 if CUDA else 1536
    product = f"a {n} x {n} matrix product"
    matrix = torch.randn(n, n, device=DEVICE, dtype=getattr(torch, precision))
    variants = {}
    for name, network in networks.items():
        variants[name] = functools.partial(run, network) if network else None
    variants[product] = lambda: matrix @ matrix
    # Fused attention may go uncounted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run(networks["ours"])
    times = measure(title, variants, note)
    our_speed = counter.get_total_flops() / times["ours"]
    top_speed = 2 * n**3 / times[product]
    print(f"  ours does {our_speed / top_speed:.0%} of the matrix product's FLOP/s")


# ---------------------------------------------------------------- 2. a REKD step, and its parts
def steps(kind, precision):
    variants = {name: rekd_step(kind, name, precision) for name in VARIANTS}
    variants["transformers"] = None
    if installed("transformers"):
        variants["transformers"] = rekd_step(kind, "transformers", precision)
    if bfloat16_on_cpu():
        variants["drop, cache, teacher, in bfloat16"] = rekd_step(kind, FASTEST, "bfloat16")
    parts = parts_of_step(kind, precision)
    asking = {"asking the teacher": asking_of(kind, precision)}
    title = f"REKD step, {sizes.student[kind]} <- {sizes.teacher[kind]}, {precision}"
    times = measure(title, {**variants, **parts, **asking})

    shares = [f"{part} {times[part] / times[FASTEST]:.2%}" for part in parts]
    print(f"  parts of \"{FASTEST}\" (the student's also hold RE's sampling and losses): "
          f"{', '.join(shares)}")
    if "transformers" not in times:
        return
    print("  transformers / ours:")
    for name in VARIANTS:
        print(f"  {times['transformers'] / times[name]:>8.2f}  {name}")
    views = VIEWS if kind == "vit" else 1  # texts are not augmented
    with_asking = times[FASTEST] + views / EPOCHS * times["asking the teacher"]
    print(f"  {times['transformers'] / with_asking:>8.2f}  {FASTEST}, and its answers, "
          f"{views} a text or image in {EPOCHS} epochs")


def parts_of_step(kind, precision):
    """{name: function}: what the fastest variant's step consists of, and train.py's around it."""
    x, y = inputs(kind)
    model = ours(kind, sizes.student[kind], "drop")
    student = forward_backward(model, lambda: re_loss(model, kind, x, y), precision)
    student()  # AdamW needs gradients
    losses = list(torch.rand(6, device=DEVICE))  # a REKD step logs six
    return {
        "student, forward and backward": student,
        "AdamW": adamw(model).step,
        "sampling and losses": sampling_and_losses(kind, model, x, y),
        "data.batches": one_batch(kind),
        "logging": lambda: torch.stack([loss.detach() for loss in losses]),
    }


def sampling_and_losses(kind, model, x, y):
    """-> a function: forward and backward of a REKD step whose networks cost nothing."""
    features = model.selectable(x).shape[1]
    pair = torch.randn(BATCH, features, 2, device=DEVICE, requires_grad=True)
    weight = torch.randn(features, CLASSES, device=DEVICE, requires_grad=True)
    free = Rationalist(lambda x: pair, lambda x, mask: mask @ weight)
    known = pair.detach()[..., 0].half(), torch.randn(BATCH, CLASSES, device=DEVICE).half()

    def run():
        losses = rekd_losses(free, free, x, y, tau=TAU, rate=RATE[kind], **WEIGHTS,
                             teacher_reads="teacher", known=known)
        losses["loss"].backward()
    return run


def one_batch(kind, n=256):
    """-> a function: a batch of n examples, images of 32 px that are cropped, flipped, resized."""
    x, y = inputs(kind, n)
    if kind == "vit":
        pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
        split = Split(pixels, y)
    else:
        split = Split(x, y, lengths=(x != 0).sum(1).cpu())
    crops = torch.randint(2, (n, 3), device=DEVICE)
    data = Dataset("", classes=[], train=split, dev=None, test=None, fingerprint="",
                   views=lambda view: crops, input={"image_size": sizes.inputs["vit"][-1]})
    return lambda: next(data.batches(split, BATCH, torch.randperm(n), view=0))


def asking_of(kind, precision):
    x, _ = inputs(kind)
    teacher = ours(kind, sizes.teacher[kind], "drop")

    def run():
        with autocast(DEVICE, precision):
            ask(teacher, x)
    return run


# ---------------------------------------------------------------- 3. evaluation
def evaluation(kind, precision):
    preset = sizes.student[kind]
    x, _ = inputs(kind, sizes.batches[-1])
    zero = ours(kind, preset)
    drop = ours(kind, preset, "drop")
    with torch.no_grad():
        mask = drop(x).mask

    @torch.no_grad()
    def predict(model, packed):
        with autocast(DEVICE, precision):
            model.predictor(x, mask, packed)

    @torch.no_grad()
    def select_and_predict(model, packed):
        with autocast(DEVICE, precision):
            model.generator(x)
            model.predictor(x, mask, packed)

    count = mask.sum(1)
    note = (f"batch {len(x)}: {count.mean():.1f} of {mask.shape[1]} selected, "
            f"at most {count.max():.0f}")
    for name, run in {"predictor": predict, "generator + predictor": select_and_predict}.items():
        variants = {"zero": functools.partial(run, zero, False),
                    "drop, all": functools.partial(run, drop, False),
                    "drop, packed": functools.partial(run, drop, True)}
        measure(f"{preset} {name}, {precision}", variants, note)


# ---------------------------------------------------------------- 4. memory and growth
def growth(kind, precision):
    if precision == PRECISIONS[-1]:
        print_memory(kind)
    full, preset = sizes.inputs[kind][-1], sizes.student[kind]
    cases = [(BATCH, size) for size in sizes.inputs[kind]]
    cases += [(batch, full) for batch in sizes.batches if batch != BATCH]
    steps = {}
    for batch, size in cases:
        x, y = inputs(kind, batch, size)
        model = ours(kind, preset, size=size)
        features = model.selectable(x).shape[1]
        loss = functools.partial(re_loss, model, kind, x, y)
        steps[batch, features] = train_step(model, loss, precision)
    named = {f"batch {batch}, {features} features": step
             for (batch, features), step in steps.items()}
    times = measure(f"RE step, {preset}, {precision}", named)

    seconds = dict(sorted(zip(steps, times.values())))  # {(batch, features): seconds}
    speeds = [f"{batch / t:.1f} ({batch} x {features})" for (batch, features), t in seconds.items()]
    print(f"  examples/s: {', '.join(speeds)}")
    most = max(features for _, features in seconds)
    print_powers("batch", {batch: t for (batch, N), t in seconds.items() if N == most})
    print_powers("features", {N: t for (batch, N), t in seconds.items() if batch == BATCH})


def print_powers(what, seconds):
    """{size: seconds} -> p of seconds ~ size^p, between each size and the next."""
    points = list(seconds.items())
    powers = []
    for (size1, t1), (size2, t2) in zip(points, points[1:]):
        powers.append(math.log(t2 / t1) / math.log(size2 / size1))
    print(f"  time grows as {what} ({', '.join(map(str, seconds))}) to the power of "
          f"{', '.join(f'{power:.2f}' for power in powers)}")


def print_memory(kind):
    """Of a REKD step, each variant in a process of its own: a peak is never forgotten."""
    names = ["zero, teacher reads student"]
    if not args.quick:
        names += ["drop, teacher reads teacher", FASTEST]
        if installed("transformers"):
            names.append("transformers")
    for name in names:
        command = [sys.executable, __file__, "--threads", str(args.threads), "--memory", kind, name]
        if args.quick:
            command.append("--quick")
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print_row(f"memory, {sizes.student[kind]} <- {sizes.teacher[kind]}", name,
                  answer.stdout.strip())


def tell_memory(kind, name):
    before = peak_memory()
    step = rekd_step(kind, name, PRECISIONS[-1])
    step()
    step()  # AdamW's averages are there in the second
    peak = peak_memory()
    if peak:
        print(f"at most {peak} MiB, {peak - before} of them for this")
    else:
        print("skipped: this system does not tell")


def peak_memory():
    """MiB, of the device or else of this process; 0 where the system does not tell."""
    if CUDA:
        return torch.cuda.max_memory_allocated() >> 20
    status = Path("/proc/self/status")  # getrusage's ru_maxrss would begin at the parent's
    if not status.exists():
        return 0
    kibibytes = status.read_text().split("VmHWM:")[1].split()[0]
    return int(kibibytes) >> 10


# ---------------------------------------------------------------- all of it
SECTIONS = {
    1: ("Forward and backward: the same weights, the same inputs", forwards),
    2: ("A REKD step, and its parts (of the cached one where the teacher reads its own mask)",
        steps),
    3: ("Evaluation of the selected features alone", evaluation),
    4: ("Memory of a REKD step, and how the cost of a step without a teacher grows", growth),
}


def main():
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.memory:
        tell_memory(*args.memory)
        return
    print(f"torch {torch.__version__}, timm {installed('timm')}, "
          f"transformers {installed('transformers')}; {hardware(DEVICE)}; "
          f"at most {args.rounds} rounds")
    for number, (title, section) in SECTIONS.items():
        if number not in args.only:
            continue
        for precision in PRECISIONS:
            print_header(f"{number}. {title}")
            section("vit", precision)
            section("bert", precision)


if __name__ == "__main__":
    main()
