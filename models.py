"""The networks of REKD (arXiv 2601.22531): a ViT and a BERT by hand, and the heads on top of them.

The networks are the published ones: ViT (Dosovitskiy et al. 2021: pre-norm, a final layer norm)
and BERT (Devlin et al. 2019: post-norm, token types, a layer norm over the embeddings); both have
learned positions and GELU. They take one more argument, `mask` (B, N): what the generator did not
select (0) is hidden from the predictor. How, says a network's `masking`:

    zero    (the paper) the *content* embeddings of unselected features are multiplied by 0; their
            positions stay in sight
    drop    unselected features take no part in attention; most need not even be computed, see
            `pack`: cheaper, and the same logits

Shapes: B examples, T positions of which the first is [CLS], N features. A ViT's features are its
patches, T = 1 + N; a BERT's are its whole sequence, T = N.

Needs rekd.py and data.py beside it. A finished model in your own code:

    model, info = load("runs/.../best.pt")
    mask = model(x).mask
"""

import json
import math
import re
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from data import UserError
from rekd import Rationalist


def require(condition, message):
    if not condition:
        raise UserError(message)


# ---------------------------------------------------------------- 1. the transformer encoder
def masked_attention(q, k, v, mask=None):
    """Attention in which position j counts M_j times, with a gradient of its own for M.

    forward      w_ij = M_j e_ij / Z_i,     e_ij = exp(q_i k_j / sqrt(d)), Z_i = sum_j M_j e_ij
    backward     dw_ij / dM_j = e_ij / Z_i               where j is visible (M_j > 0)
                 dw_ij / dM_j = e_ij / (e_ij + Z_i)      where j is hidden (M_j = 0)

    (and, in both, what the others lose). The second is not the derivative of the first line: it is
    the share of attention that j would have if it were shown. The derivative, e / Z, may overflow.

    q, k, v (B, heads, T, d), mask M (B, 1, 1, T) or None -> (B, heads, T, d). In each example at
    least one position is visible. Nothing of a hidden one enters the result, bit for bit.
    """
    if mask is None or not mask.requires_grad:
        # M exp(s) = exp(s + log M): faster, but backward it would be 0 / 0 where M = 0.
        bias = None if mask is None else mask.log().to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, bias)

    scores = q / q.shape[-1] ** 0.5 @ k.mT                                    # (B, heads, T, T)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))           # float32 at least
    visible = scores.masked_fill(mask == 0, -torch.inf)
    top = visible.detach().amax(-1, keepdim=True)                             # (B, heads, T, 1)
    seen = (visible - top).exp()                                              # 0 where hidden
    total = seen.sum(-1, keepdim=True)                                        # (B, heads, T, 1)
    share = (scores.detach() - top - total.detach().log()).sigmoid()          # (B, heads, T, T)
    weights = mask * torch.where(mask == 0, share * total, seen)              # total is Z
    return (weights.to(v.dtype) @ v / weights.sum(-1, keepdim=True)).to(v.dtype)


def pack(mask, content, length, *tensors):
    """Keep `length` of N features, the selected ones first.

    mask (B, N), tensors (B or 1, N, ...) -> [mask (B, L), tensors (B, L, ...)], L = length.

    content (B, N) bool: what may be selected. Selected features that do not fit are not selected.
    In training, where the mask has a gradient, the room that is left holds a random part of the
    others, which stay hidden: their gradient is scaled up by (others / others taken), so that,
    where one fits at least, the expected gradient is that of all.
    """
    selected = mask.detach() > 0
    score = 2.0 * selected + content                              # 3 kept, 1 hidden, 0 padding
    if not mask.requires_grad:
        kept = score.argsort(dim=1, descending=True, stable=True)[:, :length]    # (B, L), in order
        mask = mask.gather(1, kept)
    else:
        kept = (score + torch.rand_like(score)).topk(length).indices             # (B, L), random
        mask = mask.gather(1, kept)
        others = content & ~selected
        taken = others.gather(1, kept)
        scale = others.sum(1, keepdim=True) / taken.sum(1, keepdim=True).clamp(min=1)
        mask = mask.detach() + torch.where(taken, scale, 1) * (mask - mask.detach())
    rows = torch.arange(len(mask), device=mask.device).unsqueeze(1)
    return [mask, *(x[rows if len(x) > 1 else 0, kept] for x in tensors)]


