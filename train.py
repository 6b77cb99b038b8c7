"""Train rationale models: a teacher, and students that learn from it (REKD, arXiv 2601.22531).

    python train.py                                          a teacher, then its REKD student
    python train.py --compare                                CLS, KD, RE, REKD students in one table
    python train.py --compare --seeds 6                      mean +- std over seeds, and a test
    python train.py --dataset phrases --compare              the same for text
    python train.py --dataset cifar10 --student vit_tiny     the paper's student; its teacher first
    python train.py --dataset cifar10 --teacher vit_base     no --student: only the teacher
    python train.py --paper --compare --seeds 10 --dataset cifar10 --student vit_tiny
                                                             every point as in the paper
    torchrun --nproc_per_node=4 train.py --dataset cifar10   on four GPUs
    python train.py --explain FILE_OR_FOLDER ... --checkpoint runs/.../best.pt

Four kinds of model are compared. CLS: the predictor alone, on the whole input. KD: the same, taught
by the teacher's predictions (ordinary distillation). RE: generator and predictor, trained by L_RE.
REKD: the same, trained by L_REKD with a frozen RE teacher. Without --dataset, the data is the
built-in glyphs; --compare takes a minute on two CPU cores. A run leaves its options, log, best.pt,
result and a picture in runs/<dataset>/<role>-<method>-<preset>-seed<k>-<options that were given>/;
--resume goes on after an interruption.

The training loop comes first; then one run, its teacher, the experiment, what is shown, options.
"""

import argparse
import hashlib
import html
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import ImageDraw
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms.functional import to_pil_image, to_tensor
from torchvision.utils import save_image
from tqdm import tqdm

import data as datasets
import models
import rekd
from data import UserError, printable, write_atomically

EVAL_BATCH = 128
# Which of how many processes this is: the first of one, unless torchrun says otherwise.
RANK = int(os.environ.get("RANK", 0))
WORLD = int(os.environ.get("WORLD_SIZE", 1))


# ---------------------------------------------------------------- 1. one epoch, and its evaluation
def train_epoch(model, teacher, data, optimizer, config, epoch, progress):
    """One pass over the training set -> tau and lr at its end, and the mean of each loss, by name.

    Nothing in the loop reads a value from the device, so that the host can run ahead.
    """
    # All that is random in an epoch depends on (seed, epoch): a resumed run needs no random state.
    torch.manual_seed(((config.seed + 1) << 20) + epoch)
    examples = config.steps * config.batch_size
    passes = math.ceil(examples / len(data.train))  # 1, but for few labels beside --unlabelled
    order = torch.cat([torch.randperm(len(data.train)) for _ in range(passes)])[:examples]
    if WORLD > 1:  # each process has its share of every batch, and noise of its own
        order = order.view(config.steps, WORLD, -1)[:, RANK].flatten()
        torch.manual_seed(torch.initial_seed() + (RANK << 53))
    view = epoch % (config.views or config.epochs) if data.crops else 0
    answers = ask_teacher(teacher, view, data, config) if teacher else None
    batches = data.batches(data.train, config.batch_size // WORLD, order, view)
    history = []
    for step, (rows, x, y) in enumerate(batches, start=epoch * config.steps):
        tau = rekd.temperature(step, config.total_steps, start=config.tau_start,
                               end=config.tau_end, shape=config.schedule)
        cached = teacher.cached(answers, rows, x) if teacher else None
        with autocast(x.device, config.precision):
            losses = step_losses(model, teacher, cached, x, y, step, tau, config)
        lr = optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        history.append(torch.stack([loss.detach() for loss in losses.values()]))
        progress.update()
    means = torch.stack(history).mean(0).tolist()
    return {"tau": tau, "lr": lr, **dict(zip(losses, means))}


def step_losses(model, teacher, cached, x, y, step, tau, config):
    """The losses of one step, by the method -> {name: scalar}."""
    if config.method == "cls":
        return rekd.cls_losses(model, x, y)
    distillation = {"known": cached, "tau": tau, "alpha": config.alpha,
                    "lambda_prediction": config.lambda_prediction}
    if config.method == "kd":
        return rekd.kd_losses(model, teacher.network, x, y, **distillation)
    sampling = {"rate": rate_at(step, config), "lambda_select": config.lambda_select,
                "balanced": config.mask_gradient == "balanced"}
    if config.method == "re":
        return rekd.re_losses(model, x, y, tau=tau, **sampling)
    return rekd.rekd_losses(
        model, teacher.network, x, y, **distillation, **sampling, kd_noise=config.kd_noise,
        lambda_rationale=config.lambda_rationale, teacher_reads=config.teacher_reads)


def rate_at(step, config):
    """Of sampled masks: falls from 1, or is left to L_select (the paper)."""
    if config.lambda_select is None:
        return rekd.annealed_rate(step, config.total_steps, config.rate)
    return config.rate


def learning_rate(step, config):
    """Constant (the paper), or `decay`: constant, then down to 0 over the last 40 % of the steps.

    At low tau the softmax's gradient of a mask grows (1 / tau) and shakes what was learned.
    """
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * min(1, (1 - step / config.total_steps) / 0.4)


def autocast(device, precision):
    """Chosen outside the networks, which do not know of it. auto: bfloat16 on CUDA."""
    is_half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


@torch.no_grad()
def evaluate(model, data, split, config):
    """-> dict: accuracy, L_RE, selection rates and, where the truth is known, agreement with it.

    balanced_accuracy is the mean recall of the classes; `random`, of the test set, the accuracy of
    the same predictor on random features. Masks keep exactly the rate, see Rationalist, or (the
    release) are sampled, by noise that is the same for the same seed.
    """
    was_training = model.training
    model.eval()
    selects = config.method in SELECTING
    is_random_told = selects and split is data.test
    tau = config.tau_end if config.evaluation == "sampled" and selects else None
    exact_rate = config.rate if config.lambda_select is None else None
    torch.manual_seed(config.seed)
    found = []
    for _, x, _ in data.batches(split, eval_batch(config)):
        with autocast(x.device, config.precision):
            out = model(x, tau, rate=exact_rate)
            by_chance = random_logits(model, x, out) if is_random_told else out.logits
        found.append((out.logits.float(), by_chance, widen(out.mask, data),
                      widen(out.selectable, data)))
    model.train(was_training)
    logits, by_chance, mask, selectable = map(torch.cat, zip(*found))
    loss = F.cross_entropy(logits, split.y)
    if selects:
        loss += (config.lambda_select or 0.0) * rekd.selection_loss(mask, config.rate, selectable)
    result = {**class_counts(logits.argmax(1), split.y, len(data.classes)),
              "eval_loss": loss.item(), **rekd.selection_stats(mask, selectable)}
    if is_random_told:
        result["random"] = (by_chance.argmax(1) == split.y).double().mean().item()
    if split.truth is not None and selects:
        known = split.truth.any(1)  # of your own data, some examples or all may have none
        if known.any():
            result.update(rekd.agreement(mask[known], split.truth[known], selectable[known]))
    return result


def eval_batch(config):
    """Examples at once, without a gradient: they take no more memory than a training step."""
    return min(EVAL_BATCH, 4 * config.batch_size)


def random_logits(model, x, out):
    """The predictor on random masks, which keep as many features of each example as its own."""
    scores = torch.rand_like(out.mask)
    mask = rekd.top_mask(scores, out.mask.sum(1, keepdim=True), out.selectable)
    return model.predict(x, mask)


def class_counts(predicted, y, num_classes):
    """(n,) classes each -> accuracy, balanced_accuracy, recall of each class, and the confusion
    counts [true class][predicted class]."""
    pairs = (y * num_classes + predicted).bincount(minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes).double()
    recall = confusion.diag() / confusion.sum(1)  # nan of a class without an example
    # Counts, not float32 means: ties between seeds must stay ties.
    return {"accuracy": (confusion.diag().sum() / len(y)).item(), "examples": len(y),
            "balanced_accuracy": recall.nanmean().item(),
            "class_recall": recall.nan_to_num().tolist(), "confusion": confusion.int().tolist()}


def widen(mask, data):
    """(B, T) -> (B, max_length): batches of texts differ in length. Of images, nothing changes."""
    return F.pad(mask, (0, data.input.get("max_length", mask.shape[1]) - mask.shape[1]))


# ---------------------------------------------------------------- 2. one run
def train(config, teacher, data, is_resumed, progress):
    """One run, from its first epoch or from last.pt on -> its result (also in result.json)."""
    data = data.draw(config.limit, config.seed, config.unlabelled and teacher is not None)
    folder, device = config.folder, data.train.y.device
    origin = {"fingerprint": data.fingerprint, "teacher": teacher and teacher.record}
    # The lock is held until this function ends.
    lock = open_run(config, origin, is_resumed) if RANK == 0 else None
    wait()
    # A clone may hold the result of a run without its weights.
    if (folder / "result.json").exists() and (folder / "best.pt").exists():
        print(f"{folder}: finished before")
        progress.total -= config.total_steps
        return read_json(folder / "result.json")
    torch.manual_seed(config.seed)
    model, model_args = make_model(config, len(data.classes), data.input.get("vocabulary"))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr,
                                  weight_decay=config.weight_decay, fused=True)
    log, best = resume(folder, model, optimizer)
    progress.total -= len(log) * config.steps
    network = DistributedDataParallel(model) if WORLD > 1 else model
    told = time.time()  # of the last line that was told: at most one in ten seconds
    about = {"model": model_args, "config": recorded(config), "classes": data.classes,
             "input": data.input, **origin}
    for epoch in range(len(log), config.epochs):
        start = time.time()
        losses = train_epoch(network, teacher, data, optimizer, config, epoch, progress)
        if RANK > 0:
            continue  # the first evaluates and writes
        dev = evaluate(model, data, data.dev, config)
        if not math.isfinite(losses["loss"] + dev["eval_loss"]):
            raise UserError(f"the loss is not finite in epoch {epoch + 1}: lower --lr or use "
                            f"defaults; {folder} keeps the epochs before")
        dev.pop("confusion")
        log.append({"epoch": epoch + 1, **losses, **dev, "seconds": time.time() - start})
        state = {**about, "weights": model.state_dict(), "metric": dev, "epoch": epoch + 1}
        score = score_of(dev, epoch, config)
        if score >= best:  # a tie goes to the later epoch
            best = score
            save(folder / "best.pt", state)
        write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log))
        save(folder / "last.pt",
             {**state, "optimizer": optimizer.state_dict(), "best": best, "log": log})
        if time.time() > told + 10 or epoch + 1 == config.epochs:
            told = time.time()
            tell_epoch(config, log[-1])
    result = finish(config, log, data, origin) if RANK == 0 else None
    wait()
    del lock
    return result


