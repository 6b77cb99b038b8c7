"""The networks of REKD (arXiv 2601.22531): a ViT and a BERT by hand, and the heads that make a generator or a predictor of them.

They are the published ones (ViT, Dosovitskiy et al. 2021: pre-norm, final layer norm; BERT, Devlin et al. 2019: post-norm, token
types, layer norm over the embeddings; both: learned positions, GELU) plus one argument, `mask` (B, N): what the generator did not
select (0) is hidden from the predictor. How, says a network's `masking`:

    zero    (the paper) the *content* embeddings of unselected features are multiplied by 0; their positions stay in sight
    drop    unselected features take no part in attention; "packed", they are not even computed: cheaper, the same logits

Shapes: B examples, T positions of which the first is [CLS], N features: a ViT's patches, T = 1 + N; a BERT's whole sequence, T = N.
Needs rekd.py beside it. A finished model in your own code:    model, info = load("runs/.../best.pt");  model(x).mask
"""

import json
import re
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from rekd import Rationalist

#           name         kind   dim  depth  heads  published weights (Hugging Face)
PRESETS = {"vit_nano":   ("vit", 24, 2, 2),      # nano and micro: for the built-in sets on a CPU
           "vit_micro":  ("vit", 48, 3, 3),
           "vit_tiny":   ("vit", 192, 12, 3, "WinKawaks/vit-tiny-patch16-224"),    # the paper's
           "vit_small":  ("vit", 384, 12, 6, "WinKawaks/vit-small-patch16-224"),
           "vit_base":   ("vit", 768, 12, 12, "google/vit-base-patch16-224"),
           "bert_nano":  ("bert", 32, 2, 2),
           "bert_micro": ("bert", 64, 2, 4),
           "bert_tiny":  ("bert", 128, 2, 2, "prajjwal1/bert-tiny"),               # the paper's
           "bert_mini":  ("bert", 256, 4, 4, "prajjwal1/bert-mini"),
           "bert_small": ("bert", 512, 4, 8, "prajjwal1/bert-small"),
           "bert_base":  ("bert", 768, 12, 12, "google-bert/bert-base-uncased")}
HUB = {name: size[4] for name, size in PRESETS.items() if len(size) > 4}

class Misuse(ValueError):
    """What the caller gave does not fit: its text is one sentence that says what to do."""

def demand(holds, sentence):
    if not holds:
        raise Misuse(sentence)

def parse_preset(name):
    """A preset's name, or a size spelled out as vit:DIM:DEPTH:HEADS or bert:DIM:DEPTH:HEADS -> (kind, dim, depth, heads)."""
    if name in PRESETS:
        return PRESETS[name][:4]
    spelled = re.fullmatch(r"(vit|bert):([1-9]\d*):([1-9]\d*):([1-9]\d*)", name)
    demand(spelled, f"no preset {name!r}: choose one of {', '.join(PRESETS)}, or spell a size vit:DIM:DEPTH:HEADS or bert:DIM:DEPTH:HEADS")
    return spelled[1], *map(int, spelled.groups()[1:])

# ---------------------------------------------------------------- the transformer encoder
def masked_attention(q, k, v, mask=None):
    """Attention in which position j counts M_j times: w_ij = M_j exp(s_ij - max over visible j) / their sum over j, s = q k / sqrt(d).
    q, k, v (B, heads, T, d), mask M (B, 1, 1, T) or None -> (B, heads, T, d). M_j > 0 is visible; in each example at least one is.
    Nothing of a hidden position enters the result, bit for bit, but the gradient of its M_j is that of attending to its real value."""
    if mask is None or mask.dtype == torch.bool:
        return F.scaled_dot_product_attention(q, k, v, mask)
    if not mask.requires_grad:  # M exp(s) = exp(s + log M): faster, but backward it would be 0 / 0 where M = 0
        return F.scaled_dot_product_attention(q, k, v, mask.log().to(q.dtype))
    scores = (q / q.shape[-1] ** 0.5 @ k.mT).to(torch.promote_types(q.dtype, torch.float32))  # (B, heads, T, T), float32 at least
    top = scores.detach().masked_fill(mask == 0, -torch.inf).amax(-1, keepdim=True)           # (B, heads, T, 1)
    # Only a hidden position can exceed the top, and M = 0 takes it out of the sums: the clamp changes no result. Without it exp would
    # overflow 89 above the top, and 0 * inf is NaN; with it, a hidden position outweighs the top by e^3 at most in M_j's gradient,
    # which is a first-order guess and far too large beyond (with e^10, a student on phrases sampled 47 % instead of 15 %).
    weights = mask * (scores - top).clamp(max=3).exp()
    return (weights.to(v.dtype) @ v / weights.sum(-1, keepdim=True)).to(v.dtype)

