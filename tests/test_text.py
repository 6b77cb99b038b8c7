"""Text: the built-in phrases, folders of .txt, batches."""

import pytest
import torch

import data
from data import SPECIAL, Corpus, UserError, WordPiece, load_dataset, phrases, read_input

# ---------------------------------------------------------------- phrases


def test_the_truth_of_phrases_decides_the_label():
    """... the film was hardly gripping ...: the truth is the last two words, and "hardly" turns
    the good adjective into a bad opinion."""
    split, texts = phrases(300, seed=5)
    assert phrases(5, seed=5)[1] == texts[:5] != phrases(5, seed=6)[1]
    for (start, end), label, text in zip(split.truth.tolist(), split.y, texts, strict=True):
        degree, adjective = text[start:end].split()
        assert text[:start].split()[-2] in {"film", "movie", "story", "acting"}
        is_good = adjective in "brilliant clever funny good gripping moving".split()
        assert label == is_good ^ (degree in {"not", "never", "hardly"})


def test_the_rest_of_phrases_tells_nothing_about_the_label():
    """Ridge regression on all but the opinion: the length, its place, and which other words."""
    columns = sorted({word for text in phrases(500, 0)[1] for word in text.split()})

    def features(n, seed):
        split, texts = phrases(n, seed)
        bag = torch.zeros(n, len(columns) + 62)
        for row, text, (start, end) in zip(bag, texts, split.truth.tolist(), strict=True):
            before, after = text[:start].split(), text[end:].split()
            for word in before + after:
                row[columns.index(word)] = 1
            row[len(columns) + len(before)] = row[len(columns) + 31 + len(before + after)] = 1
        return bag, split.y

    (x, y), (x_test, y_test) = features(3000, 1), features(2000, 2)
    weight = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ (2.0 * y - 1))
    accuracy = ((x_test @ weight > 0) == y_test.bool()).float().mean()
    assert abs(accuracy - 0.5) < 0.04