EPS = 1e-12  # of every layer norm, in the published ViT and BERT alike


class Block(nn.Module):
    """One encoder layer, (B, T, dim) -> (B, T, dim): attention, then MLP, each added to its input.

    ViT normalises before, x + f(norm(x)), "pre-norm"; BERT after, norm(x + f(x)), "post-norm".
    visible (B, 1, 1, T) or None: see `masked_attention`. rows: compute the first `rows` positions
    only, which still attend to all -> (B, rows, dim).
    """

    def __init__(self, *, dim, heads, pre_norm):
        super().__init__()
        require(dim % heads == 0, f"width {dim} is not divisible by {heads} heads")
        self.heads = heads
        self.pre_norm = pre_norm
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def attention(self, x, visible, rows):
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))      # (B, T, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                     # each (B, heads, T, d)
        y = masked_attention(q[:, :, :rows], k, v, visible)      # (B, heads, rows or T, d)
        return self.out(y.transpose(1, 2).flatten(2))            # (B, rows or T, dim)

    def mlp(self, x):
        return self.fc2(F.gelu(self.fc1(x)))

    def forward(self, x, visible=None, rows=None):
        if self.pre_norm:
            x = x[:, :rows] + self.attention(self.norm1(x), visible, rows)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x[:, :rows] + self.attention(x, visible, rows))
        return self.norm2(x + self.mlp(x))


