"""The README: its commands are understood, its snippets run, its files exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

import train

ROOT = Path(train.__file__).parent
README = (ROOT / "README.md").read_text().replace("\\\n", " ")  # a command may go on
COMMANDS = [" ".join(command.split()) for command in (
    *re.findall(r"^    .*?python train\.py([^\n#&`]*)", README, re.M),  # a line of its own
    *re.findall(r"`python train\.py([^`]*)`", README))]               # within a sentence


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_is_understood(monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(command)])
    if command == "--help":
        with pytest.raises(SystemExit, match="0"):
            train.parse_args()
        assert "the paper: 35" in capsys.readouterr().out
    else:
        train.parse_args()


def configs(monkeypatch, options):
    """Of the RE student and of the teacher that the command names."""
    monkeypatch.setattr(sys, "argv", ["train.py", *options.split()])
    args = train.parse_args()
    args.device = train.choose_device("cpu")
    return [train.make_config(args, role, "re", 1) for role in ("student", "teacher")]


@pytest.mark.parametrize("options, rates", [
    ("--dataset cifar10", [1e-5, 1e-5]), ("--lr 0.5", [0.5, 0.5]),
    ("--dataset imdb --student bert_micro --teacher bert:64:2:2", [1e-3, 1e-3]),
    ("--dataset imdb --student bert_micro --teacher bert_base", [1e-3, 1e-5]),
    ("--dataset imdb --student bert_mini --teacher bert_micro", [1e-5, 1e-3])])
def test_each_network_has_the_learning_rate_of_its_own_start(monkeypatch, options, rates):
    """At the rate of random weights, 1e-3, published ones would be lost: the paper has 1e-5."""
    assert [config.lr for config in configs(monkeypatch, options)] == rates


def test_a_folder_of_many_options_has_a_name_that_a_disk_takes(monkeypatch):
    where = "/home/somebody/with/a/long/path/to/their/weights/model.safetensors"
    for config in configs(monkeypatch, "--rate 0.3 --lambda-select 1e-2 --masking zero --lr 1e-5 "
                          "--schedule exponential --lr-schedule constant --precision float32 "
                          f"--noise annealed --dropout 0.5 --init {where} --weight-decay 0.5"):
        assert "-rate0.3" in config.folder.name and len(config.folder.name) <= 200


def test_the_options_tell_their_defaults():
    same = {key: value for key, value in train.COMMON.items()
            if not any(key in recipe for recipe in train.RECIPES.values())}
    defaults = {**vars(train.make_parser().parse_args([])), **same}
    assert len(defaults) > 40
    for key, value in defaults.items():
        name = key.replace("_", "-")
        help, = re.findall(rf"^  --{name}\b(?!-).*(?:\n    .*)*", train.OPTIONS, re.M)
        if value:
            assert f"(default: {value}" in " ".join(help.split())


def test_every_option_and_file_named_exists():
    options = train.make_parser().format_help()
    for name in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+\b(?!_)", README)):  # torchrun's have a _
        assert re.search(rf"{name}\b(?!-)", options), name
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    files = re.findall(r"`([\w./]+\.(?:py|txt|md)|results/|tests/)`", README)
    assert {"rekd.py", "models.py", "data.py", "train.py"} <= {*files}
    for name in links + files:
        assert (ROOT / name).exists(), name


def test_the_commands_of_the_built_in_sets_run(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 50)).save("digit.png")
    for command, answer in (
            ("", "model and picture: runs/glyphs/student-rekd-vit_nano-seed2026"),
            ("--resume", "finished before"),
            ("--compare --seeds 6", "p = "), ("--dataset phrases --compare", "compare-bert_nano"),
            ("--explain digit.png --checkpoint runs/glyphs/.../best.pt",
             r"digit.png: \d, \d+%\n(  ([#.] ){7}[#.] *\n){8}picture: "),
            ("--judge --checkpoint runs/glyphs/.../best.pt", "sufficiency")):
        assert command in COMMANDS
        best = next(Path("runs/glyphs").glob("student-re-*/best.pt"), "none yet")
        arguments = shlex.split(command.replace("runs/glyphs/.../best.pt", str(best)))
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        train.cli()
        assert re.search(answer, capsys.readouterr().out)
    assert Image.open("runs/explained.png").size[0] == 500
    page, = Path("runs/phrases").glob("compare-*.html")
    head, *articles = page.read_text("utf-8").split("<article>")
    assert len(articles) == 8 and all("<u>" in part for part in articles)
    for name in ("teacher", "CLS", "RE", "REKD"):
        assert f"{name}: bert_" in head and all(f"<b>{name}: " in part for part in articles)
    assert "(dev), accuracy" in head.split("CLS: bert_")[0]  # the others: on the test set
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(snippet, {})
    assert "because of" in capsys.readouterr().out
