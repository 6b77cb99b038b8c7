"""results/ask.py: a page that asks people which rationale explains better, and their answers."""
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import finished, only, read

sys.path.insert(0, str(Path(__file__).parent.parent / "results"))
import ask as asking  # noqa: E402

from results import pictures  # noqa: E402


@pytest.fixture
def ask(monkeypatch, capsys):
    """ask(arguments) -> code, out, err of results/ask.py, in this process."""
    def ask(*arguments):
        monkeypatch.setattr(sys, "argv", ["ask.py", *map(str, arguments)])
        code = 0
        try:
            asking.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)
    return ask


def refused(ran, sentence):
    assert ran.code == 2 and re.fullmatch("ask.py: .*\n", ran.err), ran.err
    assert re.search(sentence, ran.err), ran.err


def pair(run, dataset, options=""):
    for method in ("re", "rekd"):
        finished(run(f"--method {method} {options}", dataset))
    return [only(f"student-{method}-*", run.runs / dataset) for method in ("re", "rekd")]


def answers(folder, name="a", **changes):
    file = {"page": "p", "reader": name, "examples": 30, "same": 5, "answers": {}, **changes}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(file))
    return path


def picking(**wanted):
    """Answers to page p that pick REKD so often, then RE, then neither."""
    said = {}
    for pick in [pick for pick, count in wanted.items() for _ in range(count)]:
        name = f"test example {len(said)}"
        side = asking.FIRST if asking.rekd_is_first("p", name) == (pick == "REKD") else 2
        said[name] = asking.NEITHER if pick == "neither" else side
    return said


def lines(out):
    """The table -> {reader: its cells}."""
    cells = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 8}


# ---------------------------------------------------------------- statistics
def test_clopper_pearson_by_hand():
    low, high = asking.interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.444, 0.975)
    # Its definition: 8 or more at `low`, and 8 or fewer at `high`, have a probability of 2.5 %.
    at_low = 45 * low**8 * (1 - low)**2 + 10 * low**9 * (1 - low) + low**10
    at_high = 1 - 10 * high**9 * (1 - high) - high**10
    assert at_low == pytest.approx(0.025) and at_high == pytest.approx(0.025)
    assert asking.interval(10, 10) == (pytest.approx(0.025 ** (1 / 10)), 1)
    assert asking.interval(0, 0) == (0, 1)


def test_binomial_test_by_hand():
    assert asking.two_sided(8, 10) == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert asking.two_sided(2, 10) == asking.two_sided(8, 10)
    assert asking.two_sided(5, 10) == asking.two_sided(0, 0) == 1
    assert asking.two_sided(5000, 10000) == 1  # no overflow


# ---------------------------------------------------------------- the page
@pytest.mark.parametrize("dataset", ["glyphs", "phrases"])
def test_from_two_runs_to_a_count(run, small, ask, tmp_path, dataset):
    runs, out = pair(run, dataset), tmp_path / "new" / "page.html"
    said = finished(ask(*runs, "--out", out, "--examples", 12))
    page = out.read_text()
    questions, same = map(int, re.search(r"(\d+) questions; (\d+) of 12 examples", said).groups())
    assert questions + same == 12 and questions > 2
    assert page.count("<section data-example=") == questions
    assert page.count("<img ") == (3 * questions if dataset == "glyphs" else 0)
    assert ("<mark>" in page) == (dataset == "phrases") and "<u>" not in page
    # Nothing says whose a rationale is, and nothing comes from elsewhere.
    plain = re.sub(r'"data:image/png;base64,[^"]*"', "", page)
    assert not re.search(r"rekd|\bre\b|teacher|student|https?:", plain, re.I)

    # The same page whatever the order of the runs; someone picks the first side everywhere.
    ask(*runs[::-1], "--out", tmp_path / "again.html", "--examples", 12)
    assert (tmp_path / "again.html").read_text() == page
    key, = re.findall('data-page="(.*?)"', page)
    names = re.findall('data-example="(.*?)"', page)
    file = answers(tmp_path, page=key, examples=12, same=same, answers={n: 1 for n in names})
    rekd = sum(is_rekds(runs, page, name) for name in names)
    counted, *picks = lines(finished(ask(file)))["a"][:4]
    assert (counted, *map(int, picks)) == (f"{questions} of {questions}", rekd,
                                           questions - rekd, 0)


