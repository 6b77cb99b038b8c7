"""Train rationale models: a teacher, and students that learn from it (REKD, arXiv 2601.22531).

    python train.py                                          the built-in glyphs: a teacher, then its REKD student
    python train.py --compare                                CLS, RE and REKD students in one table
    python train.py --compare --seeds 6                      mean +- std over seeds, and whether REKD - RE is significant
    python train.py --dataset phrases --compare              the same for text
    python train.py --dataset cifar10 --student vit_tiny     a ViT-Tiny student; its teacher is trained first if there is none
    python train.py --dataset cifar10 --teacher vit_base     teacher mode: no --student, so only the teacher is trained
    python train.py --explain FILE ... --checkpoint runs/.../best.pt    rationales of your own images or texts

Three kinds of model are compared. CLS: the predictor alone, on the whole input. RE: generator and predictor, trained by
L_RE. REKD: the same, trained by L_REKD with a frozen RE teacher. With --compare, the built-in sets take 2 to 3 minutes on
2 CPU cores; what students reach there, over seeds, stands in README.md under Results. A run leaves its options, log,
checkpoints and a picture in runs/<dataset>/<role>-<method>-<preset>-seed<k>/; --resume goes on after an interruption.

This file follows a run from top to bottom: options, device and data, networks, the teacher; one training run (its folder,
model, optimiser, loop, evaluation); the table, the pictures; at the end experiment() and main() put them together.
"""

import argparse
import hashlib
import html
import json
import platform
import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data import BUILT_IN, SPECIAL, UserError, WordPiece, fetch_hub, kind_of, load_dataset, read_image, read_input, read_text, write_atomically
from models import HUB, Misuse, build, initialise, load, load_teacher, parse_preset, read_dict
from rekd import (agreement, cls_losses, evaluation_mask, faithfulness_and_chance, probe, re_losses, rekd_losses, saliency, selection_stats,
                  sign_flip_test, temperature, top_mask)

# ---------------------------------------------------------------- options
# What depends on the data, and on whether a model starts from published weights (the paper's recipe) or from scratch. The built-in sets
# show the paper's effect, so they mask as the paper does. lambda_select weighs a squared *count* of features: more features want a smaller one.
COLUMNS = ["student", "teacher", "image_size", "patch_size", "max_length", "epochs", "teacher_epochs", "batch_size", "lr", "weight_decay",
           "dropout", "rate", "lambda_select", "masking"]
DEFAULTS = {name: dict(zip(COLUMNS, row)) for name, row in {
    #                 student       teacher        pixels: side, patch | tokens  epochs  batch  lr    decay dropout rate  select masking
    "glyphs":        ("vit_nano",   "vit_micro",    32,   4,    None,  4,  8,     64,    1e-3, 1e-3, 0.1,    0.10, 1e-2, "zero"),
    "phrases":       ("bert_nano",  "bert_micro",   None, None, 32,    5,  8,     64,    1e-3, 0.0,  0.1,    0.15, 1e-2, "zero"),
    "image":         ("vit_tiny",   "vit_base",     224,  16,   None,  35, 35,    32,    1e-5, 1e-3, 0.1,    0.15, 1e-2, "drop"),
    "text":          ("bert_mini",  "bert_base",    None, None, 256,   35, 35,    32,    1e-5, 0.0,  0.5,    0.10, 1e-4, "drop"),
    "image scratch": ("vit_micro",  "vit:96:4:4",   32,   4,    None,  10, 10,    64,    1e-3, 1e-3, 0.1,    0.15, 1e-2, "drop"),
    "text scratch":  ("bert_micro", "bert:128:2:4", None, None, 128,   4,  4,     64,    1e-3, 0.0,  0.1,    0.10, 5e-4, "drop"),
}.items()}
LAMBDA_SELECT = {"vit_base": 5e-3, "bert_base": 5e-5, "bert_tiny": 2e-4}  # the paper's, where a preset has its own (with published weights)

# What a run of each method depends on, beside role, method, preset and seed: its config, and the names of its folder.
SHAPE = {"image": ["image_size", "patch_size"], "text": ["max_length"]}
OPTIONS = {"cls": ["dataset", "data_dir", "limit", "init", "views", "masking", "epochs", "batch_size", "lr", "weight_decay", "dropout"]}
OPTIONS["re"] = OPTIONS["cls"] + ["rate", "lambda_select", "tau_start", "tau_end", "schedule", "eval_mask"]
OPTIONS["rekd"] = OPTIONS["re"] + ["alpha", "lambda_rationale", "distil", "teacher_reads", "kd_noise", "teacher", "teacher_checkpoint"]
REKD_LOSS_OPTIONS = ["rate", "alpha", "lambda_select", "lambda_rationale", "distil", "teacher_reads", "kd_noise"]
LARGE = 128  # examples a batch where nothing is learned: fast, and at 224 px less memory than training on the paper's batches of 32