# ---------------------------------------------------------------- 2. ViT and BERT
class ViT(nn.Module):
    """pixels (B, 3, image_size, image_size), mask (B, N) or None -> (B, 1 + N, dim).

    The normalised last hidden states: of [CLS], always visible, then of the N = (image_size /
    patch_size)^2 patches, row by row. packed: with `drop` compute so many patches only, see `pack`
    -> (B, 1 + packed, dim). rows: of the last block compute the first `rows` positions only
    -> (B, rows, dim). None: all.
    """

    def __init__(self, *, dim, depth, heads, image_size, patch_size, masking="zero"):
        super().__init__()
        require(patch_size > 0 and image_size % patch_size == 0,
                f"image size {image_size} is not divisible by patch size {patch_size}")
        self.dim = dim
        self.masking = masking
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_features = N = (image_size // patch_size) ** 2
        # The patch embedding is a convolution whose stride is its size, written as a matrix.
        self.patch_embedding = nn.Linear(3 * patch_size**2, dim)
        self.blocks = nn.ModuleList(
            Block(dim=dim, heads=heads, pre_norm=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.cls = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, 1 + N, dim))
        for table in (self.cls, self.positions):
            nn.init.trunc_normal_(table, std=0.02)

    def selectable(self, pixels):
        """(B, N) bool: every patch is."""
        return pixels.new_ones(len(pixels), self.num_features, dtype=torch.bool)

    def features(self, hidden):
        return hidden[:, 1:]  # (B, 1 + N, dim) -> (B, N, dim)

    def forward(self, pixels, mask=None, packed=None, rows=None):
        H, W = pixels.shape[2:]
        require(H == W == self.image_size, f"images of {H} x {W} pixels, but this ViT reads "
                f"{self.image_size} x {self.image_size}")
        x = F.pixel_unshuffle(pixels, self.patch_size)    # (B, 3 P P, grid, grid)
        x = x.flatten(2).mT.contiguous()                  # (B, N, 3 P P), a convolution's order
        places = torch.arange(self.num_features, device=x.device).unsqueeze(0)  # (1, N)
        visible = None

        if mask is not None and self.masking == "drop":
            if packed is not None:  # N is `packed` from here on
                content = self.selectable(pixels)
                mask, x, places = pack(mask, content, packed, x, places)
            visible = F.pad(mask[:, None, None], (1, 0), value=1)  # (B, 1, 1, 1 + N): [CLS], too
        x = self.patch_embedding(x)                       # (B, N, dim)
        if mask is not None and self.masking == "zero":
            x = x * mask.unsqueeze(-1).to(x.dtype)        # R = M * X; positions are added after it

        # An index, positions[places], would add up gradients in an order that threads decide.
        positions = F.embedding(places, self.positions[0, 1:])   # (B or 1, N, dim)
        cls = self.cls + self.positions[:, :1]            # (1, 1, dim)
        x = torch.cat([cls.expand(len(x), -1, -1), x + positions], 1)     # (B, 1 + N, dim)
        *lower, top = self.blocks
        for block in lower:
            x = block(x, visible)
        return self.norm(top(x, visible, rows))


class BERT(nn.Module):
    """tokens (B, T) int ids, mask (B, T) or None -> (B, T, dim), the last hidden states.

    First comes [CLS], always visible; id 0 is padding, always hidden; the last before it is [SEP],
    which a mask under `drop` hides. packed, rows: as ViT's -> (B, 1 + packed or rows, dim).
    """

    def __init__(self, *, dim, depth, heads, vocab_size, max_len, masking="zero"):
        super().__init__()
        self.dim = dim
        self.masking = masking
        self.max_len = max_len
        self.words = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(max_len, dim)
        self.types = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.blocks = nn.ModuleList(
            Block(dim=dim, heads=heads, pre_norm=False) for _ in range(depth))
        for table in (self.words, self.positions, self.types):
            nn.init.normal_(table.weight, std=0.02)

    def selectable(self, tokens):
        """(B, T) bool: words are; padding, [CLS] (the first) and [SEP] (the last token) are not."""
        token = tokens != 0                                           # (B, T)
        place = torch.arange(tokens.shape[1], device=tokens.device)   # (T,)
        last = (place * token).amax(1, keepdim=True)                  # (B, 1)
        return token & (place > 0) & (place < last)

    def features(self, hidden):
        return hidden  # every token is one, so that masks and tokens have one shape

    def forward(self, tokens, mask=None, packed=None, rows=None):
        T = tokens.shape[1]
        require(T <= self.max_len,
                f"{T} tokens are more than this BERT's {self.max_len} positions: cut the text")
        places = torch.arange(T, device=tokens.device).unsqueeze(0)   # (1, T)
        visible = tokens != 0                                         # (B, T)

        if mask is not None and self.masking == "drop":
            content = self.selectable(tokens)
            visible = mask * content                                  # (B, T)
            if packed is not None:  # [CLS], at place 0, then words: T is 1 + packed from here on
                short = pack(visible, content, packed, places)
                visible, places = (F.pad(x, (1, 0)) for x in short)
                tokens = tokens.gather(1, places)
            visible[:, 0] = 1                                         # [CLS]
        x = self.words(tokens)                                        # (B, T, dim)
        if mask is not None and self.masking == "zero":
            mask = mask.masked_fill(places == 0, 1)                   # [CLS] stays
            x = x * mask.unsqueeze(-1).to(x.dtype)                    # R = M * X

        x = self.norm(x + self.positions(places) + self.types.weight[0])
        visible = visible[:, None, None]                              # (B, 1, 1, T)
        *lower, top = self.blocks
        for block in lower:
            x = block(x, visible)
        return top(x, visible, rows)


# ---------------------------------------------------------------- 3. generator and predictor
# A backbone, under either head, is any module with these members:
#
#     dim                   the width of its hidden states
#     masking               "zero" or "drop"
#     selectable(x)         -> (B, N) bool, False for what is no content: padding, special tokens
#     features(hidden)      (B, T, dim) -> (B, N, dim): the hidden states of the N features
#     forward(x, mask=None, packed=None, rows=None) -> (B, T, dim), [CLS] first
#         mask (B, N)       1 = in sight, 0 = hidden; None shows the whole input
#         packed            may compute so many features only, see `pack`; None: all
#         rows              give the first `rows` positions only: a predictor reads [CLS] alone

class Generator(nn.Module):
    """x -> (B, N, 2) logits (drop, keep) of every feature. Dropout sits in the head only."""

    def __init__(self, backbone, dropout=0.1):
        super().__init__()
        dim = backbone.dim
        self.backbone = backbone
        self.selectable = backbone.selectable
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 2))

    def forward(self, x):
        return self.head(self.backbone.features(self.backbone(x)))


class Predictor(nn.Module):
    """x, mask (B, N) or None for the whole input -> (B, num_classes) logits, read at [CLS].

    packed: with `drop`, compute so many features only, see `pack`; None: all.
    """

    packs = True  # see rekd.Rationalist

    def __init__(self, backbone, num_classes, dropout=0.1):
        super().__init__()
        require(backbone.masking in ("zero", "drop"),
                f"no masking {backbone.masking!r}: choose zero or drop")
        self.backbone = backbone
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.dim, num_classes))

    def forward(self, x, mask=None, packed=None):
        # Of the last block, what comes after keys and values is computed for [CLS] alone: by FLOP,
        # a fifth less with 4 blocks, a sixteenth with 12.
        hidden = self.backbone(x, mask, packed, rows=1)  # (B, 1, dim)
        return self.head(hidden[:, 0])