def is_rekds(runs, page, name):
    """Is the first rationale of this example in the page REKD's? Asked of its model once more."""
    (_, rekd), data = asking.read_pair(runs, SimpleNamespace(data_dir=None))
    example, = (e for e in pictures.test_examples(data, 12) if e.name == name)
    _, kept = asking.drawn(example, [pictures.find(example, "", rekd, data.classes)], data.input)
    section, = re.findall(f'<section data-example="{name}" hidden>.*?</section>', page, re.S)
    return f"<figcaption>1</figcaption>{kept}" in section


def test_what_is_not_read_is_not_shown_and_all_is_escaped(run, folders, ask, tmp_path):
    runs = pair(run, "words", "--max-length 6")
    out = tmp_path / "page.html"
    finished(ask(*runs, "--out", out))
    shown = re.findall('<p class="text">(.*?)</p>', out.read_text(), re.S)
    assert shown and all(text.endswith('<span class="unread">[&hellip;]</span>') for text in shown)
    assert not any("testing" in text for text in shown)
    made = asking.question("p", "n", "<i>", "", "first", "second")
    assert "<b>&lt;i&gt;</b>" in made


def test_runs_that_cannot_be_compared(run, ask, tmp_path):
    re_run, rekd_run = pair(run, "colours")
    refused(ask(re_run, re_run), "give an RE student and a REKD student, not student re$")
    teacher = only("teacher-*", run.colours)
    refused(ask(teacher, rekd_run), "not teacher re and student rekd")
    refused(ask(re_run, tmp_path / "none.pt"), "none.pt")
    refused(ask(re_run), "give two runs")
    refused(ask(re_run, rekd_run, "--examples", 0), "at least 1")

    def altered(**changes):
        info = read(re_run / "best.pt")
        for key, value in changes.items():
            info[key] = {**info[key], **value} if isinstance(value, dict) else value
        torch.save(info, tmp_path / "altered.pt")
        return tmp_path / "altered.pt"

    refused(ask(altered(fingerprint="other"), rekd_run), "not of the same data")
    refused(ask(altered(model={"rate": 0.5}), rekd_run), "same --rate")
    twin = altered(config={"method": "rekd"}, model={"method": "rekd"})
    refused(ask(re_run, twin), "in all 24 examples both rationales are the same")
    assert not list(tmp_path.glob("*.html"))


# ---------------------------------------------------------------- the answers
def test_readers_are_counted_one_by_one_and_together(ask, tmp_path):
    a = answers(tmp_path, "a", answers=picking(REKD=8, RE=2, neither=3))
    alone = finished(ask(a))
    assert lines(alone)["a"] == ["13 of 25", "8", "2", "3", "0.800", "0.444 - 0.975", "0.11"]
    assert "examples: 30, of which 5 were left out" in alone
    b = answers(tmp_path, "b", answers=picking(REKD=9))
    c = answers(tmp_path, "c")
    table = lines(finished(ask(a, b, c)))
    assert table["b"][:4] == ["9 of 25", "9", "0", "0"]
    assert table["c"] == ["0 of 25", "0", "0", "0", "-", "0.000 - 1.000", "1"]
    assert table["all"][:5] == ["22 of 75", "17", "2", "3", "0.895"]
    # Example 8 has one pick for RE and one for REKD, a tie.
    assert table["by majority"][:4] == ["13 of 13", "8", "1", "4"]


@pytest.mark.parametrize("changes", [
    {"answers": {"x": 3}}, {"answers": {"x": True}}, {"answers": [1]}, {"page": 5},
    {"same": "5"}, {"examples": 5, "answers": {"x": 1}}, None])
def test_damaged_answers_are_refused(ask, tmp_path, changes):
    path = answers(tmp_path, **(changes or {}))
    if changes is None:
        path.write_text(path.read_text()[:-5])
    refused(ask(path), "a.json is damaged, or not what the page's button saved: leave it out")


def test_files_that_cannot_be_counted(ask, tmp_path):
    a = answers(tmp_path)
    (tmp_path / "later.json").write_text(a.read_text())
    refused(ask(a, tmp_path / "later.json"), "of the same reader and page")
    refused(ask(a, "run"), "give two runs to make a page, or files of answers")
    refused(ask(tmp_path / "none.json"), "none.json: No such file")