def pack(mask, *tensors):
    """tensors (B or 1, N, ...) -> (B, L, ...): each example's selected features, in order. L is the most that one example selects;
    unselected ones fill up the others. Shapes depend on L, so the host waits for the device here: packing is for evaluation."""
    keep = (mask > 0).int()
    kept = keep.argsort(dim=1, descending=True, stable=True)[:, :int(keep.sum(1).max())]  # (B, L)
    return [x[torch.arange(len(x), device=x.device).unsqueeze(1), kept] for x in tensors]

class Block(nn.Module):
    """One encoder layer, (B, T, dim) -> (B, T, dim): attention, then MLP, each added to what it read. ViT normalises before,
    x + f(norm(x)), "pre-norm"; BERT after, norm(x + f(x)), "post-norm". visible (B, 1, 1, T) or None: see `masked_attention`.
    rows: compute the first `rows` positions only, which still attend to all -> (B, rows, dim)."""

    def __init__(self, *, dim, heads, mlp_dim, pre_norm, eps=1e-12):
        super().__init__()
        demand(dim % heads == 0, f"width {dim} is not divisible by {heads} heads")
        self.heads, self.pre_norm = heads, pre_norm
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)

    def attention(self, x, visible, rows):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        y = masked_attention(q[:, :, :rows], k, v, visible)                                       # (B, heads, rows or T, D / heads)
        return self.out(y.transpose(1, 2).flatten(2))                                             # (B, rows or T, D)

    def mlp(self, x):
        return self.fc2(F.gelu(self.fc1(x)))

    def forward(self, x, visible=None, rows=None):
        if self.pre_norm:
            x = x[:, :rows] + self.attention(self.norm1(x), visible, rows)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x[:, :rows] + self.attention(x, visible, rows))
        return self.norm2(x + self.mlp(x))

class ViT(nn.Module):
    """pixels (B, 3, image_size, image_size), mask (B, N) or None -> (B, 1 + N, dim), the normalised last hidden states: of [CLS], always
    visible, then of the N = (image_size / patch_size)^2 patches, row by row. packed (`drop` only): -> (B, 1 + L, dim), see `pack`.
    rows: of the last block compute the first `rows` positions only, -> (B, rows, dim)."""

    def __init__(self, *, dim, depth, heads, image_size, patch_size, masking="zero", mlp_dim=None, eps=1e-12):
        super().__init__()
        demand(image_size % patch_size == 0, f"image size {image_size} is not divisible by patch size {patch_size}")
        demand(masking in ("zero", "drop"), f"no masking {masking!r}: choose zero or drop")
        self.dim, self.masking, self.patch_size, self.num_features = dim, masking, patch_size, (image_size // patch_size) ** 2
        self.patch_embedding = nn.Linear(3 * patch_size**2, dim)  # a convolution whose stride is its size, as a matrix
        self.blocks = nn.ModuleList(Block(dim=dim, heads=heads, mlp_dim=mlp_dim or 4 * dim, pre_norm=True, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.cls = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + self.num_features, dim), std=0.02))

    def selectable(self, pixels):  # (B, N) bool: every patch is
        return torch.ones(len(pixels), self.num_features, dtype=torch.bool, device=pixels.device)

    def features(self, hidden):  # (B, 1 + N, dim) -> (B, N, dim)
        return hidden[:, 1:]

    def forward(self, pixels, mask=None, packed=False, rows=None):
        B, P, grid = len(pixels), self.patch_size, pixels.shape[-1] // self.patch_size
        x = pixels.reshape(B, 3, grid, P, grid, P).permute(0, 2, 4, 1, 3, 5)       # (B, grid, grid, 3, P, P), a convolution's order
        x = x.reshape(B, grid**2, 3 * P**2)                                        # (B, N, 3 P P)
        positions, visible = self.positions[:, 1:], None                           # (1, N, dim)
        if mask is not None and self.masking == "drop":
            if packed:
                x, positions, mask = pack(mask, x, positions, mask)                # N is L from here on
            visible = F.pad(mask, (1, 0), value=1)[:, None, None, :]               # (B, 1, 1, 1 + N)
        x = self.patch_embedding(x)                                                # (B, N, dim)
        if mask is not None and self.masking == "zero":
            x = x * mask.unsqueeze(-1).to(x.dtype)                                 # R = M * X; positions are added after it
        x = torch.cat([(self.cls + self.positions[:, :1]).expand(len(x), -1, -1), x + positions], 1)  # (B, 1 + N, dim)
        for block in self.blocks[:-1]:
            x = block(x, visible)
        return self.norm(self.blocks[-1](x, visible, rows))