class SelectAll(nn.Module):
    """The generator of a CLS model: keeps every selectable feature, has no parameters."""

    def __init__(self, selectable):
        super().__init__()
        self.selectable = selectable  # x -> (B, N) bool

    def forward(self, x):
        return F.one_hot(self.selectable(x).long(), 2).float()  # (B, N, 2), keep: (0, 1)


# ---------------------------------------------------------------- 4. build and load
PRESETS = {  # KIND:DIM:DEPTH:HEADS
    "vit_nano": "vit:24:2:2",           # nano and micro: for the built-in sets on a CPU
    "vit_micro": "vit:48:3:3",
    "vit_tiny": "vit:192:12:3",         # tiny to base: the paper's
    "vit_small": "vit:384:12:6",
    "vit_base": "vit:768:12:12",
    "bert_nano": "bert:32:2:2",
    "bert_micro": "bert:64:2:4",
    "bert_tiny": "bert:128:2:2",
    "bert_mini": "bert:256:4:4",
    "bert_small": "bert:512:4:8",
    "bert_base": "bert:768:12:12",
}
HUB = {  # where the paper's begin: published weights, on Hugging Face
    "vit_tiny": "WinKawaks/vit-tiny-patch16-224",
    "vit_small": "WinKawaks/vit-small-patch16-224",
    "vit_base": "google/vit-base-patch16-224",
    "bert_tiny": "prajjwal1/bert-tiny",
    "bert_mini": "prajjwal1/bert-mini",
    "bert_small": "prajjwal1/bert-small",
    "bert_base": "google-bert/bert-base-uncased",
}


def parse_preset(name):
    """A preset's name, or a size as vit:DIM:DEPTH:HEADS -> (kind, dim, depth, heads)."""
    size = PRESETS.get(name, name)
    spelled = re.fullmatch(r"(vit|bert):([1-9]\d{0,3}):([1-9]\d?):([1-9]\d{0,2})", size, re.ASCII)
    require(spelled, f"no preset {name!r}: choose one of {', '.join(PRESETS)}, or spell a size "
                     "vit:DIM:DEPTH:HEADS or bert:DIM:DEPTH:HEADS, at most 9999, 99 and 999")
    kind, *numbers = spelled.groups()
    return kind, *map(int, numbers)


def build(*, preset, method, num_classes, masking="zero", dropout=0.1, rate=None, **shape):
    """A Rationalist of the preset's size, from scratch.

    method "cls" or "kd": the predictor of everything; else a generator and a predictor.
    masking: zero (the paper; the default here) or drop (the default of train.py).
    rate: of the mask of evaluation, see Rationalist.
    shape: image_size and patch_size for a ViT, vocab_size and max_len for a BERT.
    """
    require(rate is None or 0 < rate <= 1, f"no rate {rate}: it is above 0 and at most 1")
    kind, dim, depth, heads = parse_preset(preset)
    network = ViT if kind == "vit" else BERT
    size = dict(dim=dim, depth=depth, heads=heads, masking=masking, **shape)
    generator = None if method in ("cls", "kd") else Generator(network(**size), dropout)
    predictor = Predictor(network(**size), num_classes, dropout)
    generator = generator or SelectAll(predictor.backbone.selectable)
    model = Rationalist(generator, predictor, rate)
    # Residual branches begin at 0, so that a token begins as itself. From PyTorch's own
    # initialisation, with L_select, RE often learns to keep all of some images and nothing of the
    # others (the batch's mean rate is met) and stays there.
    for name, p in model.named_parameters():
        if ".out." in name or ".fc2." in name:
            nn.init.zeros_(p)
    return model


