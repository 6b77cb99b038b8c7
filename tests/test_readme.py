"""The README: its Python snippets run, its commands are understood, the glyphs commands run (shortened)."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

import data
import train

ROOT = Path(train.__file__).parent
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"(?<=python train\.py)[^\n`#&]*", README)))


def test_every_command_is_understood(monkeypatch):
    assert len(COMMANDS) > 5
    for command in COMMANDS:
        monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(command)])
        if "--help" in command:
            with pytest.raises(SystemExit) as stop:
                train.parse_args()
            assert stop.value.code == 0
        else:
            train.parse_args()


def test_the_glyphs_commands_and_the_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = data.glyphs(300, 0), data.glyphs(40, 1), [str(d) for d in range(10)], None
    monkeypatch.setitem(data.BUILT_IN, "glyphs", lambda: tuple(data.Split(s.x, s.y, s.truth) if isinstance(s, data.Split) else s for s in small))
    phrases = data.phrases
    monkeypatch.setattr(data, "phrases", lambda n, seed: phrases(n // 25, seed))
    for name in ("glyphs", "phrases"):
        monkeypatch.setitem(train.DEFAULTS, name, {**train.DEFAULTS[name], "epochs": 1, "teacher_epochs": 1})
    for command in ("", "--compare --seeds 6", "--method re --seed 7", "--dataset phrases --compare"):
        assert any(shlex.split(c) == shlex.split(command) for c in COMMANDS) or command == ""
        monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(command)])
        train.cli()
    assert "p = " in capsys.readouterr().out
    Image.new("RGB", (50, 50)).save("digit.png")
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(snippet, {})


def test_every_file_named_in_the_readme_exists():
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(r"`([\w./]+\.(?:py|txt|md)|results/\w+/|tests/)`", README):
        assert (ROOT / name).exists(), name
