"""Train rationale models: a teacher, and students that learn from it (REKD, arXiv 2601.22531).

    python train.py                                          the built-in glyphs: a teacher, then its REKD student
    python train.py --compare                                CLS, RE and REKD students in one table
    python train.py --compare --seeds 6                      mean +- std over seeds, and whether REKD - RE is significant
    python train.py --dataset phrases --compare              the same for text
    python train.py --dataset cifar10 --student vit_tiny     a ViT-Tiny student; its teacher is trained first if there is none
    python train.py --dataset cifar10 --teacher vit_base     teacher mode: no --student, so only the teacher is trained
    python train.py --explain FILE ... --checkpoint runs/.../best.pt    rationales of your own images or texts

Three kinds of model are compared. CLS: the predictor alone, on the whole input. RE: generator and predictor, trained by
L_RE. REKD: the same, trained by L_REKD with a frozen RE teacher. A run leaves its options, log, checkpoints and a picture
in runs/<dataset>/<role>-<method>-<preset>-seed<k>/; --resume goes on after an interruption.
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
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data import BUILT_IN, SPECIAL, UserError, WordPiece, fetch_hub, kind_of, load_dataset, read_image, read_input, read_text, write_atomically
from models import HUB, build, load, load_pretrained, parse_preset
from rekd import (agreement, cls_losses, faithfulness, probe, re_losses, rekd_losses, saliency, selection_stats, sign_flip_test, temperature,
                  top_mask)

# What depends on the data. lambda_select weighs a squared *count* of features: more features want a smaller one.
DEFAULTS = {
    # The built-in sets show the paper's effect, so they mask as the paper does. (A teacher serves every student and seed: it may take its time.)
    "glyphs": dict(student="vit_nano", teacher="vit_micro", image_size=32, patch_size=4, epochs=4, teacher_epochs=6, batch_size=64,
                   lr=1e-3, weight_decay=1e-3, dropout=0.1, rate=0.10, lambda_select=1e-2, masking="zero"),
    "phrases": dict(student="bert_nano", teacher="bert_micro", max_length=32, epochs=5, teacher_epochs=8, batch_size=64,
                    lr=1e-3, weight_decay=0.0, dropout=0.1, rate=0.15, lambda_select=1e-2, masking="zero"),
    # CIFAR, IMDB and your own folders, from published weights: the paper's recipe
    "image": dict(student="vit_tiny", teacher="vit_base", image_size=224, patch_size=16, epochs=35, batch_size=32,
                  lr=1e-5, weight_decay=1e-3, dropout=0.1, rate=0.15, lambda_select=1e-2, masking="drop"),
    "text": dict(student="bert_mini", teacher="bert_base", max_length=256, epochs=35, batch_size=32,
                 lr=1e-5, weight_decay=0.0, dropout=0.5, rate=0.10, lambda_select=1e-4, masking="drop"),
    # the same from scratch
    "image scratch": dict(student="vit_micro", teacher="vit:96:4:4", image_size=32, patch_size=4, epochs=10, batch_size=64,
                          lr=1e-3, weight_decay=1e-3, dropout=0.1, rate=0.15, lambda_select=1e-2, masking="drop"),
    "text scratch": dict(student="bert_micro", teacher="bert:128:2:4", max_length=128, epochs=4, batch_size=64,
                         lr=1e-3, weight_decay=0.0, dropout=0.1, rate=0.10, lambda_select=5e-4, masking="drop"),
}
LAMBDA_SELECT = {"vit_base": 5e-3, "bert_base": 5e-5, "bert_tiny": 2e-4}  # the paper's, where a preset has its own (with published weights)

# What a run of each method depends on, beside role, method, preset and seed: its config, and the names of its folder.
SHAPE = {"image": ["image_size", "patch_size"], "text": ["max_length"]}
OPTIONS = {"cls": ["dataset", "data_dir", "limit", "init", "views", "masking", "epochs", "batch_size", "lr", "weight_decay", "dropout"]}
OPTIONS["re"] = OPTIONS["cls"] + ["rate", "lambda_select", "tau_start", "tau_end", "schedule", "eval_mask"]
OPTIONS["rekd"] = OPTIONS["re"] + ["alpha", "lambda_rationale", "distil", "teacher_reads", "kd_noise", "teacher", "teacher_checkpoint"]
REKD_LOSS_OPTIONS = ["rate", "alpha", "lambda_select", "lambda_rationale", "distil", "teacher_reads", "kd_noise"]
LOSSES = ["loss", "prediction", "selection", "rationale_kd", "prediction_kd", "rate_sampled"]

# ---------------------------------------------------------------- command line
def parse_args():
    def number(kind, low, high=float("inf"), above=False):
        """An argparse type: low <= value <= high, or low < value where `above`."""
        def parse(text):
            value = kind(text)
            if not (low < value if above else low <= value) or not value <= high:  # a NaN fails too
                raise argparse.ArgumentTypeError(f"must be {'above' if above else 'at least'} {low}"
                                                 + (f" and at most {high}" if high < float("inf") else "") + f", not {text}")
            return value
        parse.__name__ = kind.__name__
        return parse

    count, positive, share = number(int, 1), number(float, 0, above=True), number(float, 0, 1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error, add = lambda message: fail(message), parser.add_argument
    by_data = "default: by data set, see the table at the top of train.py"
    # what
    add("--dataset", default="glyphs", help="glyphs, phrases, cifar10, cifar100, cifar100_coarse, imdb, or a folder of --data-dir (default: glyphs)")
    add("--data-dir", default="data", help="where data sets are or are downloaded to (default: data)")
    add("--limit", type=count, help="train on a stratified sample of so many examples (default: all)")
    add("--student", help=f"preset, or vit:DIM:DEPTH:HEADS or bert:DIM:DEPTH:HEADS ({by_data})")
    add("--teacher", help=f"preset of the teacher; without --student, only the teacher is trained ({by_data})")
    add("--teacher-checkpoint", metavar="FILE", help="best.pt of a finished RE run (default: a matching run in --out, else one is trained)")
    add("--method", choices=["cls", "re", "rekd"], help="what to train (default: rekd; in teacher mode re)")
    add("--compare", action="store_true", help="train CLS, RE and REKD students and compare them")
    add("--seed", type=number(int, 0), default=2026, help="of initialisation, order and noise (default: 2026, the paper's first)")
    add("--seeds", type=number(int, 1, 20), default=1, help="repeat with so many seeds, --seed, --seed + 1, ... (default: 1; the paper: 10)")
    where = "pretrained (published weights), scratch, or a FILE of weights (default: pretrained where a preset has published weights and the data is not built in)"
    add("--init", metavar="INIT", help=f"where the model that the command names starts: {where}")
    add("--teacher-init", metavar="INIT", help=f"where a teacher starts that is trained on the way: {where}")
    # shape
    add("--image-size", type=count, help=f"pixels a side that the model sees ({by_data}; the paper: 224)")
    add("--patch-size", type=count, help=f"pixels a side of a patch, the unit of a rationale ({by_data}; the paper: 16)")
    add("--max-length", type=number(int, 3), help=f"tokens of a text, the rest is cut ({by_data}; the paper: 256)")
    add("--masking", choices=["zero", "drop"], help=f"what hides the rest from the predictor: content times 0, or no attention to it ({by_data}; the paper: zero)")
    # method
    add("--rate", type=number(float, 0, 1, above=True), help=f"share of the features to select ({by_data}; the paper: 0.15 for CIFAR, 0.10 for IMDB)")
    add("--alpha", type=share, default=0.5, help="weight of L_RE against L_KD (default: 0.5, the paper's)")
    add("--lambda-select", type=number(float, 0), help=f"weight of L_select, a squared count ({by_data}; the paper: 5e-3 to 5e-2 for ViT, 5e-5 to 2e-4 for BERT)")
    add("--lambda-rationale", type=number(float, 0), default=0.5, help="weight of L_KD_R in L_KD (default: 0.5, the paper's)")
    add("--tau-start", type=positive, default=5.0, help="temperature at the first step (default: 5, the paper's)")
    add("--tau-end", type=positive, default=0.1, help="temperature at the last step (default: 0.1, the paper's)")
    add("--schedule", choices=["cosine", "exponential", "linear", "constant"], default="cosine", help="of the temperature (default: cosine; the paper: exponential)")
    add("--distil", choices=["both", "rationale", "prediction"], default="both", help="which of the two KDs (default: both, the paper's)")
    add("--teacher-reads", choices=["teacher", "student"], default="student", help="whose rationale the teacher's predictor reads (default: student, as the paper's release)")
    add("--kd-noise", choices=["shared", "independent", "none"], default="shared", help="Gumbel noise of the teacher in L_KD_R (default: shared; the release: independent)")
    # optimisation
    add("--epochs", type=count, help=f"passes over the training set ({by_data}; the paper: 35)")
    add("--batch-size", type=count, help=f"examples a step ({by_data}; the paper: 32)")
    add("--lr", type=positive, help=f"learning rate of AdamW, down to 0 over the last 40 %% of the steps ({by_data}; the paper: constant 1e-5, from pretrained weights)")
    add("--weight-decay", type=number(float, 0), help=f"of AdamW ({by_data}; the paper: 1e-3 for ViT, 0 for BERT)")
    add("--views", type=count, help="an image is cropped and flipped in so many fixed ways, an epoch each in turn (default: 4, where images are augmented; the paper: a new one each time)")
    add("--dropout", type=number(float, 0, 0.99), help=f"in the heads ({by_data}; the paper: 0.1 for ViT, 0.5 for BERT)")
    # machine
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: auto: cuda where there is one)")
    add("--bf16", action="store_true", help="bfloat16 autocast on a CPU too (default: on CUDA only)")
    add("--compile", action="store_true", help="torch.compile the networks (default: no; the first steps take minutes, the others less)")
    add("--resume", action="store_true", help="go on with an interrupted run of the same command; finished runs are not repeated")
    add("--out", default="runs", help="where runs are written (default: runs)")
    # evaluation
    add("--eval-mask", choices=["hard", "sample", "topk"], default="hard", help="rationale in evaluation: noise-free, one Gumbel draw at --tau-end, or exactly round(rate N) (default: hard; the release: sample)")
    add("--probe", action="store_true", help="also tell how much of the answer the masks alone give away, without content (with --resume: of finished runs too)")
    add("--rates", type=lambda text: [share(rate) for rate in text.split(",")], help="repeat all for each of these rates, as 0.05,0.1,0.3, and draw accuracy against rate")
    add("--explain", nargs="+", metavar="FILE", help="print and picture the rationales of image or text files, by the model of --checkpoint")
    add("--checkpoint", metavar="FILE", help="best.pt of a finished run, for --explain")
    args = parser.parse_args()

    if bool(args.explain) != bool(args.checkpoint):
        fail("--explain FILE ... and --checkpoint best.pt go together: give both")
    args.teacher_mode = bool(args.teacher and not args.student and not args.compare)
    if args.teacher_mode and args.method == "rekd":
        fail("--method rekd trains a student: name one with --student (a teacher is trained with re)")
    if args.compare and args.method:
        fail("--compare trains all three methods: leave --method out")
    args.kind = kind_of(args.dataset, args.data_dir)
    for kind, keys in SHAPE.items():
        for key in keys:
            if kind != args.kind and getattr(args, key) is not None:
                fail(f"--{key.replace('_', '-')} is for {kind}s, and {args.dataset} holds {args.kind}s: leave it out")
    # Where it starts decides the defaults: published weights want the paper's recipe, a start from scratch wants another.
    named = args.teacher if args.teacher_mode else args.student
    pretrained = lambda preset: args.dataset not in BUILT_IN and (preset is None or preset in HUB)
    args.init = args.init or ("pretrained" if pretrained(named) else "scratch")
    args.defaults = DEFAULTS.get(args.dataset) or DEFAULTS[args.kind + " scratch" * (args.init == "scratch")]
    args.defaults = {**args.defaults, "views": 4 if args.kind == "image" and args.dataset not in BUILT_IN else 1}
    args.student, args.teacher = args.student or args.defaults["student"], args.teacher or args.defaults["teacher"]
    args.teacher_init = args.init if args.teacher_mode else args.teacher_init or ("pretrained" if pretrained(args.teacher) else "scratch")
    args.teacher_epochs, args.teacher_lambda_select = args.epochs, args.lambda_select
    for key, value in {**role_defaults(args, "student"), **{f"teacher_{k}": v for k, v in role_defaults(args, "teacher").items()}}.items():
        if getattr(args, key, 0) is None:
            setattr(args, key, value)
    return args

def role_defaults(args, role):
    """The table's options, where a preset and the teacher have their own."""
    table, preset = {**args.defaults}, getattr(args, role)
    if role == "teacher":
        table["epochs"] = table.get("teacher_epochs", table["epochs"])
    if getattr(args, "teacher_init" if role == "teacher" else "init") != "scratch":
        table["lambda_select"] = LAMBDA_SELECT.get(preset, table["lambda_select"])
    return table