def read_weights(path, what, device="cpu"):
    """The dict in a .safetensors or in a file of torch.save; code that is pickled in it never runs.

    what the file should be: for the text of the UserError.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        return dict(torch.load(path, map_location=device, weights_only=True))
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from None
    except Exception:  # a damaged file fails in a dozen ways, from EOFError to UnpicklingError
        raise UserError(f"cannot read {path}: it is damaged or no {what}, give another") from None


def load(path, device="cpu"):
    """A finished best.pt -> (Rationalist in eval mode, info). A file that is none: UserError.

    info: `model` (the arguments of `build`), `config` (all options of the run), `classes` (names),
    `input` (what turns a file into an input, see data.read_input), `fingerprint` of the training
    data, `metric` (on dev).
    """
    info = read_weights(path, "checkpoint", device)
    try:
        with torch.device("meta"):  # shapes alone: no weights are drawn only to be replaced
            model = build(**info["model"])
        model.load_state_dict(info.pop("weights"), assign=True)
        missing = {"config", "classes", "input", "metric", "fingerprint"} - info.keys()
        require(not missing, f"it lacks {', '.join(missing)}")
    except Exception as error:
        reason = str(error).partition("\n")[0]  # PyTorch's have many lines
        raise UserError(f"{path} is no best.pt of a finished run ({reason}): give one") from None
    # Into float32: a file may hold half precision, which halves its size.
    return model.float().eval(), info


def load_teacher(path, device="cpu", *, classes, vocabulary=None, **shape):
    """As `load`, but frozen, and refused where it cannot teach a student of these class names,
    vocabulary and shape (as in `build`)."""
    teacher, info = load(path, device)
    model = info["model"]
    require(model["method"] not in ("cls", "kd"),
            f"{path} is of method {model['method']}, without rationales to teach: give an RE run")
    require(info["classes"] == classes,
            f"{path} was trained on the classes {info['classes'][:9]}, not on {classes[:9]}")
    require(info["input"].get("vocabulary") == vocabulary,
            f"{path} was trained with another vocabulary: a teacher reads its student's tokens")
    require(model | shape == model,
            f"{path} is built for {model}, its student for {shape}: take the same grid of features")
    return teacher.requires_grad_(False), info


# ---------------------------------------------------------------- 5. published weights
# Parts of our names -> of the published ones, replaced in this order; {} is query, key or value.
BOTH = {
    "blocks.": "encoder.layer.",
    "positions": "embeddings.position_embeddings",
    "out.": "attention.output.dense.",
    "fc1.": "intermediate.dense.",
    "fc2.": "output.dense.",
}
NAMES = {
    "vit": {
        **BOTH,
        "cls": "embeddings.cls_token",
        "patch_embedding.": "embeddings.patch_embeddings.projection.",
        "qkv.": "attention.attention.{}.",
        "norm1.": "layernorm_before.",
        "norm2.": "layernorm_after.",
        "norm.": "layernorm.",
    },
    "bert": {
        **BOTH,
        "words.": "embeddings.word_embeddings.",
        "types.": "embeddings.token_type_embeddings.",
        "norm.": "embeddings.LayerNorm.",
        "qkv.": "attention.self.{}.",
        "norm1.": "attention.output.LayerNorm.",
        "norm2.": "output.LayerNorm.",
    },
}
BACKBONE = ("embeddings.", "encoder.", "layernorm.")  # all else is a head
IGNORED = ("embeddings.position_ids", "embeddings.mask_token")  # no part of the forward pass
# Of safetensors files. What has another type, such as a bool, is no weight.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
          "BF16": torch.bfloat16, "I64": torch.int64}


def read_safetensors(path):
    """{name: tensor}. The format: 8 bytes that tell the length of a JSON header, the header, which
    tells of each tensor's bytes, and these bytes."""
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    data = memoryview(raw)[start:]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        if dtype and begin < end:  # an empty tensor is no weight
            tensors[name] = torch.frombuffer(data[begin:end], dtype=dtype).view(entry["shape"])
    return tensors