class BERT(nn.Module):
    """tokens (B, T) int ids, mask (B, T) or None -> (B, T, dim), the last hidden states. packed, rows: as ViT's, -> (B, L or rows, dim).
    First comes [CLS], always visible; id 0 is padding, always hidden; the last before it is [SEP], which a mask under `drop` hides."""

    def __init__(self, *, dim, depth, heads, vocab_size, max_len, masking="zero", mlp_dim=None, eps=1e-12):
        super().__init__()
        demand(masking in ("zero", "drop"), f"no masking {masking!r}: choose zero or drop")
        self.dim, self.masking, self.max_len = dim, masking, max_len
        self.words, self.positions, self.types = nn.Embedding(vocab_size, dim), nn.Embedding(max_len, dim), nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.blocks = nn.ModuleList(Block(dim=dim, heads=heads, mlp_dim=mlp_dim or 4 * dim, pre_norm=False, eps=eps) for _ in range(depth))
        for table in (self.words, self.positions, self.types):
            nn.init.normal_(table.weight, std=0.02)

    def selectable(self, tokens):  # (B, T) bool: words are; padding, [CLS] (the first) and [SEP] (the last but padding) are not
        token, place = tokens != 0, torch.arange(tokens.shape[1], device=tokens.device)
        return token & (place > 0) & (place < (place * token).amax(1, keepdim=True))

    def features(self, hidden):  # every token is one, so that masks and tokens have one shape; `selectable` tells which count
        return hidden

    def forward(self, tokens, mask=None, packed=False, rows=None):
        T = tokens.shape[1]
        demand(T <= self.max_len, f"{T} tokens are more than the {self.max_len} positions of this BERT: cut the text")
        places, visible = torch.arange(T, device=tokens.device).unsqueeze(0), tokens != 0     # (1, T), (B, T)
        if mask is not None and self.masking == "drop":
            visible = F.pad((mask * self.selectable(tokens))[:, 1:], (1, 0), value=1)          # (B, T), [CLS] is visible
            if packed:
                tokens, places, visible = pack(visible, tokens, places, visible)               # T is L from here on
        x = self.words(tokens)                                                                 # (B, T, dim)
        if mask is not None and self.masking == "zero":
            x = x * F.pad(mask[:, 1:], (1, 0), value=1).unsqueeze(-1).to(x.dtype)              # R = M * X, but [CLS] stays
        x = self.norm(x + self.positions(places) + self.types.weight[0])
        visible = visible[:, None, None, :]                                                    # (B, 1, 1, T)
        for block in self.blocks[:-1]:
            x = block(x, visible)
        return self.blocks[-1](x, visible, rows)

# ---------------------------------------------------------------- generator and predictor
class Generator(nn.Module):
    """x -> (B, N, 2) logits (drop, keep) of every feature. Dropout sits in the head only."""

    def __init__(self, backbone, dropout=0.1):
        super().__init__()
        dim, self.backbone, self.selectable = backbone.dim, backbone, backbone.selectable
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 2))

    def forward(self, x):
        return self.head(self.backbone.features(self.backbone(x)))

class Predictor(nn.Module):
    """x, mask (B, N) or None for the whole input -> (B, num_classes) logits, read at [CLS].
    packed: run the selected features alone. It takes `drop` and a mask that needs no gradient. None: in eval mode, where it can."""

    def __init__(self, backbone, num_classes, dropout=0.1):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.dim, num_classes))

    def forward(self, x, mask=None, packed=None):
        possible = self.backbone.masking == "drop" and not (mask is not None and mask.requires_grad and torch.is_grad_enabled())
        demand(possible or not packed, "packed=True needs a backbone with masking='drop' and a mask without gradient: leave packed out")
        packed = (possible and not self.training) if packed is None else packed
        # Of the last block, what comes after keys and values is computed for [CLS] alone: by FLOP, a fifth less with 4 blocks, a sixteenth with 12.
        return self.head(self.backbone(x, mask, packed, rows=1)[:, 0])

class SelectAll(nn.Module):
    """The generator of a CLS model, which classifies the whole input: keeps every selectable feature, has no parameters."""

    def __init__(self, selectable):
        super().__init__()
        self.selectable = selectable  # x -> (B, N) bool

    def forward(self, x):
        return F.one_hot(self.selectable(x).long(), 2).float()  # (B, N, 2): (1, 0) drops, (0, 1) keeps