def fail(message):
    print(f"train.py: {message}", file=sys.stderr)
    sys.exit(2)

@contextmanager
def user_errors():
    """models.py knows no UserError: what it refuses is a ValueError with a sentence for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(error) from None

# ---------------------------------------------------------------- one run: its name, its training, its end
def make_config(args, role, method, preset, seed):
    config = {"role": role, "method": method, "preset": preset, "seed": seed, **{key: getattr(args, key) for key in SHAPE[args.kind] + OPTIONS[method]}}
    if role == "teacher":
        config.update({key: getattr(args, f"teacher_{key}") for key in ("init", "epochs", "lambda_select") if key in config})
    return {**config, "bf16": True} if args.bf16 else config

def run_folder(args, config):
    """<out>/<dataset>/<role>-<method>-<preset>-seed<k>, followed by the options that differ from the default."""
    defaults = {"eval_mask": "hard", "alpha": 0.5, "lambda_rationale": 0.5, "tau_start": 5.0, "tau_end": 0.1, "schedule": "cosine", "distil": "both",
                "teacher_reads": "student", "kd_noise": "shared", "dataset": args.dataset, "data_dir": args.data_dir, **role_defaults(args, config["role"]),
                "init": "scratch" if args.dataset in BUILT_IN or config["preset"] not in HUB else "pretrained"}
    name = "{role}-{method}-{preset}-seed{seed}".format(**config)
    name += "-bf16" if "bf16" in config else ""
    for key in SHAPE[args.kind] + OPTIONS[config["method"]]:
        if config[key] != defaults.get(key):
            name += "-" + key.replace("_", "") + re.sub(r"[^\w.+]+", "_", str(config[key]))[-60:]
    return Path(args.out) / args.dataset / name.replace(":", "_")

def claim(folder, config):
    """Make the run's folder and write its config, unless it belongs to a run with other options."""
    path = folder / "config.json"
    if path.exists():
        try:
            other = json.loads(path.read_text())
        except ValueError:
            raise UserError(f"{path} is damaged: remove the folder of this run") from None
        differs = [f"{key} {other.get(key)} -> {config.get(key)}" for key in sorted({*other, *config}) if other.get(key) != config.get(key)]
        if differs:
            raise UserError(f"{folder} holds a run with other options ({', '.join(differs)}): choose another --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(config, indent=1) + "\n")

def write_text(path, text):
    write_atomically(path, lambda file: file.write(text.encode()))

def autocast(device, config):
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or "bf16" in config)