def parse_args():
    def number(kind, low, high=float("inf"), above=False):
        """An argparse type: low <= value <= high, or low < value where `above`."""
        def parse(text):
            value = kind(text)
            if not low <= value <= high or above and value == low:  # a NaN fails too
                most = f" and at most {high}" if high < float("inf") else ""
                raise argparse.ArgumentTypeError(f"must be {'above' if above else 'at least'} {low}{most}, not {text}")
            return value
        parse.__name__ = kind.__name__
        return parse

    def add(name, help, **options):  # an option whose help ends with its default
        by_data = " (default: by data set, see the top of train.py)" if name[2:].replace("-", "_") in COLUMNS else ""
        parser.add_argument(name, help=help + (by_data or " (default: %(default)s)" * ("default" in options)), **options)

    def rates(text):
        return [rate(part) for part in text.split(",")]

    count, positive, share, weight = number(int, 1), number(float, 0, above=True), number(float, 0, 1), number(float, 0)
    rate = number(float, 0, 1, above=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error = fail
    # what
    add("--dataset", "glyphs, phrases, cifar10, cifar100, cifar100_coarse, imdb, or a folder of --data-dir", default="glyphs")
    add("--data-dir", "where data sets are or are downloaded to", default="data")
    add("--limit", "train on a stratified sample of so many examples (default: all)", type=count)
    add("--student", "preset, or vit:DIM:DEPTH:HEADS or bert:DIM:DEPTH:HEADS")
    add("--teacher", "preset of the teacher; without --student, only the teacher is trained")
    add("--teacher-checkpoint", "best.pt of a finished RE run (default: a matching run in --out, else one is trained)", metavar="FILE")
    add("--method", "what to train (default: rekd; in teacher mode re)", choices=["cls", "re", "rekd"])
    add("--compare", "train CLS, RE and REKD students and compare them", action="store_true")
    add("--seed", "of initialisation, order and noise; the default is the paper's first", type=number(int, 0, 2**32), default=2026)
    add("--seeds", "repeat with so many seeds, --seed, --seed + 1, ...; the paper: 10", type=number(int, 1, 20), default=1)
    where = "pretrained, scratch, or a FILE of weights (default: pretrained where there are published ones and the data is not built in)"
    add("--init", f"where the model that the command names starts: {where}")
    add("--teacher-init", f"where a teacher starts that is trained on the way: {where}", metavar="INIT")
    # shape
    add("--image-size", "pixels a side that the model sees; the paper: 224", type=count)
    add("--patch-size", "pixels a side of a patch, the unit of a rationale; the paper: 16", type=count)
    add("--max-length", "tokens of a text, the rest is cut; the paper: 256", type=number(int, 3))
    add("--masking", "what hides the rest from the predictor: content times 0 (the paper), or no attention to it", choices=["zero", "drop"])
    # method
    add("--rate", "share of the features to select; the paper: 0.15 for CIFAR, 0.10 for IMDB", type=rate)
    add("--alpha", "weight of L_RE against L_KD; the paper: 0.5", type=share, default=0.5)
    add("--lambda-select", "weight of L_select, a squared count; the paper: 5e-3 to 5e-2 for ViT, 5e-5 to 2e-4 for BERT", type=weight)
    add("--lambda-rationale", "weight of L_KD_R in L_KD; the paper: 0.5", type=weight, default=0.5)
    add("--tau-start", "temperature at the first step; the paper: 5", type=positive, default=5.0)
    add("--tau-end", "temperature at the last step; the paper: 0.1", type=positive, default=0.1)
    add("--schedule", "of the temperature; the paper: exponential", choices=["cosine", "exponential", "linear", "constant"], default="cosine")
    add("--distil", "which of the two KDs; the paper: both", choices=["both", "rationale", "prediction"], default="both")
    add("--teacher-reads", "whose rationale the teacher's predictor reads; the release: student", choices=["teacher", "student"], default="student")
    add("--kd-noise", "Gumbel noise of the teacher in L_KD_R; the release: independent", choices=["shared", "independent", "none"], default="shared")
    # optimisation
    add("--epochs", "passes over the training set; the paper: 35", type=count)
    add("--batch-size", "examples a step; the paper: 32", type=count)
    add("--lr", "learning rate of AdamW, down to 0 over the last 40 %% of the steps; the paper: constant 1e-5", type=positive)
    add("--weight-decay", "of AdamW; the paper: 1e-3 for ViT, 0 for BERT", type=weight)
    add("--views", "crop and flip an image in so many fixed ways; the paper: ever new (default: 4, where images are augmented)", type=count)
    add("--dropout", "in the heads; the paper: 0.1 for ViT, 0.5 for BERT", type=number(float, 0, 0.99))
    # machine
    add("--device", "auto (cuda where there is one), cpu, cuda, ...", default="auto")
    add("--bf16", "bfloat16 autocast on a CPU too: slower, unless it has avx512_bf16 or AMX (default: on CUDA only)", action="store_true")
    add("--compile", "torch.compile the networks (default: no; the first steps take minutes, the others less)", action="store_true")
    add("--resume", "go on with an interrupted run of the same command; finished runs are not repeated", action="store_true")
    add("--out", "where runs are written", default="runs")
    # evaluation
    add("--eval-mask", "noise-free, a draw at --tau-end (the release), or exactly round(rate N)", choices=["hard", "sample", "topk"], default="hard")
    add("--probe", "how much of the answer do masks alone give away, without content? (with --resume: of finished runs too)", action="store_true")
    add("--rates", "repeat for each of these, as 0.05,0.1, and draw accuracy against rate", type=rates)
    add("--explain", "print and picture the rationales of image or text files, by the model of --checkpoint", nargs="+", metavar="FILE")
    add("--checkpoint", "best.pt of a finished run, for --explain", metavar="FILE")
    args = parser.parse_args()

    if bool(args.explain) != bool(args.checkpoint):
        fail("--explain FILE ... and --checkpoint best.pt go together: give both")
    args.role = "teacher" if args.teacher and not args.student and not args.compare else "student"  # whom the command trains
    if args.role == "teacher" and (args.method == "rekd" or args.teacher_checkpoint or args.teacher_init):
        fail("without --student only the teacher is trained: --method rekd, --teacher-checkpoint and --teacher-init want one (--init is its own)")
    if args.compare and args.method:
        fail("--compare trains all three methods: leave --method out")
    args.kind = kind_of(args.dataset, args.data_dir)
    for kind, keys in SHAPE.items():
        if stray := [key for key in keys + ["views"] * (kind == "image") if kind != args.kind and getattr(args, key) is not None]:
            fail(f"--{stray[0].replace('_', '-')} is for {kind}s, and {args.dataset} holds {args.kind}s: leave it out")

    # Where a model starts decides its defaults: published weights want the paper's recipe, a start from scratch wants another.
    start = lambda preset: "pretrained" if args.dataset not in BUILT_IN and preset in (None, *HUB) else "scratch"
    args.init = args.init or start(getattr(args, args.role))
    table = DEFAULTS.get(args.dataset) or DEFAULTS[args.kind + " scratch" * (args.init == "scratch")]
    table = {**vars(parser.parse_args([])), **table, "dataset": args.dataset, "data_dir": args.data_dir,
             "views": 4 if args.kind == "image" and args.dataset not in BUILT_IN else 1}
    args.student, args.teacher = args.student or table["student"], args.teacher or table["teacher"]
    args.teacher_init = args.init if args.role == "teacher" else args.teacher_init or start(args.teacher)
    args.defaults = {}  # by role: a teacher has its own; `make_config` takes them for what the command does not say
    for role, preset, init in ("student", args.student, args.init), ("teacher", args.teacher, args.teacher_init):
        select = LAMBDA_SELECT.get(preset, table["lambda_select"]) if init != "scratch" else table["lambda_select"]
        args.defaults[role] = {**table, "init": start(preset), "lambda_select": select}
    args.defaults["teacher"]["epochs"] = table["teacher_epochs"]
    for key in [*SHAPE[args.kind], "rate", "views"]:
        setattr(args, key, table[key] if getattr(args, key) is None else getattr(args, key))
    return args

def fail(message):
    print(f"train.py: {message}", file=sys.stderr)
    sys.exit(2)

# ---------------------------------------------------------------- device and data
def hardware(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return f"{(re.findall('model name.*: (.*)', cpuinfo) or [platform.processor() or platform.machine()])[0]}, {torch.get_num_threads()} threads"

def autocast(device, bf16):
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 or device.type == "cuda")

def prepare(args, device):
    """The data set of the command -> Dataset. Its networks are tried before it is read: a typo should not cost a download."""
    models = [(getattr(args, args.role), args.init)]
    if args.role == "student" and (args.compare or args.method in (None, "rekd")) and not args.teacher_checkpoint:
        models.append((args.teacher, args.teacher_init))
    vocabulary = next(filter(None, (vocabulary_of(init) for _, init in models)), None) if args.kind == "text" else None
    shape = input_shape(args, WordPiece(vocabulary or SPECIAL).vocabulary)
    wants = {"image": "vit", "text": "bert"}[args.kind]
    for preset, init in models:
        if parse_preset(preset)[0] != wants:
            raise UserError(f"{preset} does not read {args.kind}s, and {args.dataset} holds {args.kind}s: choose a {wants} preset")
        new_model(init, preset=preset, method="cls", num_classes=2, **shape)
    options = {key: getattr(args, key) for key in [*SHAPE[args.kind], "limit", "views"]}
    return load_dataset(args.dataset, args.data_dir, device=device, vocab=vocabulary, **options)

# ---------------------------------------------------------------- networks, and what they start from
def new_model(init, preset, **options):
    """Both networks of a new model begin with the same weights: published ones, those of a file, or (scratch) as they are."""
    model = build(preset=preset, **options)
    if init == "pretrained" and preset not in HUB:
        raise UserError(f"no published weights for {preset}: choose one of {', '.join(HUB)}, or --init scratch, or --init FILE")
    if init != "scratch":
        initialise(model, fetch_hub(HUB[preset], "model.safetensors", "pytorch_model.bin") if init == "pretrained" else init)
    return model

def vocabulary_of(init):
    """The vocab.txt that weights were made with: beside a file of your own; all published BERTs here share one. Scratch: None."""
    if init in ("pretrained", "scratch"):
        return fetch_hub(HUB["bert_base"], "vocab.txt") if init == "pretrained" else None
    vocab = Path(init).with_name("vocab.txt")
    if not vocab.exists():
        raise UserError(f"no {vocab}: the words of the weights in {init} must lie beside them, one a line")
    return vocab

def input_shape(args, vocabulary):
    """What a network must know of its input: see models.build."""
    return {"image_size": args.image_size, "patch_size": args.patch_size} if args.kind == "image" else \
        {"vocab_size": len(vocabulary), "max_len": args.max_length}

# ---------------------------------------------------------------- the teacher
def find_teacher(args, config, data):
    """best.pt of a finished teacher with the same data, grid, preset, masking and rate: the run of these very options, else the newest."""
    folder, same = run_folder(args, config), ["preset", "rate", "masking", *SHAPE[args.kind]]
    finished = [path.parent for path in folder.parent.glob("teacher-re-*/result.json")]
    for run in sorted(finished, key=lambda run: (run != folder, -run.stat().st_mtime)):
        other = read_dict(run / "config.json", "config", "remove the folder of this run")
        if all(other.get(key) == config[key] for key in same) and load(run / "best.pt")[1]["fingerprint"] == data.fingerprint:
            return run / "best.pt"

@torch.no_grad()
def answers_of(teacher, shape, data, args, device):
    """What the frozen teacher says of every training example in every view: keep_logits (V, n, N) and logits (V, n, C), float16.

    The teacher is frozen and the views are fixed, so it is computed once and kept for later runs, in a file named by a hash of all it hangs on.
    (TinyViT, arXiv 2207.10666, stores a teacher's logits so; it must see the very view that its student sees: arXiv 2106.05237.)
    """
    views = 1 if data.views is None else len(data.views)
    digest = hashlib.sha256(f"{shape} {data.fingerprint} {views} {args.bf16} {device.type}".encode())
    for weight in teacher.state_dict().values():
        digest.update(weight.cpu().numpy())
    file = Path(args.out) / args.dataset / f"answers-{(key := digest.hexdigest())[:16]}.pt"
    features = data.input.get("max_length") or (args.image_size // args.patch_size) ** 2
    keep, logits = (torch.zeros(views, len(data.train), width, dtype=torch.float16) for width in (features, len(data.classes)))
    try:
        known = torch.load(file, weights_only=True, mmap=True)
        assert known["key"] == key and known["keep_logits"].shape == keep.shape and known["logits"].shape == logits.shape
        keep, logits = known["keep_logits"], known["logits"]
    except Exception:  # none yet, torn or stale
        for view in range(views):
            for to_keep, to_logits, (x, _) in zip(keep[view].split(LARGE), logits[view].split(LARGE), data.batches(data.train, LARGE, view=view)):
                with autocast(device, args.bf16):
                    out = teacher(x)
                to_keep[:, :out.keep_logits.shape[1]], to_logits[:] = out.keep_logits, out.logits  # a batch of texts may be narrower
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda f: torch.save({"key": key, "keep_logits": keep, "logits": logits}, f))
    if device.type == "cuda" and keep.nbytes + logits.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        return keep.to(device), logits.to(device)
    return keep, logits  # too large for the device: they stay where they are, mapped from the disk

# ---------------------------------------------------------------- one run: its folder
def make_config(args, role, method, preset, seed):
    """All that the run depends on: what config.json holds, and what `claim` compares."""
    told, defaults = {**vars(args), "init": args.teacher_init if role == "teacher" else args.init}, args.defaults[role]
    options = {key: defaults[key] if told[key] is None else told[key] for key in SHAPE[args.kind] + OPTIONS[method]}
    config = {"role": role, "method": method, "preset": preset, "seed": seed, **options}
    return {**config, "bf16": True} if args.bf16 else config

def run_folder(args, config):
    """<out>/<dataset>/<role>-<method>-<preset>-seed<k>, followed by the options that differ from the default."""
    name = "{role}-{method}-{preset}-seed{seed}".format(**config) + "-bf16" * ("bf16" in config)
    for key in SHAPE[args.kind] + OPTIONS[config["method"]]:
        if config[key] != args.defaults[config["role"]][key]:
            name += "-" + key.replace("_", "") + re.sub(r"[^\w.+]+", "_", str(config[key]))[-60:]
    return Path(args.out) / args.dataset / name.replace(":", "_")

def claim(folder, config):
    """Make the run's folder and write its config, unless it belongs to a run with other options."""
    path = folder / "config.json"
    if path.exists():
        other = read_dict(path, "config", "remove the folder of this run")
        differs = [f"{key} {other.get(key)} -> {config.get(key)}" for key in sorted({*other, *config}) if other.get(key) != config.get(key)]
        if differs:
            raise UserError(f"{folder} holds a run with other options ({', '.join(differs)}): choose another --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(config, indent=1) + "\n")

def write_text(path, text):
    write_atomically(path, lambda file: file.write(text.encode()))

# ---------------------------------------------------------------- one run: model, optimiser, loop
def train(config, data, teacher, args, device):
    """One run, from its first epoch or from last.pt on, to its result on the test set (a dict, also in result.json)."""
    folder, method, role, bf16 = run_folder(args, config), config["method"], config["role"], "bf16" in config
    claim(folder, config)
    if args.resume and (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text())
        if ("probe" in result["test"] or not args.probe) and result.get("rate", args.rate) == args.rate:
            print(f"{folder}: finished before")
            return result
    if not args.resume:
        for name in ("result.json", "log.jsonl", "last.pt", "best.pt"):
            (folder / name).unlink(missing_ok=True)

    torch.manual_seed(config["seed"])
    shape = {"preset": config["preset"], "method": method, "num_classes": len(data.classes), "dropout": config["dropout"],
             "masking": config["masking"], **input_shape(args, data.input.get("vocabulary"))}
    model = new_model(config["init"], **shape).to(device)
    if args.compile:
        model.generator.compile(), model.predictor.compile()  # in place: the names of the weights stay
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"], fused=True)
    first_epoch, best, log = 0, None, []
    if (folder / "last.pt").exists():
        last = read_dict(folder / "last.pt", "checkpoint", "remove it to start this run again", device)
        model.load_state_dict(last["weights"])
        optimizer.load_state_dict(last["optimizer"])
        first_epoch, best = last["epoch"], tuple(last["best"])
        log = (folder / "log.jsonl").read_text().splitlines()[:first_epoch]
        print(f"{folder}: resumed after epoch {first_epoch}")

    batch_size = min(config["batch_size"], len(data.train))
    steps = len(data.train) // batch_size  # an epoch's incomplete batch is left out: every step has one shape
    total_steps = config["epochs"] * steps
    anneal = {"start": config["tau_start"], "end": config["tau_end"], "shape": config["schedule"]} if method != "cls" else {"start": 1, "end": 1}
    interactive = sys.stdout.isatty() and sys.stderr.isatty()
    title = f"{role} {method} {config['preset']} seed {config['seed']}"
    bar = tqdm(total=total_steps, initial=first_epoch * steps, desc=title, disable=not interactive, leave=False, unit="step")
    model.train()
    for epoch in range(first_epoch, config["epochs"]):
        # All that is random in an epoch hangs on (seed, epoch) alone, so that a resumed run needs no random state.
        torch.manual_seed((config["seed"] + 1 << 20) + epoch)
        start, history = time.time(), []  # of the losses, on the device: nothing in this loop reads a value, so the host can run ahead
        order = torch.randperm(len(data.train))[:steps * batch_size]
        if method == "rekd":
            network, answers = teacher
            answers = [answer[epoch % len(answer)] for answer in answers]        # (n, N) and (n, C): to this epoch's view
            rows = order.to(answers[0].device).split(batch_size)                 # an index on the host would make each step wait
        for step, (x, y) in enumerate(data.batches(data.train, batch_size, order, view=epoch), epoch * steps):
            tau = temperature(step, total_steps, **anneal)
            with autocast(device, bf16):
                if method == "cls":
                    losses = cls_losses(model, x, y)
                elif method == "re":
                    losses = re_losses(model, x, y, tau=tau, rate=config["rate"], lambda_select=config["lambda_select"])
                else:
                    known = [answer[rows[step % steps]].to(device, non_blocking=True) for answer in answers]
                    if args.kind == "text":
                        known[0] = known[0][:, :x.shape[1]]  # batches of texts differ in length
                    losses = rekd_losses(model, network, x, y, tau=tau, known=known, **{key: config[key] for key in REKD_LOSS_OPTIONS})
            # Constant, then down to 0 over the last 40 %: at low tau the straight-through gradient grows (1 / tau), and shakes what was learned.
            optimizer.param_groups[0]["lr"] = lr = config["lr"] * min(1, (1 - step / total_steps) / 0.4)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
            history.append(torch.stack([loss.detach() for loss in losses.values()]))
            bar.update()
        history = torch.stack(history)  # (steps, losses); the first loss is the one that was minimised
        finite = history[:, 0].isfinite().tolist()
        if not all(finite):
            bar.close()
            raise UserError(f"the loss is not finite at step {epoch * steps + finite.index(False)} (epoch {epoch + 1}): lower --lr; "
                            f"{folder} keeps the epochs before")
        seconds = time.time() - start
        dev, _ = evaluate(model, data, data.dev, config)
        line = {"epoch": epoch + 1, "tau": tau, "lr": lr, **dict(zip(losses, history.mean(0).tolist())), **dev,
                "seconds": round(time.time() - start, 3), "examples_per_s": round(steps * batch_size / seconds, 1)}
        log.append(json.dumps(line))
        write_text(folder / "log.jsonl", "\n".join(log) + "\n")

        # The best dev accuracy among epochs that keep to the rate; while there is none, the closest rate. A tie goes to the later.
        keeps = method == "cls" or dev["rate_mean"] <= 1.25 * config["rate"]
        score = (1, dev["accuracy"]) if keeps else (0, -dev["rate_mean"])
        checkpoint = {"weights": model.state_dict(), "model": shape, "config": config, "classes": data.classes, "input": data.input,
                      "fingerprint": data.fingerprint, "metric": dev, "epoch": epoch + 1}
        if best is None or score >= best:
            best = score
            write_atomically(folder / "best.pt", lambda file: torch.save(checkpoint, file))
        write_atomically(folder / "last.pt", lambda file: torch.save({**checkpoint, "optimizer": optimizer.state_dict(), "best": list(best)}, file))
        sampled = f" (sampled {line['rate_sampled']:.3f})" if "rate_sampled" in line else ""
        news = f"tau {tau:.2f}  loss {line['loss']:.4f}  dev accuracy {dev['accuracy']:.4f}  rate {dev['rate_mean']:.3f}{sampled}"
        bar.set_postfix_str(news)
        if not interactive:
            print(f"{title}  epoch {epoch + 1:>2}/{config['epochs']}  {news}  empty {dev['rate_empty']:.2f}  {line['seconds']:.1f} s")
    bar.close()

    model, info = load(folder / "best.pt", device)
    torch.manual_seed(config["seed"])  # of the random masks, whether this run was interrupted or not
    test, masks = evaluate(model, data, data.test, config, args.rate)
    if args.probe:
        test["probe"] = probe(evaluate(model, data, data.train, config)[1], data.train.y, masks, data.test.y)
        test["chance"] = data.test.y.bincount().max().item() / len(data.test)
    result = {"test": test, "rate": args.rate, "dev": info["metric"], "epoch": info["epoch"],
              "parameters": sum(p.numel() for p in model.parameters()),
              "seconds": round(sum(json.loads(line)["seconds"] for line in log), 1), "command": shlex.join(["python", *sys.argv]),
              "versions": {"python": platform.python_version(), "torch": torch.__version__}, "hardware": hardware(device)}
    picture(folder / "rationales", data.name, data.input, data.classes, test_examples(data), {method.upper(): (model, test, config["preset"])})
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result

@torch.no_grad()
def evaluate(model, data, split, config, rate=None):
    """-> dict and masks (n, N): accuracy, selection rate and, where the truth is known, agreement with it. The mode stays as it was.

    `rate` given (on the test set): also sufficiency and comprehensiveness, each beside that of a random mask of the same
    counts. A CLS model has no rationale: in its place stand its features of largest gradient x input, at that rate.
    """
    was_training, cls, found, seconds = model.training, config["method"] == "cls", [], 0.0
    how, tau, share = config.get("eval_mask", "hard"), config.get("tau_end"), rate or config.get("rate")
    model.eval()
    for x, y in data.batches(split, LARGE):
        started, selectable = time.time(), model.selectable(x)
        with autocast(x.device, "bf16" in config):
            mask, logits = evaluation_mask(model, x, how, tau, share)
            correct = logits.argmax(1) == y
            seconds += time.time() - started
            if rate and cls:
                importance = [saliency(model.predictor, *part) for part in zip(x.split(32), selectable.split(32))]  # few: it takes memory
                mask = top_mask(torch.cat(importance), (rate * selectable.sum(1, keepdim=True)).round(), selectable)
            scores = faithfulness_and_chance(model.predictor, x, mask, selectable) if rate else ()
        padding = (0, data.input.get("max_length", mask.shape[1]) - mask.shape[1])  # batches of texts differ in length
        found.append((correct, F.pad(mask, padding), F.pad(selectable, padding), *scores))
    model.train(was_training)
    correct, mask, selectable, *scores = map(torch.cat, zip(*found))
    result = {"accuracy": correct.float().mean().item(), **selection_stats(selectable if cls else mask, selectable)}
    if split.truth is not None:
        result.update(agreement(mask, split.truth, selectable))
    if rate:
        names = ("sufficiency", "comprehensiveness", "sufficiency_random", "comprehensiveness_random")
        result.update(zip(names, torch.stack(scores).mean(1).tolist()))
        result["examples_per_s"] = round(len(split) / seconds) if x.device.type == "cpu" else None  # a GPU is still at work then
    return result, mask

# ---------------------------------------------------------------- the table
def spread(values, digits=4):
    """mean +- sample standard deviation; the value alone where there is one."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"

def report(results, args, teacher):
    """The final table: results is {method: [result of each seed]}, teacher (path, its info) or None."""
    rows = [["method", "accuracy", "selection rate", "empty", "F1", "IoU", "sufficiency (random)", "comprehensiveness (random)",
             "mask alone", "ex/s", "parameters", "seconds"]]
    for method, runs in results.items():
        column = lambda key: [run["test"].get(key) for run in runs]  # None: not known of every run
        cell = lambda key, digits=3: "-" if None in column(key) else spread(column(key), digits)
        beside = lambda key, other, digits=3: cell(key) + ("" if None in column(other) else f" ({np.mean(column(other)):.{digits}f})")
        rows.append([method.upper(), cell("accuracy", 4), cell("rate_mean"), f"{np.mean(column('rate_empty')):.3f}", cell("f1"), cell("iou"),
                     *(beside(key, key + "_random") for key in ("sufficiency", "comprehensiveness")), beside("probe", "chance", 2),
                     cell("examples_per_s", 0), f"{runs[0]['parameters']:,}", spread([run["seconds"] for run in runs], 0)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"{args.dataset}, test set, {args.role}s, {getattr(args, args.role)}, {args.seeds} seed{'s' * (args.seeds > 1)} from {args.seed}", "",
             *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows), ""]
    if teacher:
        path, (model, metric) = teacher[0], (teacher[1]["model"], teacher[1]["metric"])
        lines.append(f"teacher: {model['preset']} (RE), dev accuracy {metric['accuracy']:.4f} at rate {metric['rate_mean']:.3f}, {path}")
    if args.compare:
        cls, re_, rekd = (np.array([run["test"]["accuracy"] for run in results[method]]) for method in ("cls", "re", "rekd"))
        gap = cls.mean() - re_.mean()
        lines.append("gap recovered, (REKD - RE) / (CLS - RE): " + (f"{(rekd.mean() - re_.mean()) / gap:.0%}" if gap > 0 else "RE leaves no gap"))
        if args.seeds > 1:
            lines.append(f"REKD - RE, paired by seed: {spread(rekd - re_)}")
        floor = f"{2 / 2**max(args.seeds, 6):.2g}"
        lines.append(f"exact two-sided sign-flip permutation test: p = {sign_flip_test(rekd - re_):.2g} ({args.seeds} seeds cannot go below {floor})"
                     if args.seeds >= 6 else f"significance: takes 6 seeds or more, --seeds 6 (whose exact sign-flip test can reach p = {floor})")
    return "\n".join(lines)

# ---------------------------------------------------------------- pictures of rationales: a PNG of images, an HTML page of texts
# An example is a dict: x, what it looks like ("shown": pixels or pieces), its label and true rationale or None, a name; picture() adds
# what was "found": (a model's name, its mask, what it says, whether that is right: True, False, or None without a label).

def test_examples(data, n=8):
    """n examples evenly spread over the test set."""
    split, examples = data.test, []
    for i in torch.linspace(0, len(split) - 1, min(n, len(split))).long():
        x, y = next(data.batches(split, 1, i[None]))
        shown = split.x[i].cpu() if data.corpus is None else pieces(WordPiece(data.input["vocabulary"]), data.corpus[split.docs[i]])
        truth = None if split.truth is None else split.truth[i].cpu()
        examples.append({"x": x, "shown": shown, "label": data.classes[y], "truth": truth, "name": f"test example {int(i)}"})
    return examples

def pieces(tokenizer, words):
    """The text of every token after [CLS]: a word, or its pieces ("##" goes on with the word)."""
    return [text for word in words for ids in [tokenizer.pieces(word)]
            for text in ([word] if len(ids) == 1 else [tokenizer.vocabulary[i] for i in ids])]

@torch.no_grad()
def picture(path, title, input, classes, examples, models):
    """models: {name: (Rationalist, its metrics, its preset)} -> the file written: path.png of images, path.html of texts."""
    for example in examples:
        example["found"] = []
        for name, (model, _, _) in models.items():
            out = model.eval()(example["x"])
            confidence, label = out.logits[0].float().softmax(-1).max(-1)
            right = None if example["label"] is None else example["label"] == classes[label]
            example["found"].append((name, out.mask[0].cpu(), f"{classes[label]}, {confidence:.0%}", right))
    captions = [f"{name}: {preset}, accuracy {metrics['accuracy']:.3f}, selection rate {metrics['rate_mean']:.3f}"
                for name, (_, metrics, preset) in models.items()]
    text = input["kind"] == "text"
    path, page = Path(f"{path}.{'html' if text else 'png'}"), (html_page if text else draw)(title, captions, examples)
    write_atomically(path, lambda file: file.write(page.encode()) if text else page.save(file, format="PNG"))
    return path

def draw(title, captions, examples, side=128):
    """A row is an example: the input, its true rationale where known, what each model kept (the rest is dark) and says; one model: its mask."""
    zoom = lambda image: F.interpolate(image.float()[None], size=(side, side))[0]  # nearest: pixels stay pixels
    grid = lambda mask: zoom(mask.reshape(1, int(len(mask) ** 0.5), -1))           # (N,) -> (1, side, side)

    def columns(example):  # (head, image (3, side, side), caption)
        pixels, found = zoom(example["shown"]), example["found"]
        kept = lambda mask: pixels * (0.2 + 0.8 * grid(mask))
        yield "input", pixels, example["label"] or example["name"]
        if example["truth"] is not None:
            yield "truth", kept(example["truth"]), ""
        if len(found) == 1:
            yield "mask", 255 * grid(found[0][1]).expand(3, -1, -1), ""
        for name, mask, says, right in found:
            yield name, kept(mask), {None: "", True: "ok: ", False: "WRONG: "}[right] + says

    rows, top = [list(columns(example)) for example in examples], 8 + 18 * (len(captions) + 2)
    canvas = Image.new("RGB", (max((side + 8) * len(rows[0]) + 8, 500), top + (side + 26) * len(rows)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, line in enumerate([title, *captions]):
        pen.text((8, 4 + 18 * i), line, "black", font)
    for i, (head, _, _) in enumerate(rows[0]):
        pen.text((8 + i * (side + 8), top - 18), head, "black", font)
    for j, row in enumerate(rows):
        for i, (_, image, caption) in enumerate(row):
            left, up = 8 + i * (side + 8), top + j * (side + 26)
            canvas.paste(Image.fromarray(image.permute(1, 2, 0).byte().numpy()), (left, up))  # (3, side, side) -> (side, side, 3)
            pen.text((left, up + side + 3), caption, "red" if caption.startswith("WRONG") else "black", font)
    return canvas

STYLE = """body{font:16px/1.6 Georgia,serif;max-width:46em;margin:2em auto;padding:0 1em;color:#111}
article{border-left:6px solid #bbb;padding:.1em 1em;margin:1.5em 0;break-inside:avoid} .wrong{border-left:6px double #b00}
h2{font:bold 15px sans-serif;margin:.6em 0 .2em} .wrong h2{background:#111;color:#fff;padding:.1em .5em} p{color:#555;margin:.3em 0}
mark{background:#ffe08a;color:#000;font-weight:bold;border:1.5px solid #000;border-radius:3px;padding:0 .15em}
u{text-decoration:underline 2px;text-underline-offset:3px} *{print-color-adjust:exact;-webkit-print-color-adjust:exact}"""

def html_page(title, captions, examples):
    """Selected words are boxed, bold and yellow, true ones underlined: no meaning hangs on a colour. All text is escaped."""
    parts, safe = [], html.escape
    for example in examples:
        truth = example["truth"]
        for name, mask, says, right in example["found"]:
            verdict = {None: "", True: "&#10003; right", False: "&#10007; WRONG"}[right]
            label = "" if right is None else f" &middot; label {safe(example['label'])}"
            words = ""
            for i, word in enumerate(example["shown"][:len(mask) - 2], 1):  # position 0 is [CLS], the last [SEP]
                text = safe(word.removeprefix("##"))
                text = f"<u>{text}</u>" if truth is not None and truth[i] else text
                words += " " * (not word.startswith("##")) + (f"<mark>{text}</mark>" if mask[i] else text)
            parts.append(f'<article class="{"wrong" if right is False else "right"}"><h2>{verdict} {safe(name)} says {safe(says)}'
                         f"{label} &middot; {safe(example['name'])}</h2><p>{words}</p></article>")
    head = "".join(f"<p>{safe(line)}</p>" for line in captions) + "<p>Key: <mark>selected word</mark>" + \
        ", <u>true rationale</u>" * (truth is not None) + "</p>"
    return (f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
            f"<title>{safe(title)}</title><style>\n{STYLE}</style>\n<h1>{safe(title)}</h1>{head}\n" + "\n".join(parts) + "\n</html>\n")

def curve_svg(title, curves):
    """{method: [(selection rate, accuracy), ...]} -> an SVG picture; the methods differ in their dashes, not only in colour."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 370" font-family="sans-serif" font-size="12">',
             f'<text x="60" y="20">{html.escape(title)}: test accuracy (0 to 1) against selection rate (0 to 1)</text>',
             '<path d="M60 40V340H560" fill="none" stroke="black"/>']
    parts += [f'<text x="{52 + 100 * t}" y="358">{t / 5}</text><text x="30" y="{344 - 60 * t}">{t / 5}</text>' for t in range(6)]
    styles = ('"#000" stroke-dasharray="1 4"', '"#0072b2" stroke-dasharray="8 4"', '"#d55e00"')
    for i, (style, (name, points)) in enumerate(zip(styles, curves.items())):
        dots = [(f"{60 + 500 * r:.1f}", f"{340 - 300 * a:.1f}", f"rate {r:.3f}, accuracy {a:.4f}") for r, a in sorted(points)]
        parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y, _ in dots)}" fill="none" stroke-width="2" stroke={style}/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3"><title>{name}: {text}</title></circle>' for x, y, text in dots]
        parts.append(f'<path d="M480 {60 + 20 * i}h30" stroke-width="2" stroke={style}/><text x="516" y="{64 + 20 * i}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])

def explain(args, device):
    """--explain: the rationales of the user's own files, printed and pictured."""
    model, info = load(args.checkpoint, device)
    input, config, examples = info["input"], info["config"], []
    for path in args.explain:
        x, name = read_input(path, input).to(device), path
        if input["kind"] == "text":
            tokenizer = WordPiece(input["vocabulary"])
            shown, room = pieces(tokenizer, tokenizer.words(read_text(path)[0])), x.shape[1] - 2
            name += f" (cut: the model reads the first {room} of its {len(shown)} tokens)" if len(shown) > room else ""
        else:
            shown = read_image(path, input["image_size"])
        examples.append({"x": x, "shown": shown, "label": None, "truth": None, "name": name})
    models = {config["method"].upper(): (model, info["metric"], config["preset"] + " (dev)")}
    written = picture(Path(args.out) / "explained", f"{config['dataset']}: {args.checkpoint}", input, info["classes"], examples, models)
    for example in examples:
        [(_, mask, says, _)] = example["found"]
        if input["kind"] == "text":
            words = [f"[{word}]" if keep else word for word, keep in zip(example["shown"], mask[1:-1])]
            lines = [" ".join(words).replace("] [", " ")]
        else:
            lines = ["".join("# " if keep else ". " for keep in row) for row in mask.view(int(len(mask) ** 0.5), -1)]
        print(f"{example['name']}: {says}", *lines, sep="\n  ")
    print(f"picture: {written}")

# ---------------------------------------------------------------- the whole command
def experiment(args, data, device):
    """What the command names, at one rate: a teacher where one is needed, then all runs -> {method: [result of each seed]}."""
    methods = ["cls", "re", "rekd"] if args.compare else [args.method or ("re" if args.role == "teacher" else "rekd")]
    preset = getattr(args, args.role)
    runs = [make_config(args, args.role, method, preset, args.seed + k) for k in range(args.seeds) for method in methods]
    folders = [run_folder(args, config) for config in runs]

    teacher, teacher_config = None, make_config(args, "teacher", "re", args.teacher, args.seed)
    path = (args.teacher_checkpoint or find_teacher(args, teacher_config, data)) if "rekd" in methods else None
    to_train = folders + [run_folder(args, teacher_config)] * ("rekd" in methods and not path)
    first = args.rate == (args.rates or [args.rate])[0]  # an interrupted command may not have come to its later rates
    if args.resume and first and not path and not any((folder / "config.json").exists() for folder in to_train):
        raise UserError(f"nothing to resume: no run with these options in {folders[-1]}")
    if "rekd" in methods:
        print(f"teacher: {f'reusing {path}' if path else f'no finished one fits, so {args.teacher} is trained first'}")
        if not path:
            train(teacher_config, data, None, args, device)
            path = to_train[-1] / "best.pt"
        vocabulary = data.input.get("vocabulary")
        network, info = load_teacher(path, device, classes=data.classes, vocabulary=vocabulary, **input_shape(args, vocabulary))
        teacher = network, answers_of(network, info["model"], data, args, device)

    results = {method: [] for method in methods}
    for config in runs:
        results[config["method"]].append(train(config, data, teacher, args, device))
    table = report(results, args, (path, info) if teacher else None)
    print(f"\n{table}")
    if args.compare:
        name = str(folders[2].with_name(folders[2].name.replace("student-rekd", "compare", 1))) + f"-{args.seeds}seeds"  # the first seed's REKD run
        write_text(Path(name + ".txt"), table + "\n")
        models = {"teacher": (network, info["metric"], info["model"]["preset"] + " (dev)")} | {
            method.upper(): (load(folder / "best.pt", device)[0], results[method][0]["test"], preset) for method, folder in zip(methods, folders)}
        pictured = picture(name, data.name, data.input, data.classes, test_examples(data), models)
        print(f"\ntable and picture: {name}.txt, {pictured}")
    else:
        print(f"picture: {folders[0] / 'rationales'}.{'html' if args.kind == 'text' else 'png'}\nmodel: {folders[0] / 'best.pt'}")
    return results

def main():
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # a user's text may hold what the terminal cannot show
    args = parse_args()
    try:
        device = torch.device(args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.zeros(1, device=device).item()  # an old GPU may hold a tensor, but compute nothing
    except (RuntimeError, AssertionError):
        raise UserError(f"no device {args.device!r} here: use --device auto or cpu") from None
    if args.explain:
        return explain(args, device)
    print(f"device: {device}, {hardware(device)} ({'bf16 autocast' if device.type == 'cuda' or args.bf16 else 'float32'})")
    data = prepare(args, device)
    features = f"up to {args.max_length} tokens of {len(data.input['vocabulary'])} words" if args.kind == "text" else \
        f"{args.image_size} px in patches of {args.patch_size}: {(args.image_size // args.patch_size) ** 2} features"
    print(f"data: {data.name}, {len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test, {len(data.classes)} classes, {features}")
    curves = {}
    for args.rate in args.rates or [args.rate]:
        for method, runs in experiment(args, data, device).items():
            point = [np.mean([run["test"][key] for run in runs]) for key in ("rate_mean", "accuracy")]
            curves.setdefault(method.upper(), []).append(point)
    if args.rates:
        path = Path(args.out) / args.dataset / f"rates-{getattr(args, args.role)}-seed{args.seed}.svg".replace(":", "_")
        write_text(path, curve_svg(args.dataset, curves))
        print(f"\naccuracy against selection rate: {path}")

def cli():
    """A user's mistake is exit code 2 and one line, never a traceback; Ctrl-C is 130."""
    try:
        main()
    except (UserError, Misuse) as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except torch.cuda.OutOfMemoryError:
        fail("the GPU's memory is full: lower --batch-size, --image-size or --max-length, or take a smaller model")
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on after the last finished epoch", file=sys.stderr)
        sys.exit(130)

if __name__ == "__main__":
    cli()