def test_every_piece_of_a_true_word_is_true(tmp_path):
    """A vocabulary of letters: the opinion "not good" is 7 tokens of truth."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, *letters, *("##" + letter for letter in letters)]))
    dataset = load_dataset("phrases", limit=20, max_length=200, vocab=vocab)
    tokenizer = WordPiece(vocab)
    for i in range(20):
        text = dataset.text(dataset.train, i)
        true = [span for span, is_true in
                zip(tokenizer.spans(text), dataset.train.truth[i, 1:], strict=False) if is_true]
        degree, adjective = text[true[0][0]:true[-1][1]].split()
        assert degree in data.NEGATIONS + data.DEGREES and adjective in sum(data.ADJECTIVES, [])
        assert len(true) == len(degree) + len(adjective)


# ---------------------------------------------------------------- folders of texts


def make_folder(root, texts=("a good film", "one bad film"), n=20):
    """<root>/words/{train,test}/{bad,good}/*.txt: the label is in one word."""
    for part in ("train", "test"):
        for name, text in zip(("good", "bad"), texts, strict=True):
            folder = root / "words" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                words = f"{'so ' * (i % 7)}{text} {'indeed ' * (i % 5)}{part}ing"
                (folder / f"{i:02}.txt").write_text(words, "utf-8")
    return root / "words"


def test_without_a_vocabulary_the_words_of_the_training_texts_are_counted(tmp_path):
    make_folder(tmp_path)
    dataset = load_dataset("words", tmp_path, max_length=12)
    vocabulary = dataset.input["vocabulary"]
    assert vocabulary[:7] == [*SPECIAL, "so", "indeed"]      # 3 and 2 a text: the most frequent
    assert "training" in vocabulary and "testing" not in vocabulary
    assert dataset.classes == ["bad", "good"]
    assert dataset.train.x.shape == (32, 12) and dataset.train.x.dtype == torch.int32
    tokenizer = WordPiece(vocabulary)
    for i in range(len(dataset.test)):
        ids = tokenizer.encode(dataset.text(dataset.test, i), 12)
        assert dataset.test.x[i].tolist() == ids + [0] * (12 - len(ids))
        assert dataset.test.lengths[i] == len(ids)


def test_undecodable_bytes_are_replaced_with_one_warning(tmp_path, capsys):
    (tmp_path / "x.txt").write_bytes(b"caf\xe9 good \xff\xfe film")
    (tmp_path / "y.txt").write_text("the sign itself: \ufffd", "utf-8")
    assert data.read_text(tmp_path / "x.txt") == ("caf\ufffd good \ufffd\ufffd film", True)
    assert not data.read_text(tmp_path / "y.txt")[1]
    data.read_texts([tmp_path / "x.txt", tmp_path / "y.txt", tmp_path / "x.txt"])
    assert "undecodable bytes in 2 files" in capsys.readouterr().err


NO_TEXT = {
    "empty": (b" \n", "is empty or no text"),
    "UTF-16": ("good film".encode("utf-16"), "is empty or no text in UTF-8"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is empty or no text in UTF-8"),
}


@pytest.mark.parametrize("content, sentence", NO_TEXT.values(), ids=NO_TEXT)
def test_a_file_that_is_no_utf_8_text_is_named(tmp_path, content, sentence):
    """Read with replaced bytes, it would be rubbish that a model explains with confidence."""
    (make_folder(tmp_path) / "test" / "bad" / "07.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"bad/07.txt {sentence}"):
        load_dataset("words", tmp_path)


# ---------------------------------------------------------------- batches


def test_batches_of_texts_are_cut_to_their_longest_in_steps_of_32(tmp_path):
    folder = make_folder(tmp_path)
    for i in range(10):                                      # more than go into dev
        (folder / "train" / "good" / f"0{i}.txt").write_text("good " * 50)
    dataset = load_dataset("words", tmp_path, max_length=128)
    order = dataset.train.lengths.argsort()
    batches = list(dataset.batches(dataset.train, 4, order))
    assert batches[0][1].shape == (4, 32)
    assert batches[-1][1].shape == (4, 64)                   # for 52 tokens
    for rows, x, y in batches:
        assert torch.equal(x, dataset.train.x[rows, :x.shape[1]])
        assert (dataset.train.x[rows, x.shape[1]:] == 0).all()
        assert torch.equal(y, dataset.train.y[rows])




# ---------------------------------------------------------------- what becomes of a file


def test_the_text_of_an_example_is_what_its_file_holds(tmp_path):
    make_folder(tmp_path, texts=("A  GOOD (café) film", "One bad film"))
    for _ in range(2):                                       # read, then from the cache
        dataset = load_dataset("words", tmp_path)
        for i, y in enumerate(dataset.test.y):
            text = dataset.text(dataset.test, i)
            assert ("A  GOOD (café) film" in text) == (y == 1) and "testing" in text
    dataset = load_dataset("phrases", limit=10)
    texts = phrases(7500, data.DATA_SEED)[1]
    assert dataset.text(dataset.train, 3) == texts[dataset.train.docs[3]]


def test_what_is_no_class_and_what_kind_a_folder_is(tmp_path):
    for name in (".ipynb_checkpoints", "unsup"):             # hidden; unlabelled reviews
        (make_folder(tmp_path / name) / "train" / name).mkdir()
        assert data.kind_of("words", tmp_path / name) == "text"
        assert load_dataset("words", tmp_path / name).classes == ["bad", "good"]
    folder = tmp_path / "pets" / "train" / "cat"
    folder.mkdir(parents=True)
    for name in ("1.png", "2.JPG", "readme.txt"):
        (folder / name).touch()
    assert data.kind_of("pets", tmp_path) == "image"


def test_a_long_file_is_read_as_far_as_a_model_may_read_it(tmp_path):
    (tmp_path / "a.txt").write_text("A good film, " + "so " * 500_000)
    vocabulary = [*SPECIAL, "good"]
    x = read_input(tmp_path / "a.txt", {"kind": "text", "max_length": 16, "vocabulary": vocabulary})
    assert x.dtype == torch.int32 and x.tolist() == [[2, 1, 5, *[1] * 12, 3]]
    assert len(data.read_text(tmp_path / "a.txt")[0]) == 10**6


def test_a_word_list_keeps_the_most_frequent_words():
    corpus = Corpus(["b b a c", "a b [SEP]", "d d d d"])
    assert corpus.vocabulary([0, 1], size=2) == [*SPECIAL, "b", "a"]
