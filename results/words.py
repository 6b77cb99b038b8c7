"""A bag of words: TF-IDF and logistic regression on a student's labels, with scikit-learn.

    python results/words.py tweets 250 32 2026     data set, labels (0: all), max length, seed
"""

import sys
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from data import WordPiece, load_dataset  # noqa: E402


def bag_of_words(name, limit, max_length, seed, data_dir="data"):
    """-> {"accuracy"} on the test set. Words and pairs of words, of what a student reads of a text;
    dev chooses the strength of the regularisation, as it chooses a student's checkpoint."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    data = load_dataset(name, data_dir, max_length=int(max_length)).draw(int(limit), int(seed))
    tokenizer = WordPiece(data.input["vocabulary"])

    def cut(text):
        tokens = [*islice(tokenizer.tokens(text), int(max_length) - 2)]  # beside [CLS] and [SEP]
        return text[:tokens[-1][2]] if tokens else ""

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = vectorizer.fit_transform(map(cut, data.train.texts))
    dev, test = (vectorizer.transform(map(cut, split.texts)) for split in (data.dev, data.test))
    models = [LogisticRegression(C=strength, max_iter=1000).fit(train, data.train.y)
              for strength in (1, 10, 100)]
    best = max(models, key=lambda model: model.score(dev, data.dev.y))
    return {"accuracy": best.score(test, data.test.y)}


if __name__ == "__main__":
    print(bag_of_words(*sys.argv[1:]))