def score_of(dev, epoch, config):
    """-> (has the rate arrived, an epoch's figure on dev): the checkpoint of the highest stays."""
    if config.choose_by == "loss":
        return True, -dev["eval_loss"]
    # Where the rate still falls, a model is not yet what it will be: a later epoch is preferred.
    steps = (epoch + 1) * config.steps
    has_arrived = config.method not in SELECTING or rate_at(steps, config) == config.rate
    return has_arrived, dev["balanced_accuracy"]


def make_model(config, num_classes, vocabulary, device="cpu"):
    """-> a model as it is before training, and the arguments of models.build."""
    model_args = {"preset": config.preset, "method": config.method, "num_classes": num_classes,
                  "dropout": config.dropout, "masking": config.masking,
                  "rate": config.rate if config.method in SELECTING else None,
                  **input_shape(config, vocabulary)}
    with torch.device(device):
        model = models.build(**model_args)
    if config.init != "scratch":  # both networks begin with the same weights
        models.initialise(model, weights_file(config.init, config.preset))
    return model, model_args


def input_shape(config, vocabulary):
    """What a network must know of its input, see models.build."""
    if config.kind == "image":
        return {"image_size": config.image_size, "patch_size": config.patch_size}
    return {"vocab_size": len(vocabulary), "max_len": config.max_length}


