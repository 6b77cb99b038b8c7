"""Text: the built-in phrases, folders of .txt, batches, isolation in BERT, the command line and its HTML page."""

import html
import io
import json
import re
import sys

import pytest
import torch

import data
from data import Corpus, UserError, WordPiece, load_dataset, read_input
from models import BERT, Generator, Predictor
from test_train import losses, only, run, weights  # noqa: F401 (a fixture)

NET = "--student bert:8:1:1 --teacher bert:16:1:2 --max-length 16 --epochs 3 --batch-size 16 --lr 3e-3 --rate 0.2".split()


# ---------------------------------------------------------------- phrases

def test_the_truth_of_phrases_is_the_opinion_of_the_film_and_decides_the_label():
    split, texts = data.phrases(300, seed=5)
    for i, words in enumerate(texts):
        at = split.truth[i].nonzero().squeeze(1).tolist()
        assert at == [at[0], at[0] + 1] and words[at[0] - 2] in {"film", "movie", "story", "acting"}
        degree, adjective = words[at[0]], words[at[1]]
        polarity = [adjective in adjectives for adjectives in data.ADJECTIVES].index(True)
        assert split.y[i] == polarity ^ (degree in {"not", "never", "hardly"})
    assert len({tuple(words) for words in texts}) == 300 and data.phrases(5, seed=5)[1] == texts[:5]


def test_length_place_and_filler_of_phrases_tell_nothing_about_the_label():
    def features(n, seed):  # all but the two words of the opinion: length, where it stands, and which other words there are
        split, texts = data.phrases(n, seed)
        rest = [[word for word, true in zip(words, split.truth[i]) if not true] for i, words in enumerate(texts)]
        columns = sorted({word for words in data.phrases(500, 0)[1] for word in words})
        bag = torch.tensor([[word in words for word in columns] for words in map(set, rest)]).float()
        length, place = torch.tensor([len(words) for words in texts]), split.truth.int().argmax(1)
        return torch.cat([bag, torch.eye(31)[length], torch.eye(31)[place]], 1), split.y
    (x, y), (x_test, y_test) = features(3000, 1), features(2000, 2)
    weight = torch.linalg.lstsq(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ (2.0 * y - 1)).solution    # ridge regression
    assert abs(((x_test @ weight > 0) == y_test.bool()).float().mean() - 0.5) < 0.04


# ---------------------------------------------------------------- folders of texts

def make_folder(root, texts=("a good film", "one bad film"), n=20):
    """<root>/words/{train,test}/{bad,good}/*.txt: the label is in one word."""
    for part in ("train", "test"):
        for c, name in enumerate(("good", "bad")):
            (root / "words" / part / name).mkdir(parents=True)
            for i in range(n):
                (root / "words" / part / name / f"{i:02}.txt").write_text(f"{'so ' * (i % 7)}{texts[c]} {'indeed ' * (i % 5)}{part}ing", "utf-8")
    return root / "words"


def test_a_folder_of_texts_becomes_ids_of_the_words_of_its_training_texts(tmp_path):
    make_folder(tmp_path)
    dataset = load_dataset("words", tmp_path, max_length=12)
    vocabulary = dataset.input["vocabulary"]
    assert vocabulary[:5] == data.SPECIAL and "training" in vocabulary and "testing" not in vocabulary
    assert dataset.train.x.shape == (32, 12) and dataset.train.x.dtype == torch.int32 and dataset.classes == ["bad", "good"]
    tokenizer = WordPiece(vocabulary)
    for i in range(len(dataset.test)):  # as the tokenizer would, cut to 12
        ids = tokenizer.encode(" ".join(dataset.corpus[dataset.test.docs[i]]), 12)
        assert dataset.test.x[i].tolist() == ids + [0] * (12 - len(ids)) and dataset.test.lengths[i] == len(ids)
    assert load_dataset("words", tmp_path, max_length=12, limit=8).fingerprint != dataset.fingerprint


def test_pieces_of_words_are_laid_out_as_encode_does_and_cut_inside_a_word():
    tokenizer = WordPiece(data.SPECIAL + ["un", "##aff", "##able", "film", "a"])
    texts = [["unaffable", "film"], ["a"], ["film", "what", "unaffable", "unaffable"], ["[SEP]", "a"]]
    ids, lengths = Corpus.of(texts).encode(tokenizer, 7)
    for row, n, words in zip(ids, lengths, texts):
        assert row[:n].tolist() == tokenizer.encode(" ".join(words), 7) and (row[n:] == 0).all()


