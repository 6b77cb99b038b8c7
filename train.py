"""Train rationale models: a teacher, and students that learn from it (REKD, arXiv 2601.22531).

    python train.py                                          a teacher, then its REKD student
    python train.py --compare                                CLS, RE and REKD students in one table
    python train.py --compare --seeds 6                      mean +- std over seeds, and a test
    python train.py --dataset phrases --compare              the same for text
    python train.py --dataset cifar10 --student vit_tiny     the paper's student; its teacher first
    python train.py --dataset cifar10 --teacher vit_base     no --student: only the teacher
    torchrun --nproc_per_node=4 train.py --dataset cifar10   on four GPUs; to 1e-5 the same losses
    python train.py --explain FILE ... --checkpoint runs/.../best.pt    your own images or texts
    python train.py --judge --checkpoint runs/.../best.pt    how good are a model's rationales?

Three kinds of model are compared. CLS: the predictor alone, on the whole input. RE: generator and
predictor, trained by L_RE. REKD: the same, trained by L_REKD with a frozen RE teacher. Without
--dataset, the data is the built-in glyphs: --compare takes a minute or two on two CPU cores, and
each student reaches an accuracy of .99 (results/first.txt). A run leaves its options, log,
checkpoints and a picture in runs/<dataset>/<role>-<method>-<preset>-seed<k>/; --resume goes on
after an interruption.

Read down to "options": one epoch, one run, its teacher, the experiment, several processes. The
table, pictures, --explain and --judge are in results/.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

import data as datasets
import models
import rekd
from data import UserError, write_atomically
from models import HUB, check_weights, load, read_dict, require
from results import pictures, tables
from results.progress import Progress, hardware, warn_if_long

LARGE = 128  # examples a batch where nothing is learned
# Which of how many processes this is: the first of one, unless torchrun says otherwise.
TORCHRUN = os.environ if "TORCHELASTIC_RUN_ID" in os.environ else {}
RANK = int(TORCHRUN.get("RANK", 0))
WORLD = int(TORCHRUN.get("WORLD_SIZE", 1))


# ---------------------------------------------------------------- 1. one epoch, and its evaluation
def train_epoch(model, teacher, data, optimizer, config, epoch, progress):
    """One pass over the training set -> tau and lr at its end, and the mean of each loss, by name.

    Nothing in the loop reads a value from the device, so that the host can run ahead.
    """
    # All that is random in an epoch depends on (seed, epoch): a resumed run needs no random state.
    torch.manual_seed(((config.seed + 1) << 20) + epoch)
    order = torch.randperm(len(data.train))[:config.steps * config.batch_size]
    batches = data.batches(data.train, config.batch_size, order, view=epoch)
    history = []
    for step, (rows, x, y) in enumerate(batches, start=epoch * config.steps):
        tau = rekd.temperature(step, config.total_steps, start=config.tau_start,
                               end=config.tau_end, shape=config.schedule)
        known = teacher and teacher.answers(epoch, rows, x)
        with autocast(x.device, config.precision):
            losses = step_losses(model, teacher, known, x, y, step, tau, config)
        lr = optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        history.append(torch.stack([loss.detach() for loss in losses.values()]))
        progress.step()
    history = torch.stack(history)  # (steps, losses)
    means = dict(zip(losses, history.mean(0).tolist(), strict=True))
    finite = history[:, 0].isfinite().tolist()
    finite.append(all(p.isfinite().all() for p in model.parameters()))  # after the last step
    if not all(finite):
        step = epoch * config.steps + finite.index(False)
        raise UserError(f"the loss or a weight is not finite at step {step} (epoch {epoch + 1}): "
                        f"lower --lr or use defaults; {config.folder} keeps the epochs before")
    return {"tau": tau, "lr": lr, **means}


def learning_rate(step, config):
    """Constant (the paper), or `decay`: constant, then down to 0 over the last 40 % of the steps.

    At low tau the softmax's gradient of a mask grows (1 / tau) and shakes what was learned.
    """
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * min(1, (1 - step / config.total_steps) / 0.4)


def step_losses(model, teacher, known, x, y, step, tau, config):
    """The losses of one step, by the method -> {name: scalar}."""
    if config.method == "cls":
        return rekd.cls_losses(model, x, y)
    rate = config.rate
    if config.lambda_select is None:
        rate = rekd.annealed_rate(step, config.total_steps, rate)
    features = x.shape[1] if x.ndim == 2 else num_features(config)
    sampling = {"tau": tau, "rate": rate, "lambda_select": config.lambda_select,
                "noise_scale": tau if config.noise == "annealed" else 1.0,
                "balanced": config.mask_gradient == "balanced",
                "packed": packed_length(features, rate, config)}
    if config.method == "re":
        return rekd.re_losses(model, x, y, **sampling)
    return rekd.rekd_losses(
        model, teacher.network, x, y, **sampling, alpha=config.alpha,
        lambda_rationale=config.lambda_rationale, lambda_prediction=config.lambda_prediction,
        teacher_reads=config.teacher_reads, kd_noise=config.kd_noise, known=known)


def packed_length(features, rate, config):
    """How many features a predictor computes in training; None with `zero`, which needs all.

    A sampled mask has rate * N features on average; three standard deviations more are enough for
    nearly all examples. The schedule alone tells it, so that nothing waits for the device.
    """
    if config.masking == "zero":
        return None
    if config.lambda_select is not None:
        return features  # the count of an example is not held
    mean = max(rate * features, 1)
    return min(features, math.ceil(mean + 3 * mean**0.5))


def autocast(device, precision):
    """Chosen outside the networks, which do not know of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def evaluate(model, data, split, config):
    """-> dict: accuracy, selection rate and, where the truth is known, agreement with it.

    With the mask of evaluation, see Rationalist. The model's mode stays as it was.
    """
    was_training = model.training
    model.eval()
    found = []
    for _, x, y in data.batches(split, LARGE):
        with autocast(x.device, config.precision):
            out = model(x)
        correct = out.logits.argmax(1) == y
        found.append((correct, widen(out.mask, data), widen(model.selectable(x), data)))
    model.train(was_training)
    correct, mask, selectable = map(torch.cat, zip(*found, strict=True))
    # A count, not a float32 mean: ties between seeds must stay ties.
    result = {"accuracy": correct.sum().item() / len(split), "examples": len(split),
              **rekd.selection_stats(mask, selectable)}
    if split.truth is not None and config.method != "cls":
        result.update(rekd.agreement(mask, split.truth, selectable))
    return result