@torch.no_grad()
def evaluate(model, data, split, config, rate=None, batch_size=500):
    """Accuracy, selection rate and, where the truth is known, agreement with it; the mode is left as it was.

    `rate` given (on the test set): also sufficiency and comprehensiveness, each beside that of a random mask of the same
    counts. A CLS model has no rationale: in its place stand its features of largest gradient x input, at that rate.
    """
    was_training, how, cls = model.training, config.get("eval_mask", "hard"), config["method"] == "cls"
    correct, masks, selectables, faithful, seconds = [], [], [], [], 0.0
    model.eval()
    for x, y in data.batches(split, batch_size):
        started, selectable = time.time(), model.selectable(x)
        count = (selectable.sum(1, keepdim=True) * (rate or config.get("rate", 1))).round()
        with autocast(x.device, config):
            out = model(x, config["tau_end"] if how == "sample" else None)
            mask, logits = out.mask, out.logits
            if how == "topk":
                mask = top_mask(out.keep_logits, count, selectable)
                logits = model.predictor(x, mask)
            correct.append(logits.argmax(1) == y)
            seconds += time.time() - started if x.device.type == "cpu" else 0
            if rate and cls:
                mask = top_mask(saliency(model.predictor, x, selectable), count, selectable)
            if rate:
                chance = top_mask(torch.rand_like(mask), mask.sum(1, keepdim=True), selectable)
                faithful.append(torch.stack([*faithfulness(model.predictor, x, mask, selectable), *faithfulness(model.predictor, x, chance, selectable)]))
        padding = (0, data.input.get("max_length", mask.shape[1]) - mask.shape[1])  # batches of texts differ in length
        masks.append(F.pad(mask, padding))
        selectables.append(F.pad(selectable, padding))
    model.train(was_training)
    mask, selectable = torch.cat(masks), torch.cat(selectables)
    result = {"accuracy": torch.cat(correct).float().mean().item(), **selection_stats(selectable if cls else mask, selectable)}
    if split.truth is not None:
        result.update(agreement(mask, split.truth, selectable))
    if rate:
        names = ("sufficiency", "comprehensiveness", "sufficiency_random", "comprehensiveness_random")
        result.update(zip(names, torch.cat(faithful, 1).mean(1).tolist()), examples_per_s=round(len(split) / seconds) if seconds else None)
    return result, mask

