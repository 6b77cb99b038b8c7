"""What train.py says while it works: how far a run is, how long all takes, and on what hardware."""

import platform
import re
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm


class Progress:
    """How far a run is: a bar on a terminal; elsewhere a line after 20 steps, then one a minute."""

    def __init__(self, config, first_epoch):
        self.config = config
        self.title = config.folder.name
        self.done = self.first = first_epoch * config.steps
        self.start = self.last_line = time.time()
        interactive = sys.stdout and sys.stdout.isatty() and sys.stderr.isatty()
        self.bar = tqdm(total=config.total_steps, initial=self.done, desc=self.title, leave=False,
                        unit="step",
                        disable=not interactive or self.done == config.total_steps)

    def step(self):
        self.done += 1
        self.bar.update()
        now = time.time()
        done = self.done - self.first
        if self.bar.disable and (done == 20 or now > self.last_line + 60):
            self.last_line = now
            left = time_left(self.config, self.done, (now - self.start) / done)
            print(f"{self.title}  step {self.done:,} of {self.config.total_steps:,}: "
                  f"about {left} left in all")

    def epoch(self, line):
        """What the log says of an epoch, in brief; on a terminal, above the bar."""
        sampled = f" (sampled {line['rate_sampled']:.3f})" if "rate_sampled" in line else ""
        self.bar.clear()
        print(f"{self.title}  epoch {line['epoch']:>2}/{self.config.epochs}  "
              f"loss {line['loss']:.4f}  dev accuracy {line['accuracy']:.4f}  "
              f"rate {line['rate_mean']:.3f}{sampled}  {line['seconds']:.1f} s")
        if line["epoch"] == self.config.epochs:
            self.bar.close()


def time_left(config, done, seconds_a_step):
    """Of the whole command, if the runs to come are like this one."""
    steps = config.total_steps - done + config.steps_after
    return timedelta(seconds=round(steps * seconds_a_step))


@torch.no_grad()
def warn_if_long(model, data, config):
    """On a CPU the first step may itself take minutes: what takes days is said before it."""
    if config.device.type != "cpu" or config.compile:
        return
    _, x, _ = next(data.batches(data.train, 2))
    for _ in range(2):  # the first warms up
        start = time.time()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            model(x, tau=1.0)
    seconds = (time.time() - start) / len(x)
    # Forward and backward take three times as long as forward.
    left = time_left(config, 0, 3 * seconds * config.batch_size)
    if left.days > 1:
        small = {"image": "vit_micro", "text": "bert_micro"}[config.kind]
        print(f"this will take about {left.days} days: a small network (--student {small}, "
              f"--teacher {small}), --limit or fewer --epochs make it feasible")


def hardware(device, processes=1):
    several = f"{processes} x " if processes > 1 else ""
    if device.type == "cuda":
        return several + torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    names = re.findall("model name.*: (.*)", path.read_text()) if path.exists() else []
    return f"{several}{(names or [platform.machine()])[0]}, {torch.get_num_threads()} threads"