# ---------------------------------------------------------------- building and loading
def build(*, preset, method, num_classes, masking="zero", dropout=0.1, **shape):
    """A Rationalist of the preset's size: generator and predictor (RE, REKD), or the predictor alone (method "cls").
    shape: image_size and patch_size for a ViT, vocab_size and max_len for a BERT."""
    kind, dim, depth, heads = parse_preset(preset)

    def backbone():
        network = {"vit": ViT, "bert": BERT}[kind](dim=dim, depth=depth, heads=heads, masking=masking, **shape)
        # From scratch, residual branches begin at 0, so that a token begins as itself. From PyTorch's own initialisation RE
        # often learns to keep all of some images and nothing of the others (the batch's mean rate is met) and stays there.
        for block in network.blocks:
            for p in (*block.out.parameters(), *block.fc2.parameters()):
                nn.init.zeros_(p)
        return network

    generator = None if method == "cls" else Generator(backbone(), dropout)
    predictor = Predictor(backbone(), num_classes, dropout)
    return Rationalist(generator or SelectAll(predictor.backbone.selectable), predictor)

def read_dict(path, what, advice, device="cpu"):
    """The dict in a .json, a .safetensors or a file of torch.save, whose pickled code is never run. Any trouble: ValueError."""
    try:
        own = {".json": lambda path: json.loads(Path(path).read_bytes()), ".safetensors": read_safetensors}.get(Path(path).suffix)
        return {**(own(path) if own else torch.load(path, map_location=device, weights_only=True))}
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Misuse(f"cannot read the {what} {path}: {error.strerror}") from None
    except Exception:  # a damaged file fails in a dozen ways, from EOFError to UnpicklingError
        raise Misuse(f"{path} is damaged or no {what}: {advice}") from None

def load(path, device="cpu"):
    """A finished best.pt -> (Rationalist in eval mode, info). A missing, damaged or foreign file is a ValueError.
    info: `model` (the arguments of `build`), `config` (all options of the run), `classes` (names), `input` (what turns a
    file into an input, see data.read_input), `fingerprint` of the training data, `metric` (on dev)."""
    checkpoint = read_dict(path, "checkpoint", advice := "give the best.pt of a finished run", device)
    demand({"weights", "model", "classes", "input"} <= checkpoint.keys(), f"{path} is not a checkpoint of train.py: {advice}")
    with torch.device("meta"):  # shapes alone: no weights are drawn only to be replaced by the file's
        model = build(**checkpoint["model"])
    model.load_state_dict({name: weight.float() for name, weight in checkpoint.pop("weights").items()}, assign=True)
    return model.to(device).eval(), checkpoint

def load_teacher(path, device="cpu", *, classes, vocabulary=None, **shape):
    """As `load`, but frozen, and refused if it cannot teach a student of these class names, vocabulary and shape (as in `build`)."""
    teacher, info = load(path, device)
    theirs, reads = info["classes"], {key: info["model"].get(key) for key in shape}
    demand(info["model"]["method"] != "cls", f"{path} is a CLS model and has no rationales to teach: give an RE run")
    demand(theirs == classes, f"{path} was trained on other classes ({', '.join(theirs[:10])}) than its student has ({', '.join(classes[:10])})")
    demand(info["input"].get("vocabulary") == vocabulary, f"{path} was trained with another vocabulary: a teacher reads the tokens of its student")
    demand(reads == shape, f"{path} reads {reads}, the student {shape}: teacher and student need the same grid of features")
    return teacher.requires_grad_(False), info

# ---------------------------------------------------------------- published weights
NAMES = {  # our modules -> those of the published files (ViT | BERT, where they differ); a block's are under encoder.layer.<i>
    "cls": "embeddings.cls_token", "patch_embedding": "embeddings.patch_embeddings.projection", "positions": "embeddings.position_embeddings",
    "words": "embeddings.word_embeddings", "types": "embeddings.token_type_embeddings", "norm": "layernorm|embeddings.LayerNorm",
    "norm1": "layernorm_before|attention.output.LayerNorm", "norm2": "layernorm_after|output.LayerNorm", "fc1": "intermediate.dense",
    "fc2": "output.dense", "out": "attention.output.dense", "qkv": "attention.attention|attention.self"}
IGNORED = ("embeddings.position_ids", "pooler.", "classifier.", "cls.")  # a buffer, and heads
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}

