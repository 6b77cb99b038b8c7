"""How fast is a REKD step, beside the plain loop that a reader of the paper would write?

    python results/speed.py                         on a CPU, minutes (--batch 1: two)
    python results/speed.py --batch 32 --steps 50   for a GPU

ViT-Tiny <- ViT-Base at 224 px, BERT-mini <- BERT-base at 256 tokens, as they are before training:
nothing is downloaded. Rows:

    plain            written with `transformers` alone (pip install transformers): content times
                     the mask, L_select, a teacher that is asked in every step and reads its
                     student's mask
    student          ours: what is not selected is dropped, the teacher's predictor reads its
                     student's mask: train.py's default
    teacher          the same, but it reads its own mask
    cached, asked    is what the teacher's generator says (and, where it reads its own mask, its
                     predictor) in memory, or is it asked in every step? train.py asks once about
                     each text, once about each of a few views of an image

A step is at the final rate, as in the second half of a run; before, ours computes more features.

All take turns in stretches of --steps steps (A B C D, then D C B A), so that a busy machine slows
them alike. Examples a second are those of the median stretch; a ratio is plain's time over this
row's, the median over the turns. On CUDA all is in bfloat16 autocast, nothing waits
for the device within a stretch, and MiB is the peak memory of a row's networks and steps.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from models import build, parse_preset  # noqa: E402
from rekd import rekd_losses, teacher_outputs  # noqa: E402
from train import autocast, choose_device, hardware  # noqa: E402

SIZES = {  # student, teacher, what a network must know of its input, the paper's rate
    "vit": ("vit_tiny", "vit_base", {"image_size": 224, "patch_size": 16}, 0.15),
    "bert": ("bert_mini", "bert_base", {"vocab_size": 30522, "max_len": 256}, 0.10),
}
CLASSES = 10
TURNS = 5
DEVICE = choose_device("auto")
wait_for_device = getattr(torch, DEVICE.type).synchronize  # of the CPU: does nothing


# ---------------------------------------------------------------- the plain loop, at tau = 1
def hugging_face(preset, shape):
    """The ViTModel or BertModel of the preset's size, without dropout, as ours."""
    kind, dim, depth, heads = parse_preset(preset)
    size = dict(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads,
                intermediate_size=4 * dim)
    if kind == "vit":
        network = ViTModel(ViTConfig(**size, **shape), add_pooling_layer=False)
    else:
        size.update(vocab_size=shape["vocab_size"], max_position_embeddings=shape["max_len"])
        network = BertModel(BertConfig(**size), add_pooling_layer=False)
    return network.eval()


def hidden_states(network, x):
    """(B, T, dim), the last ones of a network of transformers. In texts, id 0 is padding."""
    if x.is_floating_point():
        return network(x).last_hidden_state
    return network(input_ids=x, attention_mask=(x != 0).long()).last_hidden_state


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
        return F.gumbel_softmax(self.select(hidden))

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
        kl = F.kl_div((soft + 1e-9).log(), teacher_soft, reduction="none").sum(-1)  # (B, N)
        rationale_kd = (kl * real).sum(1).mean()
        prediction_kd = F.kl_div(logits.log_softmax(-1), teacher_logits.softmax(-1),
                                 reduction="batchmean")
        return 0.5 * (prediction + 0.01 * selection) + 0.5 * (0.5 * rationale_kd + prediction_kd)


def plain_step(sizes, x, y):
    *presets, shape, rate = sizes
    student, teacher = (Plain(preset, shape).to(DEVICE) for preset in presets)
    teacher.eval().requires_grad_(False)
    return step_of(student, lambda: student.loss(teacher, x, y, rate))


# ---------------------------------------------------------------- ours
def our_step(sizes, x, y, reads, is_cached):
    *presets, shape, rate = sizes
    common = dict(method="re", num_classes=CLASSES, masking="drop", rate=rate, **shape)
    student, teacher = (build(preset=preset, **common).to(DEVICE) for preset in presets)
    teacher.eval().requires_grad_(False)
    known = teacher_outputs(teacher, x) if is_cached else None
    loss = lambda: rekd_losses(student, teacher, x, y, tau=1.0, rate=rate, alpha=0.5,
                               lambda_rationale=0.5, teacher_reads=reads, known=known)["loss"]
    return step_of(student, loss)


# ---------------------------------------------------------------- measuring
def step_of(student, loss):
    """-> a function that does one step of AdamW on the scalar loss()."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)

    def step():
        with autocast(DEVICE, "auto"):
            value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    return step


def inputs(kind, batch):
    """-> x, y. Texts differ in length, from all of it to half, so there is padding."""
    if kind == "vit":
        x = torch.randn(batch, 3, 224, 224)
    else:
        x = torch.randint(1, 30522, (batch, 256))
        x[torch.arange(256) >= torch.linspace(256, 128, batch).unsqueeze(1)] = 0
    return x.to(DEVICE), torch.randint(CLASSES, (batch,), device=DEVICE)


def seconds_of(step, steps):
    """Of one step, the mean of a stretch."""
    wait_for_device()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait_for_device()
    return (time.perf_counter() - start) / steps


def prepare(make, *args):
    """-> the step that make(*args) makes, warm; its peak memory in MiB, where CUDA tells."""
    before = torch.cuda.memory_allocated()
    step = make(*args)
    if before:  # on CUDA, there is x at least
        torch.cuda.reset_peak_memory_stats()
    seconds_of(step, 2)  # the first chooses kernels, AdamW's averages are there in the second
    return step, (torch.cuda.max_memory_allocated() - before) >> 20


def measure(kind, batch, steps):
    """Print the table of one kind of network."""
    sizes = SIZES[kind]
    x, y = inputs(kind, batch)
    rows = {"plain": prepare(plain_step, sizes, x, y)}
    for reads in ("student", "teacher"):
        for cached in ("cached", "asked"):
            rows[f"{reads}, {cached}"] = prepare(our_step, sizes, x, y, reads, cached == "cached")
    times = {name: [] for name in rows}
    for _ in range(TURNS):
        rows = dict(reversed(rows.items()))
        for name, (step, _) in rows.items():
            times[name].append(seconds_of(step, steps))

    print(f"\n{sizes[0]} <- {sizes[1]}, batch {batch}\n"
          f"{'':16}{'examples/s':>11}{'ratio':>8}{'MiB':>8}")
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times["plain"], seconds)]
        print(f"{name:16}{batch / median(seconds):>11.2f}{median(ratios):>8.2f}"
              f"{rows[name][1] or '-':>8}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=8, help="examples a step (default: 8)")
    parser.add_argument("--steps", type=int, default=1, help="in a stretch (default: 1)")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {hardware(DEVICE)}, {TURNS} turns of {args.steps} steps")
    for kind in SIZES:
        measure(kind, args.batch, args.steps)