def load_pretrained(backbone, source):
    """All weights of a ViT or BERT from a file (.safetensors, or of torch.save) or a state dict,
    by the names of Hugging Face's published files.

    A prefix (vit., bert.) and heads do not matter. Of more layers, words or word positions than
    needed the first are taken; image positions are interpolated. Whatever else is not as in
    `backbone`, a config.json beside the file included, is a UserError.
    """
    kind = "vit" if isinstance(backbone, ViT) else "bert"
    is_file = not isinstance(source, dict)
    state = read_weights(source, "file of weights") if is_file else source
    try:
        if is_file:
            check_config(backbone, kind, Path(source))
        require(not any(re.match(r"(vit\.)?layers\.", name) for name in state),
                "its names are those of a model in memory: write it by its save_pretrained")
        found = published_tensors(state, kind, len(backbone.blocks))
        for name, slot in published_slots(backbone, kind).items():
            require(name in found, f"it has no {name}")
            x = found.pop(name).detach()  # a parameter, perhaps
            require(x.is_floating_point() and x.isfinite().all(),
                    f"{name} is not of finite real numbers, but {x.dtype}")
            if "embeddings" in name:
                x = fit_table(x, slot)
            require(x.shape == slot.shape, f"{tuple(x.shape)} in {name}, not {tuple(slot.shape)}")
            slot.copy_(x)
        require(not found, f"unexpected: {', '.join(found)[:100]}")
    except Exception as error:  # a tensor may be none at all
        where = source if is_file else "the state dict"
        raise UserError(f"{where} is for another {kind} ({error}): take another file, "
                        f"or start from scratch") from None


def published_slots(backbone, kind):
    """{published name: our tensor in its published shape}: what is copied into one is copied into
    the backbone."""
    slots = {}
    for name, tensor in backbone.state_dict().items():
        if name == "patch_embedding.weight":
            tensor = tensor.view(backbone.dim, 3, backbone.patch_size, -1)  # theirs: a convolution
        for ours, theirs in NAMES[kind].items():
            name = name.replace(ours, theirs)
        parts = ("query", "key", "value") if "{}" in name else ("",)  # theirs: three matrices
        for part, slot in zip(parts, tensor.chunk(len(parts))):
            slots[name.format(part)] = slot
    return slots


def published_tensors(state, kind, depth):
    """What a published state dict holds of a backbone of this depth: without the prefix (vit.,
    bert.), the heads and the deeper layers."""
    found = {}
    for name, x in state.items():
        name = name.removeprefix(f"{kind}.")
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")  # the names of 2018
        layer = re.match(r"encoder\.layer\.(\d+)\.", name)
        is_deeper = layer and int(layer[1]) >= depth
        if name.startswith(BACKBONE) and name not in IGNORED and not is_deeper:
            found[name] = x
    return found


def fit_table(table, slot):
    """A published table of words or positions -> one of our length, as far as it can be.

    A text's is (m, dim): the first are taken. An image's positions, (1, 1 + m, dim), are of [CLS]
    and a square grid, which is interpolated.
    """
    if table.ndim == 2:
        return table[:len(slot)]
    if table.ndim != 3 or table.shape[1] == 1:  # a convolution, a bias, [CLS]
        return table
    old = math.isqrt(table.shape[1] - 1)
    new = math.isqrt(slot.shape[1] - 1)
    grid = table[:, 1:].float().mT                             # (1, dim, old^2)
    grid = grid.unflatten(2, (old, old))                       # (1, dim, old, old)
    grid = F.interpolate(grid, size=new, mode="bicubic")       # (1, dim, new, new)
    return torch.cat([table[:, :1], grid.flatten(2).mT], 1)    # (1, 1 + new^2, dim)


def check_config(backbone, kind, path):
    """config.json and tokenizer_config.json, where they lie beside the weights, name settings that
    change a network's numbers without changing a shape: they must fit as well."""
    expected = {"model_type": kind, "is_decoder": False, "hidden_act": "gelu",
                "layer_norm_eps": EPS, "num_attention_heads": backbone.blocks[0].heads,
                "do_lower_case": True, "strip_accents": True, "tokenize_chinese_chars": True,
                "do_basic_tokenize": True}
    if kind == "vit":
        expected["patch_size"] = backbone.patch_size
    for file in (path.with_name("config.json"), path.with_name("tokenizer_config.json")):
        try:
            config = json.loads(file.read_bytes()) if file.exists() else {}
        except ValueError:
            raise UserError(f"{file} is no JSON: mend or remove it") from None
        for name, value in expected.items():
            found = config.get(name)
            require(found in (None, value, [value, value]),
                    f"{name} {found} by its {file.name}, this network {value}")
        size = config.get("image_size")  # of its training: any, but a square
        require(not isinstance(size, list) or len({*size}) == 1,
                f"image_size {size} by its {file.name}, this network a square")


def initialise(model, source):
    """Both networks of a Rationalist begin with the same published weights. (The generator of a
    CLS model has none.)"""
    for network in model.modules():
        if isinstance(network, (ViT, BERT)):
            load_pretrained(network, source)