def widen(mask, data):
    """(B, T) -> (B, max_length): batches of texts differ in length. Of images, nothing changes."""
    return F.pad(mask, (0, data.input.get("max_length", mask.shape[1]) - mask.shape[1]))


# ---------------------------------------------------------------- 2. one run
def train(config, teacher, data):
    """One run, from its first epoch or from last.pt on -> its result (also in result.json)."""
    held = claim(config) if RANK == 0 else None  # until this function ends
    wait()
    if config.resume and is_finished(config.folder):
        print(f"{config.folder}: finished before")
        return read_result(config, teacher, data)
    torch.manual_seed(config.seed)
    model, shape = make_model(config, len(data.classes), data.input.get("vocabulary"))
    model.to(config.device)
    if config.compile:
        model.generator.compile()  # in place: the names of the weights stay
        model.predictor.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr,
                                  weight_decay=config.weight_decay, fused=True)
    origin = {"fingerprint": data.fingerprint, "teacher": teacher and teacher.record}
    log, best = resume(config, model, optimizer, teacher, data)
    network = shared(model)
    warn_if_long(network, data, config)
    progress = Progress(config, len(log))
    for epoch in range(len(log), config.epochs):
        start = time.time()
        losses = train_epoch(network, teacher, data, optimizer, config, epoch, progress)
        seconds = time.time() - start
        dev = evaluate(network, data, data.dev, config)
        line = {"epoch": epoch + 1, **losses, **dev, "seconds": round(time.time() - start, 3),
                "examples_per_s": round(config.steps * config.batch_size / seconds, 1)}
        log.append(line)
        checkpoint = {"weights": model.state_dict(), "model": shape, "config": recorded(config),
                      "classes": data.classes, "input": data.input, "metric": dev,
                      "epoch": epoch + 1, **origin}
        if dev["accuracy"] >= best:  # a tie goes to the later epoch
            best = dev["accuracy"]
            save(config.folder / "best.pt", checkpoint)
        write_text(config.folder / "log.jsonl", "".join(json.dumps(x) + "\n" for x in log))
        save(config.folder / "last.pt",
             {**checkpoint, "optimizer": optimizer.state_dict(), "best": best, "log": log})
        progress.epoch(line)
    result = finish(config, log, data, origin)
    if held:
        held.close()
    return result


def make_model(config, num_classes, vocabulary, device="cpu"):
    """-> a model as it is before training, and the arguments of models.build."""
    shape = {"preset": config.preset, "method": config.method, "num_classes": num_classes,
             "dropout": config.dropout, "masking": config.masking,
             "rate": None if config.method == "cls" else config.rate,
             **input_shape(config, vocabulary)}
    with torch.device(device):
        model = models.build(**shape)
    if config.init != "scratch":  # both networks begin with the same weights
        models.initialise(model, weights_file(config.init, config.preset))
    return model, shape


def input_shape(config, vocabulary):
    """What a network must know of its input, see models.build."""
    if config.kind == "image":
        return {"image_size": config.image_size, "patch_size": config.patch_size}
    return {"vocab_size": len(vocabulary), "max_len": config.max_length}


def is_finished(folder):
    """A clone may hold the result of a run without its weights."""
    return (folder / "result.json").exists() and (folder / "best.pt").exists()


def claim(config):
    """The run's folder -> a file that locks it. A run with other options is never overwritten; one
    with the same is begun anew, unless --resume goes on with it."""
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    held = (folder / ".lock").open("w")
    if datasets.lock(held) is False:
        raise UserError(f"{folder} is in use by another process: wait, or choose another --out")
    path = folder / "config.json"
    options = recorded(config)
    if path.exists() and read_dict(path, "config", "remove this run's folder") != options:
        raise UserError(f"{folder} holds a run with other options: remove it, or change --out")
    datasets.remove_parts(folder)
    datasets.remove_parts(folder.parent)
    write_text(path, json.dumps(options, indent=1) + "\n")
    if not config.resume:
        for name in ("result.json", "log.jsonl", "last.pt", "best.pt"):
            (folder / name).unlink(missing_ok=True)
    return held