def test_a_vocabulary_file_is_used_and_kept(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(data.SPECIAL + ["good", "b", "##ad"]) + "\n")
    dataset = load_dataset("words", tmp_path, max_length=12, vocab=tmp_path / "vocab.txt")
    assert dataset.input["vocabulary"][-1] == "##ad" and {5, 6, 7} <= set(dataset.test.x.unique().tolist())


def test_undecodable_bytes_are_replaced_and_counted_and_an_empty_file_is_named(tmp_path, capsys):
    folder = make_folder(tmp_path)
    (folder / "train" / "good" / "03.txt").write_bytes(b"caf\xe9 good \xff\xfe film")
    load_dataset("words", tmp_path)
    warning = capsys.readouterr().err
    assert "3 undecodable bytes in 1 files" in warning and "03.txt" in warning and warning.count("\n") == 1
    (folder / "test" / "bad" / "07.txt").write_text(" \n")
    with pytest.raises(UserError, match="bad/07.txt is empty"):
        load_dataset("words", tmp_path)


@pytest.mark.parametrize("content", ["good film".encode("utf-16"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"], ids=["UTF-16", "PNG"])
def test_a_file_that_is_no_utf_8_text_is_named(tmp_path, content):
    """Read as UTF-8 with replaced bytes, they would be rubbish that a model explains with confidence."""
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match="x.txt is no text in UTF-8"):
        data.read_text(tmp_path / "x.txt")


def test_a_hidden_folder_does_not_tell_what_a_data_set_holds(tmp_path):
    (make_folder(tmp_path) / "train" / ".ipynb_checkpoints").mkdir()
    assert data.kind_of("words", tmp_path) == "text"


def test_a_readme_among_images_does_not_make_them_texts(tmp_path):
    (tmp_path / "pets" / "train" / "cat").mkdir(parents=True)
    for name in ("1.png", "2.JPG", "readme.txt"):
        (tmp_path / "pets" / "train" / "cat" / name).touch()
    assert data.kind_of("pets", tmp_path) == "image"


def test_the_second_start_reads_no_text_until_one_changes(tmp_path, monkeypatch):
    folder, reads = make_folder(tmp_path), []
    first = load_dataset("words", tmp_path)
    read_text = data.read_text
    monkeypatch.setattr(data, "read_text", lambda path: reads.append(path) or read_text(path))
    assert torch.equal(load_dataset("words", tmp_path).train.x, first.train.x) and not reads
    (folder / "train" / "good" / "03.txt").write_text("another good film")
    load_dataset("words", tmp_path)
    assert len(reads) == 80


def test_batches_are_trimmed_to_the_longest_in_steps_of_32(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "train" / "good" / "00.txt").write_text("good " * 50)
    dataset = load_dataset("words", tmp_path, max_length=60)
    rows = torch.cat([torch.arange(len(dataset.train))[dataset.train.lengths < 20], dataset.train.lengths.argmax()[None]])
    shapes = [tuple(x.shape) for x, _ in dataset.batches(dataset.train, 4, rows)]
    longest = int(dataset.train.lengths.max())
    assert shapes[0] == (4, 32) and shapes[-1][1] == (60 if longest > 32 else 32)


# ---------------------------------------------------------------- BERT

def bert(**options):
    return BERT(**{**dict(dim=16, depth=2, heads=2, vocab_size=50, max_len=12), **options})


TOKENS = torch.tensor([[2, 9, 8, 7, 6, 5, 3, 0], [2, 9, 3, 8, 9, 3, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0]])


def test_special_tokens_and_padding_are_not_selectable():
    assert bert().selectable(TOKENS).int().tolist() == [[0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0], [0] * 8]  # a typed [SEP] is a word
    assert Generator(bert())(TOKENS).shape == (3, 8, 2)


def test_changing_an_unselected_word_to_any_other_leaves_the_logits_bit_equal():
    predictor, mask = Predictor(bert(), 2).eval(), torch.tensor([[0, 1, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0] * 8]).float()
    before = predictor(TOKENS, mask)
    for row, place in ((0, 2), (0, 5), (1, 1), (1, 4)):
        for word in range(1, 50):
            changed = TOKENS.clone()
            changed[row, place] = word
            assert torch.equal(predictor(changed, mask), before)
    changed = TOKENS.clone()
    changed[0, 4] = 11
    assert not torch.equal(predictor(changed, mask)[0], before[0])                       # a selected word does count
    assert predictor(TOKENS, torch.zeros(3, 8)).isfinite().all()


def test_padding_changes_nothing():
    backbone = bert().eval()
    longer = torch.nn.functional.pad(TOKENS, (0, 4))
    assert torch.allclose(backbone(TOKENS)[:2, :6], backbone(longer)[:2, :6], atol=1e-6)
    with pytest.raises(ValueError, match="14 tokens are more than the 12 positions"):
        backbone(torch.ones(1, 14, dtype=torch.int32))


# ---------------------------------------------------------------- the command line

@pytest.fixture
def words(run, pets):  # noqa: F811
    """run("...") on a folder of texts."""
    if not (pets / "words").exists():
        make_folder(pets)
    run.folder = run.folder.parent / "words"
    return lambda options, net=NET: run(options, net=net, dataset="words")


from test_train import pets  # noqa: E402, F401 (a fixture)


def test_compare_on_texts_leaves_pages_and_explain_prints_the_rationale(words, run, tmp_path, monkeypatch):  # noqa: F811
    code, out, err = words("--compare")
    assert code == 0 and err == "" and "up to 16 tokens" in out, err
    page = only("compare-*.html", run.folder).read_text("utf-8")
    assert page.count("<article") == 8 * 4 and all(f"{name}: bert" in page for name in ("teacher", "CLS", "RE", "REKD"))
    assert re.search(r"teacher: bert\S* \(dev\), accuracy", page)                       # the others: on the test set
    best = only("student-rekd-*", run.folder) / "best.pt"
    own = tmp_path / "mine.txt"
    own.write_text("<script>alert('Good')</script> a good film " + "so " * 30)
    code, out, err = run(f"--explain {own} --checkpoint {best}", net=[], dataset="glyphs")
    assert code == 0 and err == "", err
    assert re.search(r"mine.txt \(cut: the model reads the first 14 of its 46 tokens\): (good|bad), \d+%", out)
    written = re.search("picture: (.*)", out)[1]
    page = open(written, encoding="utf-8").read()
    assert "<script" not in page and "script" in page and "&lt;" in page                # what was typed is shown, not run
    (foreign := tmp_path / "foreign.txt").write_text("ein guter film \u6f22", "utf-8")
    with monkeypatch.context() as patch:                                                # a terminal that cannot show what the text holds
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
        assert run(f"--explain {foreign} --checkpoint {best}", net=[], dataset="glyphs")[0] == 0
    x = read_input(own, {"kind": "text", "max_length": 16, "vocabulary": json.loads(json.dumps(data.SPECIAL + ["good"]))})
    assert x.shape == (1, 16) and x.dtype == torch.int32


def test_text_runs_are_deterministic_and_resume_to_the_same_weights(words, run):  # noqa: F811
    words("--method re")
    folder = only("student-re-*", run.folder)
    first, sums = losses(folder), weights(folder)
    (folder / "result.json").unlink()
    last = torch.load(folder / "last.pt", weights_only=True)
    assert last["epoch"] == 3
    words("--method re")
    assert losses(folder) == first and weights(folder) == sums


def test_wrong_kinds_are_refused_with_a_sentence(words, run, tmp_path):  # noqa: F811
    for options, sentence in [("--student vit_nano --method cls", "vit_nano does not read texts"), ("--image-size 32", "--image-size is for images"),
                              ("--explain x.txt", "go together"), (f"--explain {tmp_path}/none.txt --checkpoint none.pt", "cannot read the checkpoint none.pt")]:
        code, out, err = words(options, net=[])
        assert code == 2 and sentence in err and err.count("\n") == 1 and "Traceback" not in err


def test_the_page_escapes_underlines_marks_and_tells_wrong_from_right():
    import train
    example = {"shown": ["a", "<b>", "fi", "##lm"], "label": "g&d", "truth": torch.tensor([0, 0, 0, 1, 1, 0]), "name": "n",
               "found": [("RE", torch.tensor([0.0, 0, 1, 1, 0, 0]), "bad, 80%", False)]}
    page = train.html_page("t", ["RE: x"], [example])
    assert "a <mark>&lt;b&gt;</mark> <mark><u>fi</u></mark><u>lm</u>" in page
    assert "WRONG" in page and html.escape("g&d") in page and 'class="wrong"' in page
    right = {**example, "found": [(*example["found"][0][:3], True)]}
    assert 'class="wrong"' not in train.html_page("t", [], [right])