@torch.no_grad()
def answers_of(teacher, path, data, args, device):
    """What the frozen teacher says of every training example in every view: keep_logits (V, n, N) and logits (V, n, C), float16.

    A constant, so it is computed once, in large batches, and kept for later runs in a file whose name is a hash of the
    teacher, the data and the number of views. (TinyViT, arXiv 2207.10666, stores a teacher's logits so; that it must see
    the very view that its student sees: arXiv 2106.05237.)
    """
    views = 1 if data.views is None else len(data.views)
    key = hashlib.sha256(Path(path).read_bytes() + f"{data.fingerprint} {views}".encode()).hexdigest()
    file = Path(args.out) / args.dataset / f"answers-{key[:16]}.pt"
    features = data.input.get("max_length") or (args.image_size // args.patch_size) ** 2
    shapes = [(views, len(data.train), features), (views, len(data.train), len(data.classes))]
    try:
        answers = torch.load(file, weights_only=True, mmap=True)
        assert answers["key"] == key and [answers[name].shape for name in ("keep_logits", "logits")] == shapes
    except Exception:  # none yet, torn or stale
        answers = {"key": key, "keep_logits": torch.zeros(shapes[0], dtype=torch.float16), "logits": torch.zeros(shapes[1], dtype=torch.float16)}
        for view in range(views):
            for i, (x, _) in enumerate(data.batches(data.train, 256, view=view)):
                with autocast(device, {"bf16": True} if args.bf16 else {}):
                    out = teacher(x)
                rows = slice(256 * i, 256 * i + len(x))
                answers["keep_logits"][view, rows, :out.keep_logits.shape[1]] = out.keep_logits
                answers["logits"][view, rows] = out.logits
        write_atomically(file, lambda f: torch.save(answers, f))
    answers = answers["keep_logits"], answers["logits"]
    if device.type == "cuda" and sum(a.nbytes for a in answers) < torch.cuda.mem_get_info(device)[0] / 4:
        answers = tuple(a.to(device) for a in answers)  # else they stay where they are, mapped from the disk
    return answers

def train(config, data, teacher, args, device):
    """One run, from its first epoch or from last.pt on, to its result on the test set (a dict, also in result.json)."""
    folder = run_folder(args, config)
    claim(folder, config)
    if args.resume and (folder / "result.json").exists():
        result = json.loads((folder / "result.json").read_text())
        if "probe" in result["test"] or not args.probe:
            print(f"{folder}: finished before")
            return result
    (folder / "result.json").unlink(missing_ok=True)

    torch.manual_seed(config["seed"])
    shape = {"preset": config["preset"], "method": config["method"], "num_classes": len(data.classes), "dropout": config["dropout"], "masking": config["masking"], **input_shape(args, data)}
    with user_errors():
        model = initialise(build(**shape), config["init"], config["preset"]).to(device)
    if args.compile:
        model.generator.compile(), model.predictor.compile()  # in place: the names of the weights stay
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"], fused=True)
    first_epoch, best, log = 0, None, []
    if args.resume and (folder / "last.pt").exists():
        try:
            last = torch.load(folder / "last.pt", map_location=device, weights_only=True)
        except Exception:  # a damaged file fails in a dozen ways
            raise UserError(f"{folder / 'last.pt'} is damaged: remove it to start this run again") from None
        model.load_state_dict(last["weights"])
        optimizer.load_state_dict(last["optimizer"])
        first_epoch, best = last["epoch"], tuple(last["best"])
        log = (folder / "log.jsonl").read_text().splitlines()[:first_epoch]
        print(f"{folder}: resumed after epoch {first_epoch}")
    else:
        for name in ("last.pt", "best.pt", "log.jsonl"):
            (folder / name).unlink(missing_ok=True)

    teacher, answers = teacher or (None, None)
    batch_size = min(config["batch_size"], len(data.train))
    steps = len(data.train) // batch_size            # an epoch's incomplete batch is left out: every step has one shape
    total_steps = config["epochs"] * steps
    interactive = sys.stdout.isatty() and sys.stderr.isatty()
    title = f"{config['role']} {config['method']} {config['preset']} seed {config['seed']}"
    bar = tqdm(total=total_steps, initial=first_epoch * steps, desc=title, disable=not interactive, leave=False, unit="step")
    model.train()
    for epoch in range(first_epoch, config["epochs"]):
        # All that is random in an epoch hangs on (seed, epoch) alone, so that a resumed run needs no random state.
        torch.manual_seed((config["seed"] + 1 << 20) + epoch)
        start, order = time.time(), torch.randperm(len(data.train))[:steps * batch_size]
        history = torch.zeros(steps, len(LOSSES), device=device)  # on the device: no synchronisation inside an epoch
        for step, (x, y) in enumerate(data.batches(data.train, batch_size, order, view=epoch)):
            tau = temperature(epoch * steps + step, total_steps, start=config.get("tau_start", 1.0), end=config.get("tau_end", 1.0),
                              shape=config.get("schedule", "constant"))
            with autocast(device, config):
                if config["method"] == "cls":
                    losses = cls_losses(model, x, y)
                elif config["method"] == "re":
                    losses = re_losses(model, x, y, tau=tau, rate=config["rate"], lambda_select=config["lambda_select"])
                else:
                    rows, width = order[step * batch_size:(step + 1) * batch_size], 1 << 30 if args.kind == "image" else x.shape[1]
                    known = [a[epoch % len(a)][rows.to(a.device, non_blocking=True), :width].to(device, non_blocking=True) for a in answers]
                    losses = rekd_losses(model, teacher, x, y, tau=tau, known=known, **{key: config[key] for key in REKD_LOSS_OPTIONS})
            # Constant, then down to 0 over the last 40 %: at low tau the straight-through gradient grows (1 / tau), and shakes what was learned.
            optimizer.param_groups[0]["lr"] = lr = config["lr"] * min(1, (1 - (epoch * steps + step) / total_steps) / 0.4)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
            for i, name in enumerate(LOSSES):
                if name in losses:
                    history[step, i] = losses[name].detach()
            bar.update()
        finite = history[:, 0].isfinite().tolist()
        if not all(finite):
            bar.close()
            raise UserError(f"the loss is not finite at step {epoch * steps + finite.index(False)} (epoch {epoch + 1}): lower --lr; "
                            f"{folder} keeps the epochs before")
        seconds = time.time() - start
        means = dict(zip(LOSSES, history.mean(0).tolist()))
        dev, _ = evaluate(model, data, data.dev, config)
        line = {"epoch": epoch + 1, "tau": tau, "lr": lr, **{name: means[name] for name in means if name in losses}, **dev,
                "seconds": round(time.time() - start, 3), "examples_per_s": round(steps * batch_size / seconds, 1)}
        log.append(json.dumps(line))

        # The best dev accuracy among epochs that keep to the rate; while there is none, the closest rate. A tie goes to the later.
        keeps = config["method"] == "cls" or dev["rate_mean"] <= 1.25 * config["rate"]
        score = (1, dev["accuracy"]) if keeps else (0, -dev["rate_mean"])
        write_text(folder / "log.jsonl", "\n".join(log) + "\n")
        checkpoint = {"weights": model.state_dict(), "model": shape, "config": config, "classes": data.classes, "input": data.input,
                      "fingerprint": data.fingerprint, "metric": dev, "epoch": epoch + 1}
        if best is None or score >= best:
            best = score
            write_atomically(folder / "best.pt", lambda file: torch.save(checkpoint, file))
        write_atomically(folder / "last.pt", lambda file: torch.save({**checkpoint, "optimizer": optimizer.state_dict(), "best": list(best)}, file))
        bar.set_postfix(loss=f"{line['loss']:.3f}", tau=f"{tau:.2f}", accuracy=f"{dev['accuracy']:.3f}", rate=f"{dev['rate_mean']:.3f}")
        if not interactive:
            sampled = f" (sampled {line['rate_sampled']:.3f})" if "rate_sampled" in line else ""
            print(f"{title}  epoch {epoch + 1:>2}/{config['epochs']}  tau {tau:.2f}  loss {line['loss']:.4f}  dev accuracy {dev['accuracy']:.4f}"
                  f"  rate {dev['rate_mean']:.3f}{sampled}  empty {dev['rate_empty']:.2f}  {line['seconds']:.1f} s")
    bar.close()

    model, info = load(folder / "best.pt", device)
    test, test_masks = evaluate(model, data, data.test, config, args.rate)
    if args.probe:
        test["probe"] = probe(evaluate(model, data, data.train, config)[1], data.train.y, test_masks, data.test.y)
        test["chance"] = data.test.y.bincount().max().item() / len(data.test)
    result = {"test": test, "dev": info["metric"], "epoch": info["epoch"],
              "parameters": sum(p.numel() for p in model.parameters()), "seconds": round(sum(json.loads(line)["seconds"] for line in log), 1),
              "command": shlex.join(["python", *sys.argv]), "versions": {"python": platform.python_version(), "torch": torch.__version__},
              "hardware": hardware(device)}
    picture(folder / "rationales", args.kind, data.name, data.classes, test_examples(data), {config["method"].upper(): (model, result["test"], config["preset"])})
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result

def initialise(model, init, preset):
    """Both networks of a new model begin with the same weights: published ones, those of a file, or (scratch) as they are."""
    if init != "scratch":
        for network in (model.generator, model.predictor):
            if hasattr(network, "backbone"):
                load_pretrained(network.backbone, weights_of(init, preset))
    return model

def weights_of(init, preset):
    if init != "pretrained":
        return init
    if preset not in HUB:
        raise UserError(f"no published weights for {preset}: choose one of {', '.join(HUB)}, or --init scratch, or --init FILE")
    return fetch_hub(HUB[preset], "model.safetensors", "pytorch_model.bin")

def vocabulary_of(init):
    """The WordPiece vocabulary that published weights were made with: beside a file of your own, else the one that all BERTs of the hub share."""
    if init == "pretrained":
        return fetch_hub(HUB["bert_base"], "vocab.txt")
    vocab = Path(init).with_name("vocab.txt")
    if init != "scratch" and not vocab.exists():
        raise UserError(f"no {vocab}: the words of the weights in {init} must lie beside them, one a line")
    return None if init == "scratch" else vocab

def input_shape(args, data):
    """What a network must know of its input: see models.build."""
    if args.kind == "text":
        return {"vocab_size": len(data.input["vocabulary"]), "max_len": args.max_length}
    return {"image_size": args.image_size, "patch_size": args.patch_size}

def hardware(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"

# ---------------------------------------------------------------- the teacher
def find_teacher(args, config, data):
    """best.pt of a finished teacher with the same data, grid, preset and rate: the run of these very options, else the newest."""
    folder = run_folder(args, config)
    runs = sorted((path.parent for path in folder.parent.glob("teacher-re-*/result.json")), key=lambda run: (run != folder, -run.stat().st_mtime))
    for run in runs:
        other = json.loads((run / "config.json").read_text())
        if all(other.get(key) == config[key] for key in ["preset", "rate", "masking", *SHAPE[args.kind]]):
            with user_errors():
                if load(run / "best.pt")[1]["fingerprint"] == data.fingerprint:
                    return run / "best.pt"
    return None

def load_teacher(path, args, data, device):
    """A frozen teacher: eval mode, no gradients, and never a part of the student."""
    teacher, info = load(path, device)
    shape = info["model"]
    if shape["method"] == "cls":
        raise ValueError(f"{path} is a CLS model and has no rationales to teach: give an RE run")
    if info["classes"] != data.classes:
        raise ValueError(f"{path} was trained on other classes ({', '.join(info['classes'][:10])}) than {args.dataset} has ({', '.join(data.classes[:10])})")
    if info["input"].get("vocabulary") != data.input.get("vocabulary"):
        raise ValueError(f"{path} was trained with another vocabulary: a teacher reads the tokens of its student")
    wants = input_shape(args, data)
    if any(shape.get(key) != wants[key] for key in wants):
        raise ValueError(f"{path} reads {({key: shape.get(key) for key in wants})}, the student {wants}: teacher and student need the same grid of features")
    return teacher.requires_grad_(False), info

# ---------------------------------------------------------------- what the user sees at the end
def spread(values, digits=4):
    """mean +- sample standard deviation; the value alone where there is one."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"

def report(results, args, teacher):
    """The final table: results is {method: [result of each seed]}, teacher (path, its info) or None."""
    rows = [["method", "accuracy", "selection rate", "empty", "F1", "IoU", "sufficiency (random)", "comprehensiveness (random)", "mask alone", "ex/s",
             "parameters", "seconds"]]
    for method, runs in results.items():
        column = lambda key: [run["test"][key] for run in runs]
        cell = lambda key, digits=3: spread(column(key), digits) if runs[0]["test"].get(key) is not None else "-"
        rows.append([method.upper(), cell("accuracy", 4), cell("rate_mean"), f"{np.mean(column('rate_empty')):.3f}", cell("f1"), cell("iou"),
                     *(f"{cell(key)} ({np.mean(column(key + '_random')):.3f})" for key in ("sufficiency", "comprehensiveness")),
                     cell("probe") + (f" ({runs[0]['test']['chance']:.2f})" if "probe" in runs[0]["test"] else ""), cell("examples_per_s", 0),
                     f"{runs[0]['parameters']:,}", spread([run["seconds"] for run in runs], 0)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    who = f"teachers, {args.teacher}" if args.teacher_mode else f"students, {args.student}"
    lines = [f"{args.dataset}, test set, {who}, {args.seeds} seed{'s' * (args.seeds > 1)} from {args.seed}", "", *lines, ""]
    if teacher:
        path, info = teacher
        lines.append(f"teacher: {info['model']['preset']} (RE), dev accuracy {info['metric']['accuracy']:.4f} at rate {info['metric']['rate_mean']:.3f}, {path}")
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
def test_examples(data, n=8):
    """Evenly spread over the test set -> list of dicts: x, what it looks like (pixels or pieces), label, truth or None."""
    split, found = data.test, []
    for i in torch.linspace(0, len(split) - 1, min(n, len(split))).long():
        x, y = next(data.batches(split, 1, i[None]))
        shown = split.x[i].cpu() if data.corpus is None else pieces(WordPiece(data.input["vocabulary"]), data.corpus[split.docs[i]])
        truth = None if split.truth is None else split.truth[i].cpu()
        found.append({"x": x, "shown": shown, "label": data.classes[y], "truth": truth, "name": f"test example {int(i)}"})
    return found

def pieces(tokenizer, words):
    """The text of every token after [CLS]: a word, or its pieces ("##" goes on with the word)."""
    return [text for word in words for ids in [tokenizer.pieces(word)]
            for text in ([word] if len(ids) == 1 else [tokenizer.vocabulary[i] for i in ids])]

@torch.no_grad()
def picture(path, kind, title, classes, examples, models):
    """models: {name: (Rationalist, its metrics, its preset)} -> the file written: path.png of images, path.html of texts."""
    for name, (model, _, _) in models.items():
        for example in examples:
            out = model.eval()(example["x"])
            confidence, label = out.logits[0].float().softmax(-1).max(-1)
            example[name] = (out.mask[0].cpu(), classes[label], f"{classes[label]}, {confidence:.0%}")
    captions = [f"{name}: {preset}, accuracy {metrics['accuracy']:.3f}, selection rate {metrics['rate_mean']:.3f}"
                for name, (_, metrics, preset) in models.items()]
    if kind == "text":
        path = Path(f"{path}.html")
        write_text(path, html_page(title, captions, examples, list(models)))
    else:
        path, canvas = Path(f"{path}.png"), draw(title, captions, examples, list(models))
        write_atomically(path, lambda file: canvas.save(file, format="PNG"))
    return path

def draw(title, captions, examples, names, side=128):
    """A row is an example; its columns are the input, the true rationale where known, and for each model what it kept (the
    rest is darkened), with its prediction below. One model: its mask too."""
    zoom = lambda image: F.interpolate(image.float()[None], size=(side, side))[0]            # nearest: pixels stay pixels
    grid = lambda mask: zoom(mask.reshape(1, int(len(mask) ** 0.5), -1))                     # (N,) -> (1, side, side)
    with_truth, with_mask = examples[0]["truth"] is not None, len(names) == 1
    heads = ["input", *["truth"] * with_truth, *["mask"] * with_mask, *names]
    top = 8 + 18 * (len(captions) + 2)
    canvas = Image.new("RGB", (max((side + 8) * len(heads) + 8, 500), top + (side + 26) * len(examples)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, line in enumerate([title, *captions]):
        pen.text((8, 4 + 18 * i), line, "black", font)
    for j, example in enumerate(examples):
        pixels = zoom(example["shown"])
        row = [(pixels, example["label"] or example["name"])]
        if with_truth:
            row.append((pixels * (0.2 + 0.8 * grid(example["truth"])), ""))
        if with_mask:
            row.append((255 * grid(example[names[0]][0]).expand(3, -1, -1), ""))
        for name in names:
            mask, label, says = example[name]
            verdict = "" if example["label"] is None else "ok: " if label == example["label"] else "WRONG: "
            row.append((pixels * (0.2 + 0.8 * grid(mask)), verdict + says))
        for i, (image, caption) in enumerate(row):
            left, up = 8 + i * (side + 8), top + j * (side + 26)
            pen.text((left, top - 18), heads[i], "black", font)
            canvas.paste(Image.fromarray(image.permute(1, 2, 0).byte().numpy()), (left, up))  # (3, side, side) -> (side, side, 3)
            pen.text((left, up + side + 3), caption, "red" if caption.startswith("WRONG") else "black", font)
    return canvas

STYLE = """body{font:16px/1.6 Georgia,serif;max-width:46em;margin:2em auto;padding:0 1em;color:#111}
article{border-left:6px solid #bbb;padding:.1em 1em;margin:1.5em 0;break-inside:avoid} .wrong{border-left:6px double #b00}
h2{font:bold 15px sans-serif;margin:.6em 0 .2em} .wrong h2{background:#111;color:#fff;padding:.1em .5em} p{color:#555;margin:.3em 0}
mark{background:#ffe08a;color:#000;font-weight:bold;border:1.5px solid #000;border-radius:3px;padding:0 .15em}
u{text-decoration:underline 2px;text-underline-offset:3px} *{print-color-adjust:exact;-webkit-print-color-adjust:exact}"""

def html_page(title, captions, examples, names):
    """Selected words are boxed, bold and yellow, true ones underlined: no meaning hangs on a colour. All text is escaped."""
    rows = []
    for example in examples:
        for name in names:
            mask, label, says = example[name]
            verdict = "" if example["label"] is None else "&#10003; right" if label == example["label"] else "&#10007; WRONG"
            given = "" if example["label"] is None else f" &middot; label {html.escape(example['label'])}"
            words = ""
            for i, word in enumerate(example["shown"][:len(mask) - 2], 1):  # position 0 is [CLS], the last [SEP]
                text = html.escape(word.removeprefix("##"))
                text = f"<u>{text}</u>" if example["truth"] is not None and example["truth"][i] else text
                words += " " * (not word.startswith("##")) + (f"<mark>{text}</mark>" if mask[i] else text)
            rows.append(f'<article class="{"wrong" if "WRONG" in verdict else "right"}"><h2>{verdict} {html.escape(name)} says {html.escape(says)}'
                        f"{given} &middot; {html.escape(example['name'])}</h2><p>{words}</p></article>")
    head = "".join(f"<p>{html.escape(line)}</p>" for line in captions)
    key = "<p>Key: <mark>selected word</mark>" + (", <u>true rationale</u>" if examples[0]["truth"] is not None else "") + "</p>"
    return (f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>'
            f"<style>\n{STYLE}</style>\n<h1>{html.escape(title)}</h1>{head}{key}\n" + "\n".join(rows) + "\n</html>\n")

def curve_svg(title, curves):
    """{method: [(selection rate, accuracy), ...]} -> an SVG picture; the methods differ in their dashes, not only in colour."""
    at = lambda rate, accuracy: f"{60 + 500 * rate:.1f},{340 - 300 * accuracy:.1f}"
    parts = [f'<text x="60" y="20">{html.escape(title)}: test accuracy (0 to 1) against selection rate (0 to 1)</text>',
             '<path d="M60 40V340H560" fill="none" stroke="black"/>']
    parts += [f'<text x="{60 + 500 * t / 5 - 8}" y="358">{t / 5}</text><text x="30" y="{344 - 300 * t / 5}">{t / 5}</text>' for t in range(6)]
    for i, (name, points) in enumerate(curves.items()):
        line, style = " ".join(at(*point) for point in sorted(points)), f'stroke="{("#000", "#0072b2", "#d55e00")[i]}" stroke-dasharray="{("1 4", "8 4", "none")[i]}"'
        parts.append(f'<polyline points="{line}" fill="none" stroke-width="2" {style}/>')
        parts += [f'<circle cx="{at(*p).split(",")[0]}" cy="{at(*p).split(",")[1]}" r="3"><title>{name}: rate {p[0]:.3f}, accuracy {p[1]:.4f}</title></circle>' for p in points]
        parts.append(f'<path d="M480 {60 + 20 * i}h30" stroke-width="2" {style}/><text x="516" y="{64 + 20 * i}">{name}</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 370" font-family="sans-serif" font-size="12">\n' + "\n".join(parts) + "\n</svg>\n"

def explain(args, device):
    """--explain: the rationales of the user's own files, printed and pictured."""
    with user_errors():
        model, info = load(args.checkpoint, device)
    kind, examples = info["input"]["kind"], []
    for path in args.explain:
        x = read_input(path, info["input"]).to(device)
        if kind == "text":
            tokenizer = WordPiece(info["input"]["vocabulary"])
            text, replaced = read_text(path)
            shown, cut = pieces(tokenizer, tokenizer.words(text)), ""
            if len(shown) > x.shape[1] - 2:
                cut = f" (cut: the model reads the first {x.shape[1] - 2} of its {len(shown)} tokens)"
        else:
            shown, cut = read_image(path, info["input"]["image_size"]), ""
        examples.append({"x": x, "shown": shown, "label": None, "truth": None, "name": f"{path}{cut}"})
    title = f"{info['config']['dataset']}: {args.checkpoint}"
    name = info["config"]["method"].upper()
    written = picture(Path(args.out) / "explained", kind, title, info["classes"], examples, {name: (model, info["metric"], info["config"]["preset"])})
    for example in examples:
        mask, _, says = example[name]
        print(f"{example['name']}: {says}")
        if kind == "text":
            words = [f"[{word}]" if keep else word for word, keep in zip(example["shown"], mask[1:-1].bool())]
            print("  " + " ".join(words).replace("] [", " "))
        else:
            print("\n".join("  " + "".join("# " if keep else ". " for keep in row) for row in mask.view(int(len(mask) ** 0.5), -1)))
    print(f"picture: {written}")

# ---------------------------------------------------------------- top to bottom
def main():
    sys.stdout.reconfigure(line_buffering=True)
    args = parse_args()
    try:
        device = torch.device(args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"no device {args.device!r} here: use --device auto or cpu") from None
    if args.explain:
        return explain(args, device)
    print(f"device: {device}, {hardware(device)} ({'bf16 autocast' if device.type == 'cuda' or args.bf16 else 'float32'})")
    vocab = (vocabulary_of(args.init) or vocabulary_of(args.teacher_init)) if args.kind == "text" else None
    with user_errors():
        for preset, init in {args.teacher: args.teacher_init, **({} if args.teacher_mode else {args.student: args.init})}.items():
            # before the data: a typo should not cost a download
            if {"vit": "image", "bert": "text"}[parse_preset(preset)[0]] != args.kind:
                raise UserError(f"{preset} does not read {args.kind}s, and {args.dataset} holds {args.kind}s: choose a {'bert' if args.kind == 'text' else 'vit'} preset")
            shape = {key: getattr(args, key) for key in SHAPE["image"]} if args.kind == "image" else \
                {"vocab_size": len(WordPiece(vocab or SPECIAL).vocabulary), "max_len": args.max_length}
            initialise(build(preset=preset, method="cls", num_classes=2, **shape), init if vocab or args.kind == "image" else "scratch", preset)
    data = load_dataset(args.dataset, args.data_dir, limit=args.limit, device=device, **{key: getattr(args, key) for key in SHAPE[args.kind]},
                        views=args.views, **({"vocab": vocab} if vocab else {}))
    features = f"up to {args.max_length} tokens of {len(data.input['vocabulary'])} words" if args.kind == "text" else \
        f"{args.image_size} px in patches of {args.patch_size}: {(args.image_size // args.patch_size) ** 2} features"
    print(f"data: {data.name}, {len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test, {len(data.classes)} classes, {features}")

    curve = {}
    for args.rate in args.rates or [args.rate]:
        for method, runs in experiment(args, data, device).items():
            curve.setdefault(method.upper(), []).append((np.mean([run["test"]["rate_mean"] for run in runs]), np.mean([run["test"]["accuracy"] for run in runs])))
    if args.rates:
        path = Path(args.out) / args.dataset / f"rates-{args.teacher if args.teacher_mode else args.student}-seed{args.seed}.svg".replace(":", "_")
        write_text(path, curve_svg(args.dataset, curve))
        print(f"\naccuracy against selection rate: {path}")

def experiment(args, data, device):
    """What the command names, at one rate: a teacher where one is needed, then all runs -> {method: [result of each seed]}."""
    methods = ["cls", "re", "rekd"] if args.compare else [args.method or ("re" if args.teacher_mode else "rekd")]
    role, preset = ("teacher", args.teacher) if args.teacher_mode else ("student", args.student)
    runs = [make_config(args, role, method, preset, args.seed + k) for k in range(args.seeds) for method in methods]

    teacher = None
    teacher_config = make_config(args, "teacher", "re", args.teacher, args.seed)
    teacher_path = (args.teacher_checkpoint or find_teacher(args, teacher_config, data)) if "rekd" in methods else None
    to_train = ([teacher_config] if "rekd" in methods and not teacher_path else []) + runs
    if args.resume and not any((run_folder(args, config) / "config.json").exists() for config in to_train):
        raise UserError(f"nothing to resume: no run with these options in {run_folder(args, to_train[-1])}")
    if "rekd" in methods:
        print(f"teacher: {f'reusing {teacher_path}' if teacher_path else f'no finished one fits, so {args.teacher} is trained first'}")
        if not teacher_path:
            train(teacher_config, data, None, args, device)
            teacher_path = run_folder(args, teacher_config) / "best.pt"
        with user_errors():
            network, teacher_info = load_teacher(teacher_path, args, data, device)
        teacher = network, answers_of(network, teacher_path, data, args, device)

    results = {method: [] for method in methods}
    for config in runs:
        results[config["method"]].append(train(config, data, teacher, args, device))
    table = report(results, args, (teacher_path, teacher_info) if teacher else None)
    print(f"\n{table}")
    if args.compare:
        folder = run_folder(args, runs[2])  # the first seed's REKD run
        name = str(folder).replace("student-rekd", "compare") + f"-{args.seeds}seeds"
        write_text(Path(name + ".txt"), table + "\n")
        models = {"teacher": (teacher[0], teacher_info["metric"], args.teacher)}
        for c in runs[:3]:
            models[c["method"].upper()] = (load(run_folder(args, c) / "best.pt", device)[0], results[c["method"]][0]["test"], c["preset"])
        pictured = picture(name, args.kind, data.name, data.classes, test_examples(data), models)
        print(f"\ntable and picture: {name}.txt, {pictured}")
    else:
        print(f"picture: {run_folder(args, runs[0]) / ('rationales.html' if args.kind == 'text' else 'rationales.png')}\nmodel: {run_folder(args, runs[0]) / 'best.pt'}")
    return results

def cli():
    """A user's mistake is exit code 2 and one line, never a traceback; Ctrl-C is 130."""
    try:
        main()
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on after the last finished epoch", file=sys.stderr)
        sys.exit(130)

if __name__ == "__main__":
    cli()