def read_safetensors(path):
    """{name: tensor}. The format: 8 bytes tell the length of a JSON header, which tells of the tensors' bytes, which follow end to end."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header, data, tensors, end = file.read(min(length, 10**8)), bytearray(file.read()), {}, 0
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            (begin, stop), shape, dtype = entry["data_offsets"], torch.Size(entry["shape"]), DTYPES[entry["dtype"]]
            demand(begin == end and stop <= len(data) and stop - begin == shape.numel() * dtype.itemsize, f"{name} cannot be {entry}")
            tensors[name], end = torch.frombuffer(data[begin:stop], dtype=dtype).view(shape), stop
        demand(end == len(data), f"it has {len(data)} bytes of tensors, not {end}")
    except Exception as error:  # a header can be wrong in a dozen ways
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    return tensors

def resize_positions(table, n):
    """Position embeddings of a square grid, (1, 1 + m, dim) -> (1, 1 + n, dim): [CLS]'s stays, the grid's are interpolated."""
    old, new = round(table[:, 1:].shape[1] ** 0.5), round(n ** 0.5)
    if table.shape[1] != 1 + old**2 or old in (0, new):
        return table  # no square, or as it should be
    grid = table[:, 1:].float().transpose(1, 2).unflatten(2, (old, old))              # (1, dim, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)  # (1, dim, new, new)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)

def load_pretrained(backbone, source):
    """All weights of a ViT or BERT from a file (.safetensors, or of torch.save) or state dict with Hugging Face's published names.
    A prefix (vit., bert.) and heads do not matter. Of more layers or word positions than needed the first are taken, image positions
    are interpolated. Whatever else does not fit, a config.json beside the file included, is a ValueError: the backbone is as it was."""
    def fits(holds, problem):
        demand(holds, f"{where} {problem}, or start from scratch")

    kind, block, where, found, views = "vit" if isinstance(backbone, ViT) else "bert", backbone.blocks[0], "the state dict", {}, {}
    if not isinstance(source, dict):
        where, config = source, Path(source).with_name("config.json")
        theirs = read_dict(config, "JSON", "mend or remove it") if config.exists() else {}
        ours = dict(model_type=kind, hidden_size=backbone.dim, num_attention_heads=block.heads, intermediate_size=block.fc1.out_features,
                    patch_size=getattr(backbone, "patch_size", None), layer_norm_eps=block.norm1.eps, hidden_act="gelu")
        for name, value in ours.items():
            fits(theirs.get(name, value) == value, f"has {name} {theirs.get(name)} by its config.json, this network {value}: take the file's")
        source = read_dict(where, "file of weights", "fetch it again")
    for key, x in source.items():  # found: their tensors by today's names, without prefix, heads and deeper layers
        name = str(key).removeprefix(f"{kind}.").replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        layer = re.match(r"encoder\.layer\.(\d+)\.", name)
        if not name.startswith(IGNORED) and not (layer and int(layer[1]) >= len(backbone.blocks)):
            found[f"{name} (twice)" if name in found else name] = x
    for key, tensor in backbone.state_dict().items():  # views: our tensors in the published shapes and names
        layer, module, leaf = re.fullmatch(r"(blocks\.\d+\.)?(\w+)(\.\w+)?", key).groups("")
        name = layer.replace("blocks", "encoder.layer") + NAMES[module].split("|")[-1 if kind == "bert" else 0]
        parts = (".query", ".key", ".value") if module == "qkv" else ("",)
        if key == "patch_embedding.weight":
            tensor = tensor.view(backbone.dim, 3, backbone.patch_size, -1)  # theirs is a convolution
        views.update((name + part + leaf, view) for part, view in zip(parts, tensor.chunk(len(parts))))
    missing, unexpected = (", ".join(sorted(names)) or "none" for names in (views.keys() - found.keys(), found.keys() - views.keys()))
    fits(any(name.startswith("embeddings.") for name in views.keys() & found.keys()), f"holds no {kind} by its published names: take another file")
    fits(views.keys() == found.keys(), f"has not the keys of this {kind} (missing: {missing}; unexpected: {unexpected}): take another file")
    for name, view in views.items():
        x = found[name]
        fits(torch.is_tensor(x) and x.is_floating_point() and x.float().isfinite().all(), f"has not finite numbers in {name}: fetch it again")
        if "position" in name and x.ndim == view.ndim:
            x = x[:backbone.max_len] if kind == "bert" else resize_positions(x, backbone.num_features)
        fits(x.shape == view.shape, f"has the shape {tuple(x.shape)} in {name}, this {kind} {tuple(view.shape)}: take the file's sizes")
        found[name] = x
    for name, view in views.items():  # only now, when all is known to fit
        view.copy_(found[name])

def initialise(model, source):
    """Both networks of a Rationalist begin with the same published weights. (The generator of a CLS model has none.)"""
    for network in (model.generator, model.predictor):
        if hasattr(network, "backbone"):
            load_pretrained(network.backbone, source)