@contextlib.contextmanager
def checking(path, advice):
    """Whatever fails in here, a file of ours is the reason: it was altered by hand. Only data.py's
    UserError passes, as raised in this file; that of `require`, from models.py, is one reason."""
    try:
        yield
    except UserError:
        raise
    except Exception:  # such a file can be wrong in a dozen ways
        raise UserError(f"{path} is damaged: {advice}") from None


def read_result(config, teacher, data):
    """The result of a finished run. That the table can show it is the test of it."""
    path = config.folder / "result.json"
    advice = "remove it to measure again"
    result = read_dict(path, "result", advice)
    with checking(path, advice):
        check_origin(result, config, teacher, data)
        tables.table("", {config.method: [result]})
        test = result["test"]
        require(all(map(math.isfinite, [test["accuracy"], test["rate_mean"], test["examples"]])),
                "they are no numbers")
        if result["test_fingerprint"] != data.test_fingerprint:
            raise UserError(f"{path} is of other test data: {advice}")
    return result


def resume(config, model, optimizer, teacher, data):
    """From last.pt, if there is one -> the log's lines so far, the best dev accuracy."""
    path = config.folder / "last.pt"
    advice = "remove it to start this run again"
    if not path.exists():
        return [], 0.0
    last = read_dict(path, "checkpoint", advice, config.device)
    with checking(path, advice):
        check_origin(last, config, teacher, data)
        check_weights(last["weights"], model.state_dict())
        model.load_state_dict(last["weights"])
        # Only the optimiser's running averages: its options are those of this command.
        averages = last["optimizer"]["state"]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": averages})
        for p in model.parameters():
            check_weights(optimizer.state[p], {"exp_avg": p, "exp_avg_sq": p,
                                               "step": torch.zeros(())})
        log, best = last["log"], float(last["best"])
        epochs = [line["epoch"] for line in log]
        require(log and epochs == [*range(1, config.epochs + 1)][:len(log)],
                "not one line for each epoch so far")
        # What would fail when the run is finished fails now; so does a number that is not finite.
        json.dumps([log, best, total_seconds(log)], allow_nan=False)
    load(config.folder / "best.pt")
    print(f"{config.folder}: resumed after epoch {len(log)}")
    return log, best


def total_seconds(log):
    return round(math.fsum(line["seconds"] for line in log), 1)


def check_origin(record, config, teacher, data):
    """A run goes on only with the data and under the teacher that it began with."""
    if record["fingerprint"] != data.fingerprint:
        raise UserError(f"{config.folder} was begun on other training data: leave --resume out")
    theirs = record["teacher"]
    if teacher and theirs["sha256"] != teacher.record["sha256"]:
        raise UserError(f"{config.folder} was begun under another teacher, {theirs.get('path')}: "
                        f"leave --resume out")