def num_features(config):
    if config.kind == "image":
        return (config.image_size // config.patch_size) ** 2
    return config.max_length


def open_run(config, origin, is_resumed):
    """The run's folder -> a file that locks it. A run that is there is begun anew, unless --resume
    goes on with it: with the options, on the data and under the teacher that it began with."""
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        import fcntl  # not on Windows
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with its process
    except BlockingIOError:
        raise UserError(f"{folder} is in use: wait, or choose another --out") from None
    except (ImportError, OSError):  # nor on some network disks
        pass
    path = folder / "config.json"
    is_file = config.init not in ("scratch", "pretrained")
    begun = {**recorded(config), "fingerprint": origin["fingerprint"],
             "teacher_sha256": origin["teacher"] and origin["teacher"]["sha256"],
             "init_sha256": sha256(config.init) if is_file else None}
    if not is_resumed:
        for name in ("result.json", "log.jsonl", "last.pt", "best.pt"):
            (folder / name).unlink(missing_ok=True)
    elif path.exists() and read_json(path) != begun:
        raise UserError(f"{folder} is of other options, data or weights, or of another teacher: "
                        "remove it, or choose another --out")
    write_text(path, json.dumps(begun, indent=1) + "\n")
    return lock


def resume(folder, model, optimizer):
    """From last.pt, if there is one -> the log's lines so far, the best score on dev."""
    path = folder / "last.pt"
    if not path.exists():
        return [], (False, -math.inf)
    last = models.read_weights(path, "checkpoint")
    model.load_state_dict(last["weights"])
    optimizer.load_state_dict(last["optimizer"])
    print(f"{folder}: resumed after epoch {last['epoch']}")
    return last["log"], last["best"]


def read_json(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is damaged: remove it") from None


def finish(config, log, data, origin):
    """Measure the best checkpoint on the test set, once -> result."""
    folder, device = config.folder, data.train.y.device
    model, info = models.load(folder / "best.pt", device)
    result = {"test": evaluate(model, data, data.test, config), "dev": info["metric"],
              "epoch": info["epoch"], **origin,
              "parameters": sum(p.numel() for p in model.parameters()),
              "seconds": sum(line["seconds"] for line in log),
              "command": shlex.join(["python", *sys.argv]),
              "torch": torch.__version__, "hardware": hardware(device)}
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    (folder / "last.pt").unlink(missing_ok=True)
    show(folder / "rationales", {config.method.upper(): model}, test_examples(data), info)
    return result


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save(path, content):
    write_atomically(path, lambda file: torch.save(content, file))


def write_text(path, text):
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


# ---------------------------------------------------------------- 3. the teacher
class Teacher(NamedTuple):
    """A frozen RE model, outside its student, and what it has said of the training examples."""
    network: rekd.Rationalist
    record: dict       # its checkpoint's path, the hash of its weights, preset, dev metrics
    answers: dict      # (view, data, whose mask it reads) -> see ask_teacher

    def cached(self, key, rows, x):
        """Of x, the training examples `rows` (B,) -> keep_logits (B, N), logits (B, C) or None."""
        keep, logits = self.answers[key]
        rows = rows.to(x.device, non_blocking=True)
        width = x.shape[1] if x.ndim == 2 else None  # a batch of texts may be narrower
        return keep[rows, :width], None if logits is None else logits[rows].float()


@torch.no_grad()
def ask_teacher(teacher, view, data, config):
    """A frozen teacher's rationale of each training example, cropped as in this view, is computed
    once, and so is its prediction, unless it must read the mask of its student, at every step
    -> where its answers are: keep_logits (n, N), logits (n, C) or None, in float16.

    (TinyViT, arXiv 2207.10666, stores a teacher's logits so; a teacher must see the very view that
    its student sees: arXiv 2106.05237.)
    """
    reads = config.teacher_reads if config.method == "rekd" else "teacher"
    key = view, data.fingerprint, reads
    for known in ((view, data.fingerprint, "teacher"), key):  # the first has the rationale as well
        if known in teacher.answers:
            return known
    said = []
    for _, x, _ in data.batches(data.train, eval_batch(config), view=view):
        with autocast(x.device, config.precision):
            keep, logits = rekd.teacher_outputs(teacher.network, x, reads)
        said.append((widen(keep, data), logits))
    keep, logits = zip(*said)
    teacher.answers[key] = (torch.cat(keep).half(),
                            None if reads == "student" else torch.cat(logits).half())
    return key


def get_teacher(path, config, data):
    """The frozen teacher in best.pt, for students of this config."""
    device, vocabulary = data.train.y.device, data.input.get("vocabulary")
    network, info = models.load_teacher(path, device, classes=data.classes,
                                        vocabulary=vocabulary, **input_shape(config, vocabulary))
    print(f"teacher: {path}, dev accuracy {info['metric']['accuracy']:.3f}")
    record = {"path": str(path), "sha256": sha256(path), "preset": info["model"]["preset"],
              "dev": info["metric"]}
    return Teacher(network, record, {})


# ---------------------------------------------------------------- 4. the experiment
def experiment(args):
    """What the command names: a teacher where one is needed, then methods x seeds, then a table."""
    teachers, runs = plan(args)
    if RANK > 0:
        wait()  # for what the first process downloads and the others then find
    data = load_data(args, runs[0], check_start(args, teachers, runs))
    if RANK == 0:
        wait()
    teachers, runs = plan(args, len(data.train))
    progress = progress_bar(sum(config.total_steps for config in teachers + runs))

    path = args.teacher_checkpoint
    for config in teachers:
        path = config.folder / "best.pt"
        if not path.exists():
            others = [folder.name for folder in config.folder.parent.glob("teacher-*")]
            print(f"teacher: {config.folder.name} is trained first; other teachers here: "
                  f"{', '.join(others) or 'none'}")
        train(config, None, data, True, progress)  # nothing to do where it is finished
    teacher = get_teacher(path, runs[0], data) if runs[-1].method in TAUGHT else None
    # Where student and teacher would be the same run, it was trained already.
    for i, config in enumerate(runs):
        if teachers and is_same_run(config, teachers[0]):
            print(f"student RE seed {config.seed} is the same run as the teacher")
            runs[i] = teachers[0]
    results = []
    for config in runs:
        is_resumed = args.resume or config.role == "teacher"  # which is trained once
        its_teacher = teacher if config.method in TAUGHT else None
        results.append(train(config, its_teacher, data, is_resumed, progress))
    if RANK > 0:
        return
    title = f"{data.name}, test set, {runs[0].preset}, seeds from {args.seed}"
    text = table(title, data, runs, results)
    print(f"\n{text}\n")
    if args.compare:
        last = runs[len(METHODS) - 1].folder  # REKD's of the first seed
        name = last.name.replace("student-rekd", "compare", 1)
        path = last.with_name(f"{name}-{args.seeds}seeds")
        write_text(f"{path}.txt", text + "\n")
        compare(path, runs[:len(METHODS)], teacher, data)


def plan(args, n=10**9):
    """-> the configs of the teacher, if one has to be there, and of methods x seeds."""
    methods = METHODS if args.compare else [args.method]
    teachers = []
    if methods[-1] in TAUGHT and not args.teacher_checkpoint:
        seed = 2026 if args.teacher_seed is None else args.teacher_seed
        teachers = [make_config(args, "teacher", "re", seed, n)]
    return teachers, [make_config(args, args.role, method, args.seed + k, n)
                      for k in range(args.seeds) for method in methods]


def is_same_run(config, teacher):
    """Is an RE student, by all that RE depends on, its own teacher?"""
    ours, theirs = recorded(config), recorded(teacher)
    others = ("role", "teacher", "alpha", "lambda_rationale", "lambda_prediction", "kd_noise")
    return all(ours.get(key) == theirs.get(key) for key in ours | theirs
               if not key.startswith(others))


def compare(path, runs, teacher, data):
    """The first seed's models side by side in one picture."""
    networks = {"teacher": teacher.network}
    for config in runs:
        model, info = models.load(config.folder / "best.pt", data.train.y.device)
        networks[config.method.upper()] = model
    show(path, networks, test_examples(data), info)


def table(title, data, runs, results):
    """The results of runs -> the table, and what it says of rationales."""
    by_method = {}
    for config, result in zip(runs, results):
        by_method.setdefault(config.method, []).append(result)
    columns = ["accuracy", "random", "f1"]
    if is_uneven(data):
        columns.insert(1, "balanced_accuracy")
    names = "".join(f"{key.partition('_')[0]:17}" for key in columns)
    lines = [title, "", f"method  {names}   rate  parameters  seconds"]
    for method, found in by_method.items():
        tests = [result["test"] for result in found]
        cells = "".join(f"{spread(tests, key):17}" for key in columns)
        lines.append(f"{method.upper():8}{cells}{mean(tests, 'rate_mean'):7.3f}"
                     f"{found[0]['parameters']:12,}{mean(found, 'seconds'):9.0f}")
    teacher = results[-1]["teacher"]
    if teacher:
        lines.append("\nteacher: {preset} (RE), accuracy on dev {dev[accuracy]:.4f} at rate "
                     "{dev[rate_mean]:.3f}".format(**teacher))
    for base in ("re", "kd"):
        if base in by_method and "rekd" in by_method:
            lines.append(gain(f"REKD - {base.upper()}", by_method["rekd"], by_method[base]))
    for method, found in by_method.items():
        recalls = zip(data.classes, *(result["test"]["class_recall"] for result in found))
        missed = [name for name, *recall in recalls if not any(recall)]
        lines += [f"{method.upper()} never finds: {', '.join(missed)}"] if missed else []
        lines += verdict(method, found)
    return printable("\n".join(lines))


def is_uneven(data):
    """Has the largest class more than 1.5 times the examples of the smallest?"""
    counts = data.train.y.bincount()
    return bool(counts.max() > 1.5 * counts.min())


def verdict(method, results):
    """In words, where a rationale has no clear gain over as many random features."""
    tests = [result["test"] for result in results]
    if "random" not in tests[0]:
        return []
    own, by_chance = mean(tests, "accuracy"), mean(tests, "random")
    error = (2 * own * (1 - own) / sum(test["examples"] for test in tests)) ** 0.5
    if own > by_chance + 2 * error:
        return []
    return [f"{method.upper()}: its rationales are not clearly better than random features "
            f"({own:.3f} against {by_chance:.3f})."]


def mean(results, key):
    return statistics.mean(result[key] for result in results)


def spread(results, key):
    """mean +- sample standard deviation; the value alone where there is one."""
    values = [result[key] for result in results if key in result]
    if not values:
        return "-"
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


# Student's t: the mean of n seeds +- T95[n - 2] standard errors is a 95 % interval.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
       2.12, 2.11, 2.10, 2.09)


def gain(name, better, base):
    """Results of two methods, paired by seed -> a line that tells the difference in accuracy."""
    gains = [a["test"]["accuracy"] - b["test"]["accuracy"] for a, b in zip(better, base)]
    n, line = len(gains), f"{name}: {statistics.mean(gains):+.4f}"
    if n == 1:
        return f"{line} (of one seed: more tell how sure that is, --seeds 6)"
    half = T95[n - 2] * statistics.stdev(gains) / n**0.5
    return (f"{line} +- {half:.4f} (95 % interval over {n} seeds; exact sign-flip test: "
            f"p = {rekd.sign_flip_test(gains):.2g})")


def progress_bar(steps):
    """Of the whole command, with the time left: on a terminal, elsewhere a line every minute."""
    rarely = {} if sys.stderr.isatty() else {
        "mininterval": 55, "maxinterval": 60, "delay": 20,
        "bar_format": "{n}/{total} steps, {remaining} left\n"}
    return tqdm(total=steps, unit="step", leave=False, disable=RANK > 0, **rarely)


def tell_epoch(config, line):
    """What the log says of an epoch, in brief."""
    say = tqdm.write if sys.stderr.isatty() else print  # above the bar
    say(f"{config.role} {config.method.upper()} seed {config.seed}  "
        f"epoch {line['epoch']:>2}/{config.epochs}  loss {line['loss']:.4f}  "
        f"dev accuracy {line['accuracy']:.4f}  rate {line['rate_mean']:.3f}")


# ---------------------------------------------------------------- 5. rationales to look at
class Example(NamedTuple):
    x: Tensor                    # (1, ...), what a network reads
    shown: Tensor | str          # what it looks like: pixels (3, H, W) uint8, or the text
    name: str
    label: str = ""
    truth: Tensor | None = None  # (N,) bool, the true rationale where it is known


def test_examples(data, n=8):
    """n examples evenly spread over the test set."""
    rows = torch.linspace(0, len(data.test) - 1, min(n, len(data.test))).long()
    some = data.test.select(rows)
    examples = []
    for i, (_, x, y) in enumerate(data.batches(some, 1)):
        shown = some.texts[i] if some.texts else some.x[i].cpu()
        truth = None if some.truth is None else some.truth[i].cpu()
        examples.append(Example(x, shown, f"test {rows[i]}", data.classes[y], truth))
    return examples


@torch.no_grad()
def ask(network, example):
    """-> probabilities (C,), mask (N,)."""
    out = network.eval()(example.x)
    return out.logits[0].float().softmax(-1).cpu(), out.mask[0].cpu()


def answer(probabilities, classes):
    confidence, label = probabilities.max(0)
    return f"{classes[label]}, {confidence:.0%}"


def readings(example, networks, classes):
    """The true rationale, where known, and those of networks {name: Rationalist}
    -> [(name, what it says, mask (N,)), ...]"""
    found = [] if example.truth is None else [("truth", "", example.truth)]
    for name, network in networks.items():
        probabilities, mask = ask(network, example)
        is_wrong = example.label not in ("", classes[probabilities.argmax()])
        says = "WRONG: " * is_wrong + answer(probabilities, classes)
        found.append((name, says, mask))
    return found


def show(path, networks, examples, info):
    """What networks make of examples: path.png of images, path.html of texts."""
    if info["input"]["kind"] == "text":
        path = f"{path}.html"
        write_text(path, page(networks, examples, info))
    else:
        path = f"{path}.png"
        picture(path, networks, examples, info["classes"])
    print(f"rationales: {path}")


def picture(path, networks, examples, classes, side=128):
    """An example a row, a network a column; what was not selected is faded."""
    tiles = []
    for example in examples:
        pixels = F.interpolate(example.shown[None] / 255, size=(side, side))[0]  # nearest
        row = [(example.name, example.label, torch.ones(1)), *readings(example, networks, classes)]
        for name, says, mask in row:
            grid = mask.float().reshape(1, 1, math.isqrt(len(mask)), -1)  # (N,) -> (1, 1, g, g)
            kept = F.interpolate(grid, size=(side, side))[0]              # (1, side, side)
            faded = 0.6 + 0.25 * pixels  # dark and bright things stay visible, and look hidden
            tile = torch.where(kept > 0, pixels, faded)
            tiles.append(captioned(tile, f"{name[-21:]}\n{says[:21]}"))   # as much as fits
    save_image(tiles, path, nrow=len(row), padding=6, pad_value=1)


def captioned(tile, caption):
    """(3, H, W) -> (3, H + 32, W), with two lines of text below."""
    image = to_pil_image(F.pad(tile, (0, 0, 0, 32), value=1))
    caption = caption.encode("latin-1", "replace").decode("latin-1")  # all that PIL's font has
    ImageDraw.Draw(image).text((0, tile.shape[1]), caption, "black")
    return to_tensor(image)


STYLE = """<!doctype html><meta charset="utf-8"><style>
body { font: 16px/1.6 Georgia, serif; max-width: 46em; margin: 2em auto; padding: 0 1em }
p { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate }
mark { background: #ffe08a; outline: 1px solid #000 }
u { text-decoration: underline dotted #c00 }
small { color: #777 }
</style><p><mark>selected</mark> <u>not in the vocabulary</u> <small>beyond what is read</small></p>
"""
# How a selected, an unknown and an unread part of a text are shown: on a page, in a terminal.
PAGE = "<mark>{}</mark>", "<u>{}</u>", "<small>{}</small>"
TERMINAL = "[{}]", "{}(?)", "(not read: {})"


def page(networks, examples, info):
    """HTML: of each example its true rationale and what every network selects."""
    words = datasets.WordPiece(info["input"]["vocabulary"])
    lines = []
    for example in examples:
        lines.append(f"<h2>{html.escape(f'{example.name} {example.label}')}</h2>")
        for name, says, mask in readings(example, networks, info["classes"]):
            text = marked(example.shown, words, mask, PAGE)
            lines.append(f"<p><b>{html.escape(f'{name}: {says}')}</b>\n{text}</p>")
    return STYLE + "\n".join(lines)


def marked(text, words, mask, forms, escape=html.escape):
    """The text with what the mask (T,), from [CLS] to [SEP], selects of its tokens, in these forms.

    words: the WordPiece that made them.
    """
    selected, unknown, unread = forms
    parts, done = [], 0
    for keep, (i, start, end) in zip(mask[1:-1], words.tokens(text)):
        token = escape(text[max(start, done):end])
        if i == words.ids["[UNK]"]:
            token = unknown.format(token)
        parts += [escape(text[done:start]), selected.format(token) if keep else token]
        done = max(end, done)
    rest = escape(text[done:])
    return "".join(parts) + (unread.format(rest) if rest.strip() else rest)


def explain(args):
    """--explain: the rationales of the user's own files and folders, printed, pictured, and a line
    each in explained.jsonl. What cannot be read is named, and the others are answered."""
    model, info = models.load(args.checkpoint, args.device)
    networks = {info["config"]["method"].upper(): model}
    vocabulary = info["input"].get("vocabulary")
    words = vocabulary and datasets.WordPiece(vocabulary)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    examples, lines, paths = [], [], files_of(args.explain)
    for path in paths:
        try:
            example = read_example(path, info["input"], args.device)
        except UserError as error:
            print("train.py:", printable(str(error)), file=sys.stderr)
            continue
        lines.append(json.dumps(explained(example, model, info["classes"], words)))
        if len(examples) < 64:  # a picture of more is too long to look at
            examples.append(example)
    if lines:
        write_text(out / "explained.jsonl", "\n".join(lines) + "\n")
        show(out / "explained", networks, examples, info)
    if not lines or len(lines) < len(paths):
        fail(f"{len(lines)} of {len(paths)} files were read: give {info['input']['kind']}s, as in "
             "training")


def files_of(paths):
    """Files, and those in folders."""
    found = []
    for path in map(Path, paths):
        found += datasets.files_in(path) if path.is_dir() else [path]
    return found


def read_example(path, input, device):
    is_text = input["kind"] == "text"
    shown = datasets.read_text(path) if is_text else datasets.read_image(path)
    return Example(datasets.read_input(path, input).to(device), shown, str(path))


def explained(example, model, classes, words):
    """Print one -> its line in explained.jsonl. words: the WordPiece of texts."""
    probabilities, mask = ask(model, example)
    line = {"file": example.name, "class": classes[probabilities.argmax()],
            "probabilities": dict(zip(classes, probabilities.tolist()))}
    if words:
        kept, text = explained_text(example, mask, words)
    else:
        side = math.isqrt(len(mask))
        kept = [divmod(i, side) for i in mask.nonzero().flatten().tolist()]
        text = "\n".join(" ".join(".#"[keep] for keep in row)
                         for row in mask.int().view(side, side).tolist())
    print(printable(f"{example.name}: {answer(probabilities, classes)}\n{text}"))
    return {**line, "kept": kept}


def explained_text(example, mask, words):
    """-> the kept words, and the text with them in brackets."""
    tokens = zip(words.tokens(example.shown), mask[1:-1])
    kept = [example.shown[start:end] for (_, start, end), keep in tokens if keep]
    text = marked(example.shown, words, mask, TERMINAL, str)
    unknown = (example.x == words.ids["[UNK]"]).sum().item()
    if unknown > (len(mask) - 2) / 2:  # without [CLS] and [SEP]
        text += f"\n(the vocabulary lacks {unknown} of these words: do not trust the answer)"
    return kept, text


# ---------------------------------------------------------------- 6. options
# An option that is not given is as in OURS, then as in a recipe (by data and start), then, with
# --paper, as in PAPER: written as one would type them, the last one wins. What PAPER sets, and
# --lambda-select, are all options in which the others depart from the paper and its release.
OURS = """
    --data-dir data --limit 0 --teacher-limit 0 --teacher-seed 2026 --masking drop --precision auto
    --batch-size 64 --least-steps 0 --weight-decay 0 --dropout 0.1 --lr-schedule decay --views 1
    --choose-by accuracy --tau-start 5 --tau-end 0.1 --schedule cosine --mask-gradient softmax
    --evaluation exact --alpha 0.5 --lambda-rationale 0.5 --lambda-prediction 1
    --teacher-reads student --kd-noise shared"""
PAPER = """
    --masking zero --precision float32 --least-steps 0 --epochs 35 --teacher-epochs 35
    --lr-schedule constant --views 0 --choose-by loss --schedule exponential
    --mask-gradient softmax --evaluation sampled --kd-noise independent"""
RECIPES = {
    "glyphs": """
        --student vit_nano --teacher vit:48:2:3 --image-size 32 --patch-size 4 --rate 0.0625
        --epochs 6 --teacher-epochs 5 --weight-decay 1e-3 --limit 64 --least-steps 300""",
    "phrases": """
        --student bert_nano --teacher bert_micro --max-length 32 --rate 0.15
        --epochs 5 --teacher-epochs 4 --limit 250 --least-steps 300""",
    "image pretrained": """
        --student vit_tiny --teacher vit_base --image-size 224 --patch-size 16 --rate 0.15
        --batch-size 32 --epochs 35 --teacher-epochs 35 --weight-decay 1e-3 --views 4""",
    "text pretrained": """
        --student bert_mini --teacher bert_base --max-length 256 --rate 0.10
        --batch-size 32 --epochs 35 --teacher-epochs 35 --dropout 0.5""",
    # A bigger teacher learned less from 2,000 or 10,000 images.
    "image scratch": """
        --student vit_micro --teacher vit_micro --image-size 32 --patch-size 4 --rate 0.15
        --epochs 10 --teacher-epochs 10 --least-steps 9000 --weight-decay 1e-3 --views 100
        --mask-gradient balanced""",
    "text scratch": """
        --student bert_micro --teacher bert:128:2:4 --max-length 128 --rate 0.10
        --epochs 4 --teacher-epochs 4 --least-steps 1000""",
}
# The paper's lambda_select for 196 patches or 256 tokens; of other presets the last two.
LAMBDA_SELECT = {"vit_base": 5e-3, "vit_tiny": 5e-2, "bert_base": 5e-5, "bert_tiny": 2e-4,
                 "image": 1e-2, "text": 1e-4}

METHODS = ("cls", "kd", "re", "rekd")
SELECTING = ("re", "rekd")  # those that have a generator
TAUGHT = ("kd", "rekd")     # those that have a teacher
# Options of a command, not of a run; and those that stand at the beginning of a folder's name.
COMMAND = "student compare seeds resume out device checkpoint explain sizes told folder".split()
NAMED = "dataset role kind method paper seed".split()
PROBLEM = "data_dir image_size patch_size max_length rate masking precision".split()


def make_parser():
    parser = argparse.ArgumentParser(
        usage="python train.py [options]", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Options that are not given: {OURS}\nWith --paper: {PAPER}\nBy data and start: see "
               "RECIPES in train.py.")
    parser.error = fail

    add = parser.add_argument_group("command").add_argument
    add("--dataset", default="glyphs",
        help="glyphs, phrases, cifar10, cifar100, cifar100_coarse, imdb, or a folder of --data-dir")
    add("--student", metavar="PRESET", help="of models.py, or vit:DIM:DEPTH:HEADS or bert:...")
    add("--method", choices=METHODS, help="what to train (default: rekd)")
    add("--compare", action="store_true", help="train a student by every method and compare them")
    add("--paper", action="store_true", help="options in which ours depart are as in the paper")
    add("--seed", type=whole, default=2026, help="of initialisation, order, noise (default: 2026)")
    add("--seeds", type=few, default=1, help="repeat with --seed, --seed + 1, ...; the paper: 10")
    add("--resume", action="store_true", help="go on with an interrupted run of the same command")
    add("--out", default="runs", metavar="FOLDER", help="where runs are written (default: runs)")
    add("--device", default="auto", help="auto (cuda where there is one), cpu, cuda, ...")
    add("--checkpoint", metavar="FILE", help="best.pt of a finished run, for --explain")
    add("--explain", nargs="+", metavar="FILE", help="print and picture the rationales of files")

    add = parser.add_argument_group("problem", "of a teacher and its student").add_argument
    add("--data-dir", metavar="FOLDER", help="of data sets")
    add("--image-size", type=count, help="pixels a side that the model sees; the paper: 224")
    add("--patch-size", type=count, help="pixels a side of a patch; the paper: 16")
    add("--max-length", type=count, help="tokens of a text, the rest is cut; the paper: 256")
    add("--rate", type=share, help="of the features to select; the paper: .15 CIFAR, .10 IMDB")
    add("--masking", choices=["zero", "drop"],
        help="what hides the rest: content times 0 (the paper), or no attention to it (ours)")
    add("--precision", choices=["auto", "float32", "bfloat16"],
        help="of the networks; auto (ours): bfloat16 on CUDA; the paper: float32")
    add("--teacher-checkpoint", metavar="FILE", help="best.pt of a finished RE run as the teacher")

    add = parser.add_argument_group("training").add_argument
    add("--init", metavar="START", help="pretrained, scratch, or a file of weights; default: "
                                        "pretrained where there are published ones")
    add("--limit", type=whole, help="labelled examples of a student, drawn by --seed; 0: all")
    add("--unlabelled", action="store_const", const=True,
        help="the rest of the training set stays, without labels, for what the teacher says of it")
    add("--epochs", type=count, help="passes over the training set; the paper: 35, CLS 20")
    add("--least-steps", type=whole, help="more epochs for a small set, unless --epochs is given")
    add("--batch-size", type=count, help="examples a step, fewer of a small set; the paper: 32")
    add("--lr", type=positive, help="of AdamW; ours: 1e-3 from scratch, else the paper's 1e-5")
    add("--lr-schedule", choices=["constant", "decay"],
        help="constant (the paper), or down to 0 over the last 40 %% of the steps (ours)")
    add("--weight-decay", type=number, help="of AdamW; the paper: 1e-3 for ViT, 0 for BERT")
    add("--dropout", type=below_one, help="in the heads; the paper: .1 for ViT, .5 for BERT")
    add("--views", type=whole, help="crop and flip images in so many ways, one an epoch, then "
                                    "again; 0: ever new ones (the paper)")
    add("--choose-by", choices=["accuracy", "loss"],
        help="the checkpoint, on dev: the highest balanced accuracy once the rate has arrived "
             "(ours), the lowest L_RE (the release)")

    add = parser.add_argument_group("rationales").add_argument
    add("--lambda-select", type=number,
        help="steer the rate by L_select, of this weight (the paper); ours: held without it")
    add("--tau-start", type=positive, help="temperature at the first step")
    add("--tau-end", type=positive, help="temperature at the last step")
    add("--schedule", choices=["cosine", "exponential", "linear", "constant"],
        help="of the temperature; ours: cosine; the paper: exponential")
    add("--mask-gradient", choices=["balanced", "softmax"],
        help="softmax: of the Gumbel-Softmax (the paper); balanced: ours for images from scratch")
    add("--evaluation", choices=["exact", "sampled"],
        help="masks of exactly the rate, without noise (ours), or sampled (the release)")

    add = parser.add_argument_group("distillation").add_argument
    add("--alpha", type=share, help="weight of L_RE against L_KD: .5; with --unlabelled .5 x the "
                                    "share that has labels, unless L_select steers the rate")
    add("--lambda-rationale", type=number, help="weight of L_KD_R in L_KD")
    add("--lambda-prediction", type=number, help="weight of L_KD_Y in L_KD")
    add("--teacher-reads", choices=["teacher", "student"],
        help="whose rationale its predictor reads: its student's (ours, the release), or its own "
             "(the paper's figure), which costs less")
    add("--kd-noise", choices=["shared", "independent"],
        help="Gumbel noise of teacher and student in L_KD_R; the release: independent")

    add = parser.add_argument_group("teacher").add_argument
    add("--teacher", metavar="PRESET", help="without --student, only the teacher is trained")
    add("--teacher-init", metavar="START", help="as --init")
    add("--teacher-epochs", type=count, help="as --epochs")
    add("--teacher-limit", type=whole, help="labelled examples of the teacher; 0: all")
    add("--teacher-seed", type=whole, help="as --seed, whatever the student's")
    return parser


def limited(kind, low, high):
    """-> the type of an option: a number from low to high."""
    name = "a whole number" if kind is int else "a number"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {name} from {low} to {high}, not {text}")
        return value
    return parse


whole = limited(int, 0, 10**9)
count = limited(int, 1, 10**6)
few = limited(int, 1, 20)
number = limited(float, 0, 1e9)
positive = limited(float, 1e-30, 1e9)
share = limited(float, 0, 1)
below_one = limited(float, 0, 0.99)


def parse_args():
    args = make_parser().parse_args()
    if bool(args.explain) != bool(args.checkpoint):
        fail("--checkpoint best.pt goes with --explain FILE ...: give both")
    is_alone = args.teacher and not args.student and not args.compare
    args.role = "teacher" if is_alone else "student"  # whom the command trains
    if is_alone and (args.method not in (None, "re") or args.teacher_checkpoint):
        fail("without --student only the teacher is trained: --method and --teacher-checkpoint "
             "want one")
    if is_alone:  # --teacher-epochs is then the same as --epochs
        for key in ("init", "epochs", "limit", "seed"):
            own = vars(args).pop(f"teacher_{key}")
            if own is not None:
                setattr(args, key, own)
    if args.compare and args.method:
        fail("--compare trains all methods: leave --method out")
    args.method = args.method or ("re" if is_alone else "rekd")
    args.kind = datasets.kind_of(args.dataset, args.data_dir or "data")
    args.sizes, args.told = datasets.sizes_of(args.dataset, args.data_dir or "data")
    for key in ["max_length"] if args.kind == "image" else ["image_size", "patch_size", "views"]:
        if getattr(args, key) is not None:
            fail(f"{args.dataset} holds {args.kind}s: leave --{key.replace('_', '-')} out")
    return args


def fail(message):
    print("train.py:", printable(str(message)).replace("\n", " "), file=sys.stderr)
    sys.exit(2)


def parse(*lines):
    """Lines of options, as one would type them; the last one wins."""
    return make_parser().parse_args(" ".join(lines).split())


def start_of(args, preset, init):
    """Where a network starts: "scratch", "pretrained" or a file. init: as it was given, or None."""
    is_published = preset in (None, *models.HUB) and args.dataset not in datasets.BUILT_IN
    return init or ("pretrained" if is_published else "scratch")


def recipe_of(args, start):
    start = "scratch" if start == "scratch" else "pretrained"
    return RECIPES.get(args.dataset) or RECIPES[f"{args.kind} {start}"]


def make_config(args, role, method, seed, n=10**9):
    """All that one run depends on, and its folder, which bears the options as they were given.

    n: the number of training examples, which decides that of steps.
    """
    start = start_of(args, getattr(args, args.role), args.init)  # of whom the command trains
    recipe, given = recipe_of(args, start), given_options(args, role)
    config = parse(OURS, recipe, PAPER * args.paper)
    preset = getattr(args, role) or getattr(config, role)
    if role == "teacher":
        config.epochs, config.limit = config.teacher_epochs, config.teacher_limit
    elif args.paper and method == "cls":
        config.epochs = 20
    if start == "scratch":
        vars(config).update(args.sizes)
    config.init = start if role == args.role else start_of(args, preset, args.teacher_init)
    if config.init == start_of(args, preset, None):
        given.pop("init", None)  # the same run, whether it was said or not
    config.lr = 1e-3 if config.init == "scratch" else 1e-5  # at 1e-3, published weights are lost
    vars(config).update(given, role=role, method=method, preset=preset, seed=seed, kind=args.kind,
                        dataset=args.dataset, paper=args.paper)
    if args.paper and config.lambda_select is None:
        config.lambda_select = paper_lambda_select(config)
    fit_to_size(config, n, given)

    name = f"{role}-{method}-{short(preset)}-seed{seed}" + "-paper" * args.paper
    if recipe != recipe_of(args, config.init):
        name += f"-for-{start}"  # a teacher has the recipe of its student
    for key, value in sorted(given.items()):
        name += f"-{key.replace('_', '')}{short(value)}"
    if len(name) > 200:  # a disk takes 255
        name = f"{name[:180]}-{short('/' + name)}"
    config.folder = Path(args.out, args.dataset, name)
    return config


def fit_to_size(config, n, given):
    """Sets what depends on n, the number of training examples, and was not given: for a small set
    more epochs and smaller batches, for few labels among many unlabelled examples a lower alpha."""
    labelled = min(n, config.limit or n)
    if not config.unlabelled:
        n = labelled
    elif "alpha" not in given and config.lambda_select is None:  # L_select needs its whole weight
        config.alpha *= labelled / n  # at .5 a mean over few labels drowns what the teacher says
    config.batch_size = min(config.batch_size, n)
    if "batch_size" not in given:  # four batches at least, each a multiple of 8
        config.batch_size = min(config.batch_size, 8 * max(n // 32, 1))
    if config.batch_size % WORLD:
        raise UserError(f"{WORLD} processes cannot share {config.batch_size} examples: choose a "
                        f"--batch-size that {WORLD} divides")
    config.steps = n // config.batch_size  # an incomplete batch is left out
    if "epochs" not in given:
        config.epochs = max(config.epochs, min(config.least_steps // config.steps, 100))
    config.total_steps = config.epochs * config.steps


def given_options(args, role):
    """The options of the command line that a run has. A student's never touch its teacher, but
    those of the problem; a teacher's own begin with --teacher."""
    given = {key: value for key, value in vars(args).items()
             if value is not None and key not in (*COMMAND, *NAMED)}
    if role == "student":
        return given
    if role == args.role:  # its command gives it all but its preset, as --teacher
        return {key: given[key] for key in given if key != "teacher"}
    own = {"epochs": args.teacher_epochs, "init": args.teacher_init, "limit": args.teacher_limit}
    own.update((key, given.get(key)) for key in PROBLEM)
    return {key: value for key, value in own.items() if value is not None}


def paper_lambda_select(config):
    weight = LAMBDA_SELECT.get(config.preset, LAMBDA_SELECT[config.kind])
    if (config.preset, config.method) == ("vit_tiny", "rekd"):
        weight = 1e-2
    usual = 196 if config.kind == "image" else 256
    return weight * (usual / num_features(config)) ** 2  # L_select is of a squared count


def short(value):
    """An option's value in a folder's name; a path as a hash."""
    text = str(value).replace(":", "_")
    if re.fullmatch(r"[\w.+-]{1,24}", text):
        return text
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def recorded(config):
    """The options of a run: what config.json and a checkpoint hold, beside what its teacher is."""
    return {key: value for key, value in vars(config).items()
            if value is not None and key not in COMMAND
            and (key == "teacher_reads" or not key.startswith("teacher"))}


# ---------------------------------------------------------------- 7. start
def check_start(args, teachers, runs):
    """What the networks start from is looked up before the data: a typo should not cost hours.
    -> the vocabulary of texts: as the student's weights ask for, or else, from scratch, its
    teacher's, so that all methods read the same. None: the words of the texts."""
    if args.resume and not any(config.folder.exists() for config in teachers + runs):
        raise UserError(f"nothing to resume: no run with these options in {runs[0].folder}")
    known = None
    if args.teacher_checkpoint:
        known = models.load(args.teacher_checkpoint)[1]["input"].get("vocabulary")
    found = []
    for config in runs[:1] + teachers:
        wanted = {"image": "vit", "text": "bert"}[args.kind]
        if models.parse_preset(config.preset)[0] != wanted:
            raise UserError(f"{config.preset} does not read {args.kind}s: take a {wanted} preset")
        vocabulary = vocabulary_of(config)
        found += [vocabulary] if vocabulary else []
        # Sizes that do not fit together: shapes alone, no weights.
        words = datasets.WordPiece(vocabulary).vocabulary if vocabulary else ["any"]
        make_model(config, 2, words, device="meta")
    return found[0] if found else known


def vocabulary_of(config):
    """Of texts, where the start is published weights: the file of the words that they know."""
    if config.kind == "image" or config.init == "scratch":
        return None
    if config.init == "pretrained":  # all published BERTs here share one
        return datasets.fetch_hub(models.HUB["bert_base"], "vocab.txt", read=datasets.WordPiece)
    for name in ("vocab.txt", "tokenizer.json"):
        vocab = Path(config.init).with_name(name)
        if vocab.exists():
            return vocab
    raise UserError(f"no vocab.txt or tokenizer.json beside {config.init}: put its words there")


def weights_file(init, preset):
    """The published weights of a preset (downloaded once), or the user's own file."""
    if init != "pretrained":
        return init
    if preset not in models.HUB:
        raise UserError(f"no published weights for {preset}: choose one of "
                        f"{', '.join(models.HUB)}, or --init scratch, or --init FILE")
    return datasets.fetch_hub(models.HUB[preset], "model.safetensors", "pytorch_model.bin",
                              read=lambda path: models.read_weights(path, "file of weights"))


def load_data(args, config, vocabulary):
    """The data of the command, and in words what a network will see of them."""
    data = datasets.load_dataset(
        config.dataset, config.data_dir, image_size=config.image_size,
        patch_size=config.patch_size, max_length=config.max_length, vocab=vocabulary,
        device=args.device)
    told = f"data: {data.name}, {len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test"
    told += f", {len(data.classes)} classes, {num_features(config)} features"
    if is_uneven(data):
        counts = data.train.y.bincount().tolist()
        told += "; " + ", ".join(f"{n} {name}" for name, n in zip(data.classes, counts))
    unseen = [name for c, name in enumerate(data.classes) if c not in data.dev.y]
    if unseen:
        told += f"; dev, which chooses the checkpoint, has none of {', '.join(unseen)}"
    if data.test.truth is not None:
        told += f"; true rationales of {int(data.test.truth.any(1).sum())} test examples"
    if args.told:
        told += f"; {args.told}, "
        told += (f"read as {config.image_size} x {config.image_size} in patches of "
                 f"{config.patch_size}" if args.kind == "image" else
                 f"max length {config.max_length}")
    if config.limit:
        told += f"; a {config.role} has {config.limit} of the labels, drawn by --seed"
    print(textwrap.fill(printable(told), 99))
    return data


def choose_device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if WORLD > 1 and name == "cuda":  # each process has its own
            name = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(name)
        x = torch.zeros(1, device=name)
        x.item()  # an old GPU may hold a tensor, but compute nothing
        return x.device
    except Exception:  # RuntimeError, AssertionError, ImportError: each device has its own
        raise UserError(f"no device {name!r} here: use --device auto or cpu, or fewer processes"
                        ) from None


def hardware(device):
    if device.type == "cuda":
        return f"{WORLD} x {torch.cuda.get_device_name(device)}"
    return f"{WORLD} x {platform.machine()} CPU, {torch.get_num_threads()} threads"


def wait():
    """Until all processes are here."""
    if WORLD > 1:
        dist.barrier()


def main():
    # A user's text may hold what the terminal cannot show; a pipe wants each line as it comes.
    # Either stream may be closed.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w")  # noqa: SIM115
                              for stream in (sys.stdout, sys.stderr))
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    if RANK > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    args = parse_args()
    args.device = choose_device(args.device)
    print(f"device: {hardware(args.device)}")
    if args.explain:
        return explain(args)
    if WORLD > 1:  # NCCL on GPUs, gloo on CPUs; the others wait while the first downloads
        backend = "nccl" if args.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))
    experiment(args)
    if WORLD > 1:
        dist.destroy_process_group()


def cli():
    """A user's mistake is exit code 2 and one line, never a traceback; Ctrl-C is 130."""
    try:
        main()
    except UserError as error:
        fail(error)
    except OSError as error:  # a folder that cannot be written, an output that is closed
        fail(f"{error.filename or 'the output'}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on after the last finished epoch",
              file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not re.search("MemoryError|out of memory|can't allocate memory", repr(error)):
            raise
        fail("the memory is full: lower --batch-size, --image-size, --max-length or the model")


if __name__ == "__main__":
    cli()
