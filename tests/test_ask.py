"""results/ask.py: a page that asks people which rationale explains better, and their answers."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from conftest import finished, only

import results.ask as asking
from data import UserError
from results import pictures


def test_clopper_pearson_and_the_binomial_test_by_hand():
    low, high = asking.interval(8, 10)  # 8 or more at `low`, 8 or fewer at `high`: 2.5 % each
    assert 45 * low**8 * (1 - low)**2 + 10 * low**9 * (1 - low) + low**10 == pytest.approx(0.025)
    assert 10 * high**9 * (1 - high) + high**10 == pytest.approx(0.975)
    assert asking.interval(10, 10) == (pytest.approx(0.025 ** (1 / 10)), 1)
    assert asking.two_sided(8, 10) == asking.two_sided(2, 10) == pytest.approx(2 * 56 / 1024)
    assert asking.two_sided(5, 10) == asking.two_sided(5000, 10000) == 1  # no overflow


# ---------------------------------------------------------------- the page
def pair(run, dataset, options=""):
    for method in ("re", "rekd"):
        finished(run(f"--method {method} {options}", dataset))
    return [only(f"student-{method}-*", run.runs / dataset) for method in ("re", "rekd")]


def make_page(runs, out):
    """-> what is said of it, the page."""
    said = asking.make_page(runs, SimpleNamespace(out=out, examples=12, data_dir=None))
    return said, out.read_text()


@pytest.mark.parametrize("dataset", ["glyphs", "phrases"])
def test_from_two_runs_to_a_count(run, small, tmp_path, dataset):
    runs = pair(run, dataset)
    said, page = make_page(runs, tmp_path / "new" / "page.html")
    questions, same = map(int, re.search(r"(\d+) questions; (\d+) of 12 examples", said).groups())
    assert questions + same == 12 and questions > 2
    # Nothing says whose a rationale is, which words are true, and nothing comes from elsewhere.
    plain = re.sub(r'"data:image/png;base64,[^"]*"', "", page)
    assert not re.search(r"rekd|\bre\b|teacher|student|https?:|<u>", plain, re.I)
    # The same page whatever the order of the runs; someone picks the first side everywhere.
    assert make_page(runs[::-1], tmp_path / "again.html")[1] == page
    key, = re.findall('data-page="(.*?)"', page)
    names = re.findall('data-example="(.*?)"', page)
    file = saved(tmp_path, page=key, examples=12, same=same, answers={name: 1 for name in names})
    rekd = sum(is_rekds(runs, page, name) for name in names)
    assert table(file)["a"][:3] == [f"{questions} of {questions}", str(rekd), str(questions - rekd)]


def is_rekds(runs, page, name):
    """Is the first rationale of this example in the page REKD's? Asked of its model once more."""
    (_, rekd), data = asking.read_pair(runs, SimpleNamespace(data_dir=None))
    example, = (e for e in pictures.test_examples(data, 12) if e.name == name)
    _, kept = asking.drawn(example, [pictures.find(example, "", rekd, data.classes)], data.input)
    section, = re.findall(f'<section data-example="{name}" hidden>.*?</section>', page, re.S)
    return f"<figcaption>1</figcaption>{kept}" in section


def test_what_is_not_read_is_not_shown_and_all_is_escaped(run, tmp_path):
    _, page = make_page(pair(run, "words", "--max-length 6"), tmp_path / "page.html")
    shown = re.findall('<p class="text">(.*?)</p>', page, re.S)
    assert shown and all("[&hellip;]" in text and "testing" not in text for text in shown)
    assert "<b>&lt;i&gt;</b>" in asking.question("p", "n", "<i>", "", "first", "second")


def test_runs_that_cannot_be_compared(run, tmp_path, monkeypatch):
    one, other = pair(run, "colours")
    finished(run("--method re --rate 0.5"))
    half, = run.colours.glob("student-re-*rate0.5*")
    for runs, sentence in (
            ((one, one), "an RE student and a REKD student, not student re$"),
            ((only("teacher-*", run.colours), other), "not teacher re and student rekd"),
            ((half, other), "same --rate"),
            ((one, pair(run, "words")[1]), "not of the same data")):
        with pytest.raises(UserError, match=sentence):
            make_page(runs, tmp_path / "page.html")
    monkeypatch.setattr(asking, "drawn", lambda *_: ["whole", "kept", "kept"])
    with pytest.raises(UserError, match="in all 12 examples both rationales are the same"):
        make_page((one, other), tmp_path / "page.html")
    assert not list(tmp_path.glob("*.html"))


# ---------------------------------------------------------------- the answers
def saved(folder, name="a", **changes):
    """What the button of a page saves."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"page": "p", "reader": name, "examples": 30, "same": 5,
                                "answers": {}, **changes}))
    return path


def table(*files):
    """-> {reader: its cells}"""
    cells = [re.split(r"\s{2,}", line) for line in asking.count(files).splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 8}


def test_readers_are_counted_one_by_one_and_together(tmp_path):
    names = [f"test example {i}" for i in range(13)]
    first = [asking.rekd_is_first("p", name) for name in names]
    rekd = {name: 1 if is_first else 2 for name, is_first in zip(names, first)}
    # Reader a picks REKD 8 times, then RE twice, then neither.
    a = {**rekd, **{name: 3 - rekd[name] for name in names[8:10]}, **dict.fromkeys(names[10:], 0)}
    b = {name: rekd[name] for name in names[:9]}
    found = table(saved(tmp_path, answers=a), saved(tmp_path, "b", answers=b), saved(tmp_path, "c"))
    assert found["a"] == ["13 of 25", "8", "2", "3", "0.800", "0.444 - 0.975", "0.11"]
    assert found["c"] == ["0 of 25", "0", "0", "0", "-", "0.000 - 1.000", "1"]
    assert found["all"][:5] == ["22 of 75", "17", "2", "3", "0.895"]
    # Example 8 has one pick for RE and one for REKD, a tie.
    assert found["by majority"][:4] == ["13 of 13", "8", "1", "4"]
    with pytest.raises(UserError, match="of the same reader and page"):
        table(saved(tmp_path), saved(tmp_path, "later", reader="a"))


DAMAGED = [{"answers": {"x": 3}}, {"answers": {"x": True}}, {"answers": [1]}, {"page": 5},
           {"same": "5"}, {"examples": 5, "answers": {"x": 1}}]


@pytest.mark.parametrize("changes, arguments, sentence", [
    *((changes, "a.json", "a.json is damaged, or not .*: leave it out") for changes in DAMAGED),
    ({}, "none.json", "none.json: No such file"),
    ({}, "a.json run", "give two runs to make a page, or files of answers"),
    ({}, "run run --examples 0", "must be a whole number 1 <= n"),
])
def test_a_mistake_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys, changes, arguments,
                                              sentence):
    saved(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ask.py", *arguments.split()])
    with pytest.raises(SystemExit, match="2"):
        asking.main()
    assert re.fullmatch(f"ask.py: .*{sentence}.*\n", capsys.readouterr().err)