def finish(config, log, data, origin):
    """Measure the best checkpoint on the test set, once -> result; its file is written last."""
    wait()  # best.pt is written by the first process
    model, info = load(config.folder / "best.pt", config.device)
    test = evaluate(shared(model), data, data.test, config)
    result = {"test": test, "dev": info["metric"], "epoch": info["epoch"], **origin,
              "test_fingerprint": data.test_fingerprint,
              "parameters": sum(p.numel() for p in model.parameters()),
              "seconds": total_seconds(log),
              "command": shlex.join(["python", *sys.argv]),
              "versions": {"python": platform.python_version(), "torch": torch.__version__},
              "hardware": hardware(config.device, WORLD)}
    if RANK == 0:
        pictures.picture(config.folder / "rationales", data,
                         {config.method.upper(): (model, config.preset, test)})
    write_text(config.folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def save(path, content):
    write(path, lambda file: torch.save(content, file))


def write_text(path, text):
    write(path, lambda file: file.write(text.encode(errors="backslashreplace")))


# ---------------------------------------------------------------- 3. the teacher
class Teacher(NamedTuple):
    """A frozen RE model, outside its student, and what it says of each training example."""
    network: rekd.Rationalist
    keep: Tensor     # (V, n, N) keep_logits, float16, in V views of n examples
    logits: Tensor   # (V, n, C), of its own rationale, unless it reads its students'
    record: dict     # its checkpoint's path, the hash of its weights, preset, dev metrics

    def answers(self, epoch, rows, x):
        """The stored answers on x, the training examples `rows` (B,) in this epoch's view
        -> keep_logits (B, N), logits (B, C)."""
        rows = rows.to(x.device, non_blocking=True)
        view = epoch % len(self.keep)
        keep = self.keep[view, rows]
        if x.ndim == 2:
            keep = keep[:, :x.shape[1]]  # a batch of texts may be narrower
        return keep, self.logits[view, rows].float()


def get_teacher(config, views, data):
    """The one of --teacher-checkpoint, or a finished one that fits, or else a new one. It is asked
    for all views that its students will see."""
    path = agreed(config.teacher_checkpoint or find_teacher(config, data))
    if not path:
        print(f"teacher: no finished one fits, so {config.preset} is trained first")
        train(config, None, data)
        path = config.folder / "best.pt"
    vocabulary = data.input.get("vocabulary")
    network, info = models.load_teacher(path, config.device, classes=data.classes,
                                        vocabulary=vocabulary,
                                        **input_shape(config, vocabulary))
    print(f"teacher: {path}, {info['config']['epochs']} epochs, "  # it may be of a short trial
          f"dev accuracy {info['metric']['accuracy']:.3f}")
    digest = hashlib.sha256()
    for weight in network.state_dict().values():
        digest.update(weight.cpu().numpy())
    record = {"path": str(path), "sha256": digest.hexdigest(), "preset": info["model"]["preset"],
              "dev": info["metric"]}
    network = shared(network)
    answers = answers_of(network, record["sha256"], views, config, data)
    return Teacher(network, answers["keep"].to(config.device),
                   answers["logits"].to(config.device), record)


def find_teacher(config, data):
    """best.pt of a finished teacher that fits: of these very options, else the newest. Or None."""
    keys = ["preset", "init", "rate", "masking", *SHAPE[config.kind]]
    ours = [getattr(config, key) for key in keys]
    found = config.folder.parent.glob("teacher-re-*/best.pt")
    for path in sorted(found, key=lambda path: (path.parent != config.folder,
                                                -path.stat().st_mtime)):
        theirs = read_dict(path.with_name("config.json"), "config", "remove this run's folder")
        if is_finished(path.parent) and [theirs.get(key) for key in keys] == ours:
            info = load(path)[1]
            if (info["fingerprint"], info["input"]) == (data.fingerprint, data.input):
                return path
    return None


@torch.no_grad()
def answers_of(teacher, sha256, views, config, data):
    """Ask the frozen teacher once -> keep (V, n, N), logits (V, n, C), float16.

    Views are fixed, so an answer stays true; it is kept for later runs in a file that is named by a
    hash of all it depends on. (TinyViT, arXiv 2207.10666, stores a teacher's logits so; it must see
    the very view that its student sees: arXiv 2106.05237.)
    """
    n = len(data.train)
    what = (sha256, data.fingerprint, data.input, views, config.teacher_reads, config.precision,
            config.device.type)
    file = config.folder.parent / f"answers-{datasets.checksum(map(str, what))}.pt"
    answers = {"keep": torch.zeros(views, n, num_features(config), dtype=torch.float16),
               "logits": torch.zeros(views, n, len(data.classes), dtype=torch.float16)}
    known = agreed(read_answers(file, answers))
    if known:
        return known
    print(f"asking the teacher about {n} examples, each in {views} views")
    for view in range(views):
        batches = tqdm(data.batches(data.train, LARGE, view=view), f"view {view + 1}",
                       math.ceil(n / LARGE), leave=False, disable=RANK > 0 or None)
        for rows, x, _ in batches:
            with autocast(x.device, config.precision):
                keep, logits = rekd.ask(teacher, x, config.teacher_reads)
            answers["keep"][view, rows] = widen(keep, data).half().cpu()
            if logits is not None:
                answers["logits"][view, rows] = logits.half().cpu()
    file.parent.mkdir(parents=True, exist_ok=True)
    save(file, answers)
    return answers


def read_answers(file, expected):
    """None where there are none yet, or not whole: they are asked for again."""
    with contextlib.suppress(Exception):  # a damaged file fails in a dozen ways
        answers = read_dict(file, "file of answers", "remove it")
        check_weights(answers, expected)
        return answers


def num_features(config):
    if config.kind == "image":
        return (config.image_size // config.patch_size) ** 2
    return config.max_length


# ---------------------------------------------------------------- 4. the experiment
def experiment(args):
    """What the command names: a teacher where one is needed, then methods x seeds, then a table."""
    methods = ["cls", "re", "rekd"] if args.compare else [args.method]
    runs = [make_config(args, args.role, method, args.seed + k)
            for k in range(args.seeds) for method in methods]
    teachers = [make_config(args, "teacher", "re", args.seed)] if "rekd" in methods else []
    print(f"device: {args.device}, {hardware(args.device, WORLD)}, {runs[0].precision}")
    if RANK > 0:
        wait()  # for what the first process downloads and the others then find
    vocabulary = check_start(runs, teachers)
    data = load_data(runs[0], vocabulary)
    if RANK == 0:
        wait()
    steps_after = 0
    for config in reversed(teachers + runs):
        count_steps(config, data)
        config.steps_after = steps_after  # what the command still has to do after this run
        if not (config.resume and is_finished(config.folder)):
            steps_after += config.total_steps

    views = min(runs[0].views, runs[0].epochs) if data.views else 1  # an epoch sees one
    teacher = get_teacher(teachers[0], views, data) if teachers else None
    results = {method: [] for method in methods}
    for config in runs:
        results[config.method].append(
            train(config, teacher if config.method == "rekd" else None, data))

    text = tables.table(
        f"{data.name}, test set, {args.role}s, {runs[0].preset}, seeds from {args.seed}", results)
    print(f"\n{text}\n")
    if not args.compare:
        print(f"model and picture: {runs[0].folder}")
    elif RANK == 0:
        pictures.keep_comparison(text, runs[:3], results, teacher, data)


def count_steps(config, data):
    """Sizes of a run that depend on the data."""
    config.batch_size = min(config.batch_size, len(data.train))
    if config.batch_size < WORLD:
        raise UserError(f"{WORLD} processes cannot share {config.batch_size} examples: start fewer")
    config.steps = len(data.train) // config.batch_size  # an incomplete batch is left out
    # From scratch, a small set is passed more often, up to a hundred times.
    config.epochs = max(config.epochs, min(config.least_steps // config.steps, 100))
    config.total_steps = config.epochs * config.steps


# ---------------------------------------------------------------- 5. several processes
# Under torchrun, every process does all that is written above, and has all data and all results.
# But the networks' work on a batch is shared, and only the first process prints and writes files.
# In float32, without --compile, a step's losses are those of one process to 1e-5. (But for REKD
# where the answers of its teacher are asked anew: a last bit may round them to other float16.)

def shared(model):
    if WORLD == 1:
        return model
    networks = Shared(model.generator), Shared(model.predictor)
    return rekd.Rationalist(*networks, model.rate).train(model.training)


class Shared(nn.Module):
    """A network that computes a share of each batch in each process, and then has the results of
    all: so a mask, a loss or a count is that of the whole batch. A gradient flows to the own share
    alone: DistributedDataParallel brings them together."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        if any(p.requires_grad for p in network.parameters()):
            self.network = DistributedDataParallel(network)
            self.network.register_comm_hook(None, sum_gradients)
        self.selectable = getattr(network, "selectable", None)

    def forward(self, x, *mask_and_packed):
        n = len(x)
        options = [part[share(n)] if torch.is_tensor(part) else part for part in mask_and_packed]
        with WholeBatchNoise(n):
            part = self.network(x[share(n)], *options)
        return gather(part, n)


def share(n):
    """Which of n rows this process computes: all, where an evaluation has fewer than processes."""
    if n < WORLD:
        return slice(None)
    return slice(n * RANK // WORLD, n * (RANK + 1) // WORLD)


def gather(part, n):
    """Each process's share (b, ...) -> (n, ...)."""
    if len(part) == n:
        return part
    whole = part.new_zeros(n, *part.shape[1:])
    whole[share(n)] = part.detach()
    dist.all_reduce(whole)  # the sum: where one has numbers, the others have zeros
    whole[share(n)] = part  # the same numbers, with a gradient
    return whole


def sum_gradients(_, bucket):
    """Each process has the gradient of its share. DistributedDataParallel would take the mean."""
    gradients = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return gradients.then(lambda done: done.value()[0])


class WholeBatchNoise(TorchFunctionMode):
    """Each process draws for all n examples, then takes its share: what one process would draw
    alone, whatever the number of processes."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def __torch_function__(self, function, types, args=(), options=None):
        options = options or {}
        if function not in (F.dropout, torch.rand_like):
            return function(*args, **options)
        x, *others = args
        whole = x.new_ones(self.n, *x.shape[1:])
        drawn = function(whole, *others, **options)[share(self.n)]
        return x * drawn if function is F.dropout else drawn  # dropout of ones: its mask, scaled


def wait():
    """Until all processes are here."""
    if WORLD > 1:
        try:
            dist.barrier()
        except RuntimeError:
            fail("another process has ended, and says why")


def agreed(found):
    """What the first process has found on the disk: others may look a moment later."""
    box = [found]
    if WORLD > 1:
        dist.broadcast_object_list(box)
    return box[0]


def write(path, content):
    if RANK == 0:
        write_atomically(path, content)


# ---------------------------------------------------------------- options
# Defaults of the options, by data and start. COMMON: of all; SCRATCH: random weights; PAPER:
# published weights, with the paper's batch size and epochs (where else they depart: README).
# least_steps: a small set is passed more often, up to so many steps, unless --epochs is given.
COMMON = dict(limit=None, views=1, least_steps=0, weight_decay=0.0,
              dropout=0.1, lr_schedule="decay", precision="auto", masking="drop", alpha=0.5,
              lambda_rationale=0.5, lambda_prediction=1.0, tau_start=5.0, tau_end=0.1,
              schedule="cosine", noise="constant", lambda_select=None, mask_gradient="softmax",
              teacher_reads="student", kd_noise="shared", teacher_checkpoint=None)
SCRATCH = dict(batch_size=64)
PAPER = dict(batch_size=32, epochs=35)
RECIPES = {
    "glyphs": dict(
        SCRATCH, student="vit_nano", teacher="vit:48:2:3", image_size=32, patch_size=4,
        rate=0.0625, epochs=6, weight_decay=1e-3),
    "phrases": dict(
        SCRATCH, student="bert_nano", teacher="bert_micro", max_length=32,
        rate=0.15, epochs=5, teacher_epochs=8),
    "image pretrained": dict(
        PAPER, student="vit_tiny", teacher="vit_base", image_size=224, patch_size=16, views=4,
        rate=0.15, weight_decay=1e-3),
    "text pretrained": dict(
        PAPER, student="bert_mini", teacher="bert_base", max_length=256,
        rate=0.10, dropout=0.5),
    # A bigger teacher learned less from 2,000 or 10,000 images: vit:64:4:4, see results/README.md.
    "image scratch": dict(
        SCRATCH, student="vit_micro", teacher="vit_micro", image_size=32, patch_size=4, views=100,
        rate=0.15, epochs=10, least_steps=9000, weight_decay=1e-3, mask_gradient="balanced"),
    "text scratch": dict(
        SCRATCH, student="bert_micro", teacher="bert:128:2:4", max_length=128,
        rate=0.10, epochs=4, least_steps=1000),
}

# What a run of each method depends on, beside role, method, preset and seed: what config.json
# holds; what differs from the default is part of the folder's name.
SHAPE = {"image": ["image_size", "patch_size"], "text": ["max_length"]}
DEPENDS = {"cls": ["dataset", "data_dir", "limit", "init", "views", "masking", "epochs",
                   "batch_size", "lr", "lr_schedule", "weight_decay", "dropout", "precision"]}
DEPENDS["re"] = [*DEPENDS["cls"], "rate", "lambda_select", "tau_start", "tau_end", "schedule",
                 "noise", "mask_gradient"]
DEPENDS["rekd"] = [*DEPENDS["re"], "alpha", "lambda_rationale", "lambda_prediction",
                   "teacher_reads", "kd_noise", "teacher", "teacher_init", "teacher_checkpoint"]

# All options, as --help shows them: make_parser reads them from here.
OPTIONS = """
n is a whole number, x any, both at most a billion. An option that tells no default has one by
data set: see RECIPES in train.py.

what
  --dataset NAME                 glyphs, phrases, cifar10, cifar100, cifar100_coarse, imdb, or a
                                 folder of --data-dir (default: glyphs)
  --data-dir FOLDER              where data sets are or are downloaded to (default: data)
  --limit 1 <= n                 train on a stratified sample of so many (default: all)
  --student PRESET               one of models.py, or vit:DIM:DEPTH:HEADS or bert:DIM:DEPTH:HEADS
  --teacher PRESET               as --student; without --student, only the teacher is trained
  --teacher-checkpoint FILE      best.pt of a finished RE run (default: one in --out that fits, else
                                 one is trained)
  --method cls|re|rekd           what to train (default: rekd; of a teacher re)
  --compare                      train CLS, RE and REKD students and compare them
  --seed 0 <= n <= 4294967296    of initialisation, order and noise (default: 2026, the paper's
                                 first)
  --seeds 1 <= n <= 20           repeat with --seed, --seed + 1, ...; the paper: 10 (default: 1)
  --init START                   where the model that the command names starts: pretrained, scratch,
                                 or a file of weights (default: pretrained where there are published
                                 ones)
  --teacher-init START           where a teacher starts: as --init

shape
  --image-size 1 <= n <= 4096    pixels a side that the model sees; the paper: 224
  --patch-size 1 <= n <= 4096    pixels a side of a patch, the unit of a rationale; the paper: 16
  --max-length 3 <= n <= 10000   tokens of a text, the rest is cut; the paper: 256
  --masking zero|drop            what hides the rest from the predictor: content times 0 (the
                                 paper), or no attention to it (default: drop)

method
  --rate 0 < x <= 1              share of the features to select; the paper: 0.15 for CIFAR, 0.10
                                 for IMDB
  --alpha 0 <= x <= 1            weight of L_RE against L_KD; the paper: 0.5 (default: 0.5)
  --lambda-select 0 <= x         steer the rate by L_select, of this weight, as the paper does: 5e-3
                                 to 5e-2 for ViT, 5e-5 to 2e-4 for BERT (default: held without it)
  --lambda-rationale 0 <= x      weight of L_KD_R in L_KD; the paper: 0.5 (default: 0.5)
  --lambda-prediction 0 <= x     weight of L_KD_Y in L_KD; the paper: 1 (default: 1.0)
  --tau-start 0 < x              temperature at the first step; the paper: 5 (default: 5.0)
  --tau-end 0 < x                temperature at the last step; the paper: 0.1 (default: 0.1)
  --schedule cosine|exponential|linear|constant
                                 of the temperature; the paper: exponential (default: cosine)
  --noise annealed|constant      Gumbel noise of masks: constant (the paper), or multiplied by the
                                 temperature (default: constant)
  --mask-gradient balanced|softmax
                                 of a sampled mask: that of the Gumbel-Softmax (the paper), or kept
                                 and hidden weigh alike, as for images from scratch but glyphs
  --teacher-reads teacher|student
                                 whose rationale the teacher's predictor reads; the release: student
                                 (default: student)
  --kd-noise shared|independent  Gumbel noise of the teacher in L_KD_R; the release: independent
                                 (default: shared)

optimisation
  --epochs 1 <= n <= 100000      passes over the training set; the paper: 35
  --batch-size 1 <= n <= 100000  examples a step; the paper: 32
  --lr 0 < x                     learning rate of AdamW (default: 1e-3 from scratch, else that of
                                 the paper, 1e-5)
  --lr-schedule constant|decay   constant (the paper), or down to 0 over the last 40 % of the steps
                                 (default: decay)
  --weight-decay 0 <= x          of AdamW; the paper: 1e-3 for ViT, 0 for BERT
  --dropout 0 <= x <= 0.99       in the heads; the paper: 0.1 for ViT, 0.5 for BERT
  --views 1 <= n <= 100          crop and flip an image in so many fixed ways, one an epoch, then
                                 again (from scratch 100, else 4, built in 1); the paper: ever new

machine
  --device NAME                  auto (cuda where there is one), cpu, cuda, ... (default: auto)
  --precision auto|float32|bfloat16
                                 of the networks; auto: bfloat16 on CUDA, else float32; the paper:
                                 float32 (default: auto)
  --compile                      torch.compile the networks; the first steps take minutes
  --resume                       go on with an interrupted run of the same command
  --out FOLDER                   where runs are written (default: runs)

a finished model
  --checkpoint FILE              best.pt of a finished run, for --explain or --judge
  --explain FILE ...             print and picture the rationales of image or text files
  --judge                        all masks, baselines, faithfulness, what the masks alone give away
"""


def make_parser():
    """The options as OPTIONS tells them: name, values, and after two spaces what it is for."""
    parser = argparse.ArgumentParser(
        usage="python train.py [options]", description=f"{__doc__ or ''}{OPTIONS}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error = fail
    for name, values in re.findall(r"^  (--\S+) ?(.*?)(?:  |$)", OPTIONS, re.M):
        parser.add_argument(name, help=argparse.SUPPRESS, **option_kind(values))
    parser.set_defaults(dataset="glyphs", seed=2026, seeds=1, device="auto", out="runs")
    return parser


def option_kind(values):
    """What argparse calls an option of these values."""
    if not values:
        return {"action": "store_true"}
    if "|" in values:
        return {"choices": values.split("|")}
    if "<" in values:
        return {"type": lambda text: number(values, text)}
    return {"nargs": "+"} if "..." in values else {}


def number(limits, text):
    """A number as in "0 < x <= 1"; a billion at most."""
    low, sign, kind, high = re.fullmatch(r"(\d+) (<=?) ([nx])(?: <= (\S+))?", limits).groups()
    with contextlib.suppress(ValueError):
        value = int(text) if kind == "n" else float(text)
        if float(low) <= value <= float(high or 1e9) and (value > 0 or sign == "<="):
            return value
    kind = "whole number" if kind == "n" else "number"
    raise argparse.ArgumentTypeError(f"must be a {kind} {limits}, not {text}")


def parse_args():
    args = make_parser().parse_args()
    if bool(args.explain) + args.judge != bool(args.checkpoint):
        fail("--checkpoint best.pt goes with one of --explain FILE ... and --judge: give both")
    if args.checkpoint:
        if WORLD > 1:
            fail("--explain and --judge are for one process: start them without torchrun")
        return args
    alone = args.teacher and not args.student and not args.compare
    args.role = "teacher" if alone else "student"  # whom the command trains
    if alone and (args.method == "rekd" or args.teacher_checkpoint or args.teacher_init):
        fail("without --student only the teacher is trained: --method rekd, --teacher-checkpoint "
             "and --teacher-init want one (--init is its own)")
    if args.compare and args.method:
        fail("--compare trains all three methods: leave --method out")
    if args.teacher_checkpoint and args.teacher_init:
        fail("the teacher of --teacher-checkpoint is trained: leave --teacher-init out")
    args.kind = datasets.kind_of(args.dataset, args.data_dir or "data")
    for key in ["max_length"] if args.kind == "image" else ["image_size", "patch_size", "views"]:
        if getattr(args, key) is not None:
            other = "text" if args.kind == "image" else "image"
            fail(f"--{key.replace('_', '-')} is for {other}s, {args.dataset} holds {args.kind}s")
    # Where the model that the command names starts decides the recipe, and so the presets.
    args.init = args.init or default_init(args.dataset, getattr(args, args.role))
    recipe = recipe_of(vars(args), args.kind)
    args.student = args.student or recipe["student"]
    args.teacher = args.teacher or recipe["teacher"]
    if alone:
        args.teacher_init = args.init
    args.teacher_init = args.teacher_init or default_init(args.dataset, args.teacher)
    args.method = args.method or ("re" if alone else "rekd")
    return args


def fail(message):
    hold()
    print("train.py:", str(message).replace("\n", " "), file=sys.stderr)
    sys.exit(2)


def hold():
    """Mostly all processes fail alike: the first speaks, and torchrun ends the others meanwhile."""
    time.sleep(5 * RANK)


def default_init(dataset, preset):
    published = dataset not in datasets.BUILT_IN and preset in (None, *HUB)
    return "pretrained" if published else "scratch"


def recipe_of(options, kind):
    start = "scratch" if options["init"] == "scratch" else "pretrained"
    return RECIPES.get(options["dataset"]) or RECIPES[f"{kind} {start}"]


def make_config(args, role, method, seed):
    """All that one run depends on. Its folder bears the options that differ from the default."""
    recipe = recipe_of(vars(args), args.kind)
    run = {"role": role, "method": method, "seed": seed, "preset": args.student, "init": args.init}
    defaults = {**COMMON, **recipe, "dataset": args.dataset, "data_dir": args.data_dir or "data"}
    if role == "teacher":
        run.update(preset=args.teacher, init=args.teacher_init)
        defaults["epochs"] = recipe.get("teacher_epochs", recipe["epochs"])
    # Each network by its own start: at the rate of random weights, published ones would be lost.
    defaults["lr"] = 1e-3 if run["init"] == "scratch" else 1e-5
    defaults["init"] = default_init(args.dataset, run["preset"])
    defaults["teacher_init"] = default_init(args.dataset, args.teacher)

    given = {key: value for key, value in vars(args).items() if value is not None}
    config = argparse.Namespace(**{**defaults, **given, **run})
    name = f"{role}-{method}-{config.preset}-seed{seed}"
    for key in SHAPE[args.kind] + DEPENDS[method]:
        value = getattr(config, key)
        if value != defaults[key]:
            name += f"-{key.replace('_', '')}" + re.sub(r"[^\w.+]+", "_", str(value))[-60:]
    config.folder = Path(args.out) / args.dataset / name.replace(":", "_")[:200]  # a disk takes 255
    if args.epochs is not None:
        config.least_steps = 0
    if config.precision == "auto":
        config.precision = "bfloat16" if args.device.type == "cuda" else "float32"
    return config


def recorded(config):
    """The options of a run: what config.json and a checkpoint hold."""
    keys = ["role", "method", "preset", "seed", *SHAPE[config.kind], *DEPENDS[config.method]]
    return {key: getattr(config, key) for key in keys}


# ---------------------------------------------------------------- start
def check_start(runs, teachers):
    """What the networks start from is looked up before the data: a typo should not cost hours.
    -> the vocabulary of texts: as the student's weights ask for, or else, from scratch, its
    teacher's. None: their own words."""
    if runs[0].resume and not any(
            (config.folder / "config.json").exists() for config in runs + teachers):
        raise UserError(f"nothing to resume: no run with these options in {runs[0].folder}")
    vocabulary = None
    for config in runs[:1] + teachers:
        words = vocabulary_of(config)
        vocabulary = vocabulary or words
        if config.role == "teacher" and config.teacher_checkpoint:
            continue
        wanted = {"image": "vit", "text": "bert"}[config.kind]
        if models.parse_preset(config.preset)[0] != wanted:
            raise UserError(f"{config.preset} does not read {config.kind}s: take a {wanted} preset")
        known = datasets.WordPiece(words).vocabulary if words else ["any"]
        # Sizes that do not fit together: shapes alone, no weights.
        model, _ = make_model(config, 2, known, device="meta")
        if sum(p.numel() for p in model.parameters()) > 10**9:
            raise UserError(f"{config.preset} has over a billion weights: reduce it or its grid")
    return vocabulary


def weights_file(init, preset):
    """The published weights of a preset (downloaded once), or the user's own file."""
    if init != "pretrained":
        if not Path(init).is_file():
            raise UserError(f"no file of weights {init}: give one, or --init scratch")
        return init
    if preset not in HUB:
        raise UserError(f"no published weights for {preset}: choose one of "
                        f"{', '.join(HUB)}, or --init scratch, or --init FILE")
    return datasets.fetch_hub(HUB[preset], "model.safetensors", "pytorch_model.bin")


def vocabulary_of(config):
    """What a model's tokens are: those of --teacher-checkpoint, for CLS and RE from scratch too, so
    that all methods read the same; of weights, the vocab.txt that they were made with; or None."""
    if config.teacher_checkpoint and (config.role == "teacher" or config.init == "scratch"):
        return load(config.teacher_checkpoint)[1]["input"].get("vocabulary")
    if config.kind == "image" or config.init == "scratch":
        return None
    if config.init == "pretrained":  # all published BERTs here share one
        return datasets.fetch_hub(HUB["bert_base"], "vocab.txt")
    vocab = Path(weights_file(config.init, config.preset)).with_name("vocab.txt")
    if not vocab.exists():
        raise UserError(f"no {vocab}: the words of {config.init} must be beside it, one a line")
    return vocab


def load_data(config, vocabulary):
    """The data of the command, said in one line."""
    shape = {key: getattr(config, key) for key in SHAPE[config.kind]}
    data = datasets.load_dataset(config.dataset, config.data_dir, limit=config.limit,
                                 views=config.views, vocab=vocabulary, device=config.device,
                                 **shape)
    print(f"data: {data.name}, {len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test"
          f", {len(data.classes)} classes, {num_features(config)} features")
    return data


def choose_device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if WORLD > 1 and name.startswith("cuda"):  # each process has its own, whatever the name
            name = f"cuda:{TORCHRUN['LOCAL_RANK']}"
            torch.cuda.set_device(name)
        x = torch.zeros(1, device=name)
        x.item()  # an old GPU may hold a tensor, but compute nothing
    except Exception:  # RuntimeError, AssertionError, ImportError: each device has its own
        raise UserError(f"no device {name!r} here: use --device auto or cpu, or fewer processes"
                        ) from None
    return x.device


def main():
    # A user's text may hold what the terminal cannot show; a pipe wants each line as it comes.
    if sys.stdout:  # None: closed before the start
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    if RANK > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    args = parse_args()
    args.device = choose_device(args.device)
    if WORLD > 1:  # NCCL on GPUs, gloo on CPUs. A download may take long; torchrun ends what hangs
        backend = "nccl" if args.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))
    if args.explain:
        pictures.explain(args)
    elif args.judge:
        from results.judge import judge  # which imports this file
        judge(args)
    else:
        experiment(args)
    wait()  # the first may still draw: all leave together
    if WORLD > 1:
        dist.destroy_process_group()


def cli():
    """A user's mistake is exit code 2 and one line, never a traceback; Ctrl-C is 130."""
    try:
        main()
    except (UserError, models.UserError) as error:
        fail(error)
    except OSError as error:
        name = error.filename
        if not name and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            name = "the output"  # full, or read by nobody (`| head -1`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries again when it ends
        fail(f"{name}: {error.strerror}" if name else error)
    except KeyboardInterrupt:
        hold()
        print("interrupted: the same command with --resume goes on after the last finished epoch",
              file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        full = "MemoryError|out of memory|not enough memory|can't allocate memory"
        if not re.search(full, repr(error)):
            hold()
            raise
        fail("the memory is full: lower --batch-size, --image-size, --max-length or the model")


if __name__ == "__main__":
    cli()
