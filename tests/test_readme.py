"""The README: its commands are understood or run, its snippets run, its tables fit the code."""
import re
import shlex
import sys

import pytest
from conftest import ROOT
from PIL import Image

import train

README = (ROOT / "README.md").read_text().replace("\\\n", " ")  # a command may go on
COMMANDS = [" ".join(command.split()) for command in (
    *re.findall(r"^    .*?(?:python| )train\.py([^\n#&`]*)", README, re.M),  # a line of its own
    *re.findall(r"`python train\.py([^`]*)`", README))]                     # within a sentence

@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"--help"}))
def test_a_command_is_understood(monkeypatch, command):
    monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(command)])
    train.plan(train.parse_args())

def test_the_table_of_departures_is_that_of_the_code():
    """Each option that --paper sets has a row, which says what ours is and what the paper's."""
    rows = re.findall(r"^\|.*\| (.*) \| (.*) \| `--([\w-]+)` \|$", README, re.M)
    found = {option.replace("-", "_"): (ours, paper) for ours, paper, option in rows}
    ours, paper = (vars(train.parse(line)) for line in (train.OURS, train.PAPER))
    switched = {key for key, value in paper.items() if value is not None and
                key not in ("dataset", "seed", "seeds", "out", "device", "compare", "paper",
                            "resume", "least_steps", "teacher_epochs")}
    assert found.keys() == switched | {"lambda_select"}
    for option in ("masking", "schedule", "evaluation", "epochs"):
        assert str(paper[option]) in found[option][1]
    assert ours["masking"] in found["masking"][0] and ours["schedule"] in found["schedule"][0]

def test_every_option_and_file_named_exists():
    options = train.make_parser().format_help()
    for name in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+\b(?!_)", README)):  # torchrun's have a _
        assert re.search(rf"{name}\b(?!-)", options), name
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    files = re.findall(r"`(?:python )?([\w./]+\.(?:py|txt|md)|results/|tests/)`", README)
    assert {"rekd.py", "models.py", "data.py", "train.py"} <= {*files}
    for name in links + files:
        assert (ROOT / name).exists(), name

def test_the_commands_of_the_built_in_sets_and_the_snippets_run(tmp_path, monkeypatch, capsys):
    less = " --epochs 1 --teacher-epochs 1 --teacher-limit 64 --limit 32 --least-steps 0"
    for name in ("glyphs", "phrases"):
        monkeypatch.setitem(train.RECIPES, name, train.RECIPES[name] + less)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 50)).save("digit.png")

    def run(command, answer):
        assert command in COMMANDS
        best = next(tmp_path.glob("runs/glyphs/student-re-*/best.pt"), "none yet")
        arguments = shlex.split(command.replace("runs/glyphs/.../best.pt", str(best)))
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        train.cli()
        assert re.search(answer, capsys.readouterr().out)
    run("", "rationales: runs/glyphs/student-rekd-vit_nano-seed2026.*rationales.png")
    run("--resume", "finished before")
    run("--compare --seeds 6", "p = ")
    run("--dataset phrases --compare", "rationales: runs/phrases/compare-.*.html")
    run("--explain digit.png --checkpoint runs/glyphs/.../best.pt",
        r"digit.png: \d, \d+%\n(([#.] ){7}[#.]\n){8}rationales: ")
    [page] = tmp_path.glob("runs/phrases/compare-*.html")
    head, *articles = page.read_text("utf-8").split("<h2>")
    assert len(articles) == 8
    for name in ("truth", "teacher", "CLS", "RE", "REKD"):
        assert all(f"<b>{name}: " in article for article in articles)
    first, second = re.findall(r"```python\n(.*?)```", README, re.S)
    for snippet in (first, second):
        exec(snippet, {})
    assert "0.2" in capsys.readouterr().out
