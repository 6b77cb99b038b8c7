"""What results/README.md says. Figures in braces are looked up in runs.jsonl, see Figures in
pages.py; a paragraph whose figures no line has is left out.
"""

INTRODUCTION = """\
# Results

`python results/study.py --report` writes this page, its charts and the table of the repository's
README from `runs.jsonl`. That file holds one line for every run: its options, its results on the
test and dev sets, losses, accuracy, F1 and sampled rate of each epoch, its command, the versions of
Python and torch, the hardware, and the commit of the code that made it.
`python results/study.py ARM` makes the runs of an arm that have no line yet.

With `drop`, code before commit f087382 had another gradient of hidden positions in attention
(e / Z, at most e^3, instead of e / (Z + e)). From before it are glyphs-drop and phrases-drop with
their variants; of IMDB imdb-10000 and imdb-2000 (but RE, first seed); the softmax's arms of
CIFAR-10 and clutter; and most arms of random masks, which have no such gradient. All else was made
since, glyphs and minilm (but with 500 examples) once more: there, of two lines for one run, the
later counts.

The checkpoint of a run is chosen on dev examples, and reads the test set once for its *accuracy*.
The second tables read it again. (That images have the balanced gradient by default was decided by
test figures of CIFAR-10, too: those are not blind.) The columns:

- *accuracy*: on the test set. All figures are means over the seeds +- sample standard deviation; in
  the charts and in columns named *difference*, +- half of a 95 % interval. A figure that stands
  alone is of one seed, or the same for all.
- *rate*: the share of patches or words that the rationale keeps, the same for every example but for
  rounding. CLS has no rationale: it reads everything.
- *empty*: the share of test examples whose rationale keeps nothing.
- *F1*, *IoU*: agreement of the rationale with the true one, where that is known.
- *parameters*: of the student. *seconds*: its training, on one thread of a busy CPU.
- *p*: exact two-sided sign-flip test of REKD - RE, on counts of right answers. Six seeds cannot
  give less than 0.031; with fewer than six there is no test.
- The second table of an arm: the accuracy of the same predictors, of three seeds, on at most 2,000
  test examples, when they read their generator's best features (*by rank*, as above), a draw as in
  training (*sampled*), and as many features chosen at *random*, by *saliency* (gradient x
  input) or by *attention* (of [CLS] in the last block). *alone*: how well a small network tells the
  class from the masks by rank, without any content. *sufficiency* (low is good) and
  *comprehensiveness* (high is good) follow ERASER. *opinions*: the share of the kept words that
  VADER's lexicon lists as good or bad, the nearest to a true rationale that reviews of IMDB have.
  It is matched word by word, whatever the context: it has *kind*, *war*, *horror*, and lacks
  *tedious*. A word that the vocabulary cuts into pieces is not counted as one.
- *gap recovered*: (REKD - RE) / (CLS - RE), the share of what RE loses that the teacher brings
  back. It is given only where both differences are more than two standard errors above 0.
"""

FINDINGS = """
1. **On IMDB, a pretrained teacher makes a small student better than it would be by itself.** 2,000
reviews of 64 tokens, at equal epochs: REKD {minilm/rekd_accuracy:.3f} from a tenth of the words, RE
{minilm/re_accuracy:.3f}, CLS {minilm/cls_accuracy:.3f} from all of them (10 seeds, one teacher).
With all 25,000 reviews CLS is ahead: {minilm-examples-25000/cls_accuracy:.3f}, REKD
{minilm-examples-25000/rekd_accuracy:.3f}. On images (3 seeds) no gain was seen: ViT-Small, REKD
{vitsmall/rekd_accuracy:.3f}, RE {vitsmall/re_accuracy:.3f}.

2. **Rationales are not needed for that.** A CLS student of all words that learns from the same
teacher's predictions has {minilm-everything/rekd_accuracy:.3f}, a little more than REKD. Among
students of a tenth of the words, predictions alone give
{minilm-prediction-only/rekd_accuracy:.3f}, rationales alone
{minilm-rationale-only/rekd_accuracy:.3f}, both {minilm/rekd_accuracy:.3f}.

3. **What that teacher's rationales teach is to keep words of sentiment.** Words of VADER's lexicon
are {minilm/rekd_judged_opinions:.0%} of what REKD keeps of a review,
{minilm/re_judged_opinions:.0%} of what RE keeps, {minilm/cls_judged_opinions:.0%} of what CLS finds
salient and {minilm/random_judged_opinions:.0%} of random words (3 seeds, no test). With the
teacher's predictions alone it is {minilm-prediction-only/rekd_judged_opinions:.0%}, with its
rationales alone {minilm-rationale-only/rekd_judged_opinions:.0%}; so such words are not accuracy.

4. **From a teacher that knows no more than its student could learn, no gain in accuracy is sure.**
Phrases, REKD and RE: {phrases-epochs-4/rekd_accuracy:.3f} and
{phrases-epochs-4/re_accuracy:.3f} after 4 epochs, {phrases-base/rekd_accuracy:.3f} and
{phrases-base/re_accuracy:.3f} after 8.

5. **With one teacher, on IMDB and on phrases from 4 epochs on, REKD varies less from seed to
seed.** IMDB: RE
{minilm/re_spread}, REKD {minilm/rekd_spread}; phrases, 8 epochs: {phrases-base/re_spread} and
{phrases-base/rekd_spread}. RE has a few poor seeds there. On glyphs this is not sure.

6. **A bad teacher is worse than none.** Phrases: RE has {phrases-base/re_accuracy:.3f}. REKD has
{phrases-teacher-weak/rekd_accuracy:.3f} from a teacher of 2 epochs, which still guesses, and
{phrases-shifted/rekd_accuracy:.3f} from rationales that are one word off.

7. **On the built-in sets, how tau falls hardly matters.** On phrases, none of six other ways
differs significantly from the cosine. On glyphs the exponential is below it by
{glyphs-exponential/rekd_below:.3f}, and noise that shrinks with tau a little above.

8. **Something is selected where there is something to find.** RE, and a predictor trained on random
masks: glyphs {glyphs-base/re_accuracy:.3f} and {glyphs-random/re_accuracy:.3f}, phrases
{phrases-base/re_accuracy:.3f} and {phrases-random/re_accuracy:.3f}, IMDB {minilm/re_accuracy:.3f}
and {minilm-random/re_accuracy:.3f}, photographs in clutter {fresh-clutter/re_accuracy:.3f} and
{fresh-clutter-random/re_accuracy:.3f}.

9. **Where an object fills its image, any patches tell something.** CIFAR-10, 10,000 images: RE
{fresh-10000/re_accuracy:.3f}, random {fresh-10000-random/re_accuracy:.3f}, CLS
{fresh-10000/cls_accuracy:.3f}. That RE is above random is not sure (3 seeds).

10. **A student's rationales end about as right as its teacher's.** Phrases: after one epoch
their F1 is {phrases-epochs-1/rekd_f1:.2f}, RE's {phrases-epochs-1/re_f1:.2f}. After 16 it is
{phrases-epochs-16/rekd_f1:.2f}, the teacher's {phrases-base/teacher_f1:.2f}, and RE's is higher:
{phrases-epochs-16/re_f1:.2f}. Glyphs, 8 epochs: {glyphs-base/rekd_f1:.2f}, the teacher's
{glyphs-base/teacher_f1:.2f}, RE's {glyphs-base/re_f1:.2f}.

The tables stand below the questions.
"""

CHARTS = """
Mean of the seeds with its 95 % interval. Base of the built-in sets: 2,000 training examples, 8
epochs, glyphs with masking `drop` and phrases with `zero`; one point is changed at a time. Of IMDB:
2,000 reviews of up to 64 tokens, masking `drop`, students (`bert_nano`) from scratch, a teacher of
six pretrained layers (all-MiniLM-L6-v2), whose vocabulary all of them read. By size of the training
set, students have about as many steps; the teacher has 625 with 25,000 reviews, else 250. CLS, RE
and REKD students of a place have the same data, epochs and steps.

The REKD students of Phrases with 32 epochs, and of other sizes than `bert_nano`, had another
teacher: its training was repeated, with the same options on another machine, and it turned out
weaker (each line of `runs.jsonl` tells its teacher's accuracy on dev). Do not compare those points
with the others.

The length of the true rationale limits F1. On glyphs it can be {glyphs-base/re_ceiling:.2f}; on
phrases, where more is kept than is true, {phrases-base/re_ceiling:.2f}, and so the chart by rate
mostly shows the limit. Random masks have {glyphs-random/re_f1:.2f} and {phrases-random/re_f1:.2f}.
"""

PAIRED = """
Differences are paired by seed, +- half of a 95 % interval (Student's t). p: exact two-sided
sign-flip test of the accuracies; *Holm*: corrected for the number of tests in its table. Fewer than
six seeds are not tested.

All REKD students of an arm have the same teacher. So p and the intervals tell how students vary,
not how teachers do. On CIFAR-10 and in clutter, except at 112 px, it is the RE student of the first
seed.
"""

READINGS = {  # below a question's table
    "Is anything selected?": """
Photographs of CIFAR-10 in clutter are made by `clutter.py`: each stands at a random place among
pieces of others. F1 with it is {fresh-clutter/re_judged_f1:.2f} for RE,
{fresh-clutter/rekd_judged_f1:.2f} for REKD, and {fresh-clutter/random_judged_f1:.2f} for random
patches.

The objects of CIFAR-10 itself fill their images. Four crops and flips of each image, 10,000 images
and 20 epochs: a predictor of random patches has {cifar10-10000-random/re_accuracy:.3f}, one that
reads the same ten patches of every image {cifar10-10000-same/re_accuracy:.3f}, RE
{cifar10-10000/re_accuracy:.3f}.

*A sure generator needs new crops in every epoch.* From four crops of 2,000 images, in 80 epochs,
both networks learn the training images by heart: RE has {cifar10-2000/re_accuracy:.3f}
({cifar10-2000/re_seeds}), a predictor of random patches, which change all the time,
{cifar10-2000-random/re_accuracy:.3f}. With other crops in each of 100 epochs (the default from
scratch) RE has {fresh-2000/re_accuracy:.3f} ({fresh-2000/re_seeds}), random patches
{fresh-2000-random/re_accuracy:.3f}, CLS {fresh-2000/cls_accuracy:.3f}.
""",
    "Where is REKD better than RE, at equal epochs?": """
The time of IMDB's 12 epochs: CLS {minilm/cls_seconds:.0f} s, RE {minilm/re_seconds:.0f} s, REKD
{minilm/rekd_seconds:.0f} s, its teacher ({minilm/teacher_accuracy:.3f})
{minilm/teacher_seconds:.0f} s. A teacher that reads its own mask is asked once about each review:
so a REKD student has {minilm-own-mask/rekd_spread}, in {minilm-own-mask/rekd_seconds:.0f} s.

With 128 tokens of each review ({minilm-128/rekd_seeds}): teacher
{minilm-128/teacher_accuracy:.3f}, REKD {minilm-128/rekd_spread}, RE {minilm-128/re_spread}, CLS
{minilm-128/cls_spread}. With the paper's masking ({minilm-zero/rekd_seeds}, 64 tokens): teacher
{minilm-zero/teacher_accuracy:.3f}, REKD {minilm-zero/rekd_spread}, RE {minilm-zero/re_spread}.

Students that begin with the teacher's embeddings and first layer, four epochs
({minilm-cut-1/rekd_seeds}): REKD {minilm-cut-1/rekd_spread}, RE {minilm-cut-1/re_spread}, CLS
{minilm-cut-1/cls_spread}.

A pretrained teacher is not the only way: a `bert_micro` CLS student from scratch, with 128 tokens
and 32 epochs on the same reviews, reaches {imdb-2000/cls_accuracy:.3f}.

A teacher that is better than its students by being bigger, three seeds: IMDB, 10,000 reviews, from
scratch: teacher {imdb-10000/teacher_accuracy:.3f}, REKD {imdb-10000/rekd_spread}, RE
{imdb-10000/re_spread}, CLS {imdb-10000/cls_spread}.

On CIFAR-10, with a teacher of its own size, REKD's mean is above RE's, but three seeds do not
decide it: {fresh-2000/rekd_accuracy:.3f} and {fresh-2000/re_accuracy:.3f} with 2,000 images,
{fresh-10000/rekd_accuracy:.3f} and {fresh-10000/re_accuracy:.3f} with 10,000. A bigger one
(vit:64:4:4, one seed) learned less in the same steps: {fresh-2000-big/teacher_accuracy:.3f} and
{fresh-10000-big/teacher_accuracy:.3f}. With four crops, one that was trained for 60 epochs,
{cifar10-10000/teacher_accuracy:.3f}, added little: REKD has {cifar10-10000/rekd_accuracy:.3f}, RE
{cifar10-10000/re_accuracy:.3f}.

A pretrained teacher of images: DINOv2's ViT-Small, trained by RE on the same 2,000 images at 112 px
(8 epochs, lr 2e-5, {vitsmall/teacher_seconds:.0f} s), has {vitsmall/teacher_accuracy:.3f}. After 40
epochs ({vitsmall/rekd_seeds}) its small students have no more than RE: REKD
{vitsmall/rekd_spread}, RE {vitsmall/re_spread}, CLS {vitsmall/cls_spread}; a CLS student that is
taught by its predictions has {vitsmall-everything/rekd_spread}, a predictor of random patches
{vitsmall-random/re_spread}. By eye, REKD's patches are nearly the teacher's: they are learned;
why accuracy does not follow was not tested. (At lr 5e-5 the teacher's training failed,
{vitsmall-fast/teacher_accuracy:.3f}; that one taught nobody.)

The same ViT-Small finds photographs in clutter, too: {vitsmall-clutter/teacher_accuracy:.3f} from a
quarter of the patches ({vitsmall-clutter/teacher_seconds:.0f} s). Its students are no more accurate
for it: REKD {vitsmall-clutter/rekd_spread}, RE {vitsmall-clutter/re_spread}, CLS
{vitsmall-clutter/cls_spread}. F1 with the photographs is {vitsmall-clutter/rekd_judged_f1:.2f} for
REKD, {vitsmall-clutter/re_judged_f1:.2f} for RE; three seeds do not decide that either.
""",
    "And with fewer examples, at equal steps?": """
IMDB, 250 reviews ({minilm-examples-250/rekd_seeds}): teacher
{minilm-examples-250/teacher_accuracy:.3f}, REKD {minilm-examples-250/rekd_spread}, RE
{minilm-examples-250/re_spread}, CLS {minilm-examples-250/cls_spread}. All 25,000, but those set
apart for dev, one epoch ({minilm-examples-25000/rekd_seeds}): teacher
{minilm-examples-25000/teacher_accuracy:.3f}, REKD {minilm-examples-25000/rekd_spread}, RE
{minilm-examples-25000/re_spread}, CLS {minilm-examples-25000/cls_spread}. What a teacher has read
before helps while labels are few.

With 500 examples of phrases the teacher itself reaches only
{phrases-examples-500/teacher_accuracy:.3f}; its students have
{phrases-examples-500/rekd_accuracy:.3f}, RE {phrases-examples-500/re_accuracy:.3f}.
""",
    "Does the mask's gradient matter?": """
With the softmax's gradient, RE on four crops of 10,000 images of CIFAR-10 stays below a predictor
of random patches: {softmax-cifar10-10000/re_accuracy:.3f} ({softmax-cifar10-10000/re_seeds}) after
20 epochs, where that has {cifar10-10000-random/re_accuracy:.3f}.
With the balanced gradient (`balanced_slope` in rekd.py; the default for images from scratch) it has
{cifar10-10000/re_accuracy:.3f} ({cifar10-10000/re_seeds}).

After 60 epochs RE has {cifar10-long/re_accuracy:.3f} with the balanced gradient
({cifar10-long/re_seeds}), {softmax-cifar10-long/re_accuracy:.3f} with the softmax's
({softmax-cifar10-long/re_seeds}), random patches {cifar10-long-random/re_accuracy:.3f}, CLS
{cifar10-long/cls_accuracy:.3f}. With 2,000 images the balanced gradient is no better, and on
glyphs, where it is not the default, it costs F1.
""",
    "What does packing cost?": """
With `drop`, a predictor in training computes the selected features and a random part of the others,
whose gradients are scaled up. Seconds a training, packed and not, on a busy CPU: glyphs
{glyphs-drop/re_seconds:.0f} and {glyphs-drop-unpacked/re_seconds:.0f}, phrases
{phrases-drop/re_seconds:.0f} and {phrases-drop-unpacked/re_seconds:.0f}, IMDB
{imdb-packed/re_seconds:.0f} and {imdb-unpacked/re_seconds:.0f}, CIFAR-10
{cifar10-packed/re_seconds:.0f} and {cifar10-unpacked/re_seconds:.0f}.
""",
    "Which distillation helps?": """
IMDB: both {minilm/rekd_spread}, predictions alone {minilm-prediction-only/rekd_spread}, rationales
alone {minilm-rationale-only/rekd_spread}. Words that express an opinion, among those that are kept:
{minilm/rekd_judged_opinions:.0%}, {minilm-prediction-only/rekd_judged_opinions:.0%} and
{minilm-rationale-only/rekd_judged_opinions:.0%}; by RE alone {minilm/re_judged_opinions:.0%}.
""",
    "Which teacher?": """
One of its student's size teaches about as well (on glyphs a little better, on phrases a little
worse), and its students' rationales are nearer to the truth.
""",
}

VARIANCE = """
Accuracy, mean +- standard deviation; the ratio with a 95 % bootstrap interval over the seeds.
"""

RIGHT = """
Three seeds, at most 2,000 test examples; columns as in the introduction. CLS has no rationale: its
row shows random features, those of largest gradient x input (saliency) or attention, and what
saliency gives away, its sufficiency and comprehensiveness. Its predictor never learned to read a
part.

Sufficiency and comprehensiveness start from the class that a predictor gives for the *whole* input,
and those of RE and REKD end their training on a few features. So these two columns compare the
rationales of one method, not the methods.

Masks can leak. On phrases, the *places* of the words that CLS finds salient, without the words,
tell the class (column *alone* of CLS); those of RE and REKD do not. On glyphs, of ten classes, the
places tell a little, those of RE and REKD more than those of CLS.

On IMDB, words of VADER's lexicon among those that are kept (of CLS: that are salient), three seeds
each, by rank. What its teachers keep was not counted.
"""

ASK = """
### Do people find them better? Not asked yet

`python results/ask.py RUN RUN`, with the folders of an RE and a REKD student of the same data and
rate, writes `ask.html`: one file that needs no network, for a computer or a phone. It shows 30 test
examples (`--examples`), each with its label and the two rationales, unnamed and in random order; a
reader picks the one that explains the label better, or neither. Equal rationales are left out and
counted. Answers stay in the browser until the reader saves them to a small file.

`python results/ask.py answers-*.json` counts such files: for each reader and in all, how often
REKD, RE or neither was picked, REKD's share of the decided with its exact (Clopper-Pearson) 95 %
interval, and an exact two-sided binomial test. Answers of several readers to the same examples are
not independent, so the line "by majority", where every example counts once, is the safer one.
"""

EVERY_ARM = """
Accuracy on the test set; seeds of CLS, RE and REKD. `random` and `same`: the predictor's masks are
random, or the same for every input. `everything`: a CLS student that is taught by predictions.
"""

SMALL = {  # the rows of the repository's README
    "glyphs-base": "Glyphs, 2,000 images",
    "phrases-epochs-4": "Phrases, `zero`, 2,000 texts, 4 epochs",
    "phrases-base": "the same, 8 epochs",
    "minilm": "IMDB, 2,000 reviews, 64 tokens, pretrained teacher",
    "minilm-128": "the same, 128 tokens",
    "imdb-2000": "wider students, teacher from scratch",
    "fresh-10000": "CIFAR-10, 10,000 images, 57 epochs",
}

SMALL_NOTE = """
Test accuracy, mean +- standard deviation of SEEDS seeds. *Random*: a predictor trained on random
features. In a row, data, epochs and steps are equal. Of the words that REKD keeps of IMDB's 64,
{minilm/rekd_judged_opinions:.0%} tell sentiment, of RE's {minilm/re_judged_opinions:.0%}. More in
[results/README.md](results/README.md).
"""

TITLES = {
    "glyphs-drop": "Glyphs, masking drop",
    "glyphs-zero": "Glyphs, masking zero",
    "phrases-drop": "Phrases, masking drop",
    "phrases-zero": "Phrases, masking zero",
    "glyphs-zero-lambda": "Glyphs, masking zero, the rate steered by L_select as in the paper",
    "phrases-zero-lambda": "Phrases, masking zero, the rate steered by L_select as in the paper",
    "glyphs-zero-cold": "Glyphs, masking zero, at the target rate from the first step",
    "glyphs-drop-unpacked": "Glyphs, masking drop, all features computed in training",
    "phrases-drop-unpacked": "Phrases, masking drop, all features computed in training",
    "imdb-2000": "IMDB from scratch, 2,000 training reviews, masking drop",
    "fresh-2000": "CIFAR-10 from scratch, 2,000 images, new crops in every epoch",
    "fresh-10000": "CIFAR-10 from scratch, 10,000 images, new crops in every epoch",
    "fresh-2000-random": "The same, 2,000 images, a predictor that is trained on random masks",
    "fresh-10000-random": "The same, 10,000 images, a predictor that is trained on random masks",
    "vitsmall": "CIFAR-10 at 112 px, 2,000 images, a pretrained teacher: DINOv2's ViT-Small",
    "vitsmall-clutter": "Photographs of CIFAR-10 in clutter at 112 px, the same pretrained teacher",
    "cifar10-2000": "CIFAR-10 from scratch, 2,000 training images, four crops, masking drop",
    "softmax-cifar10-2000": "CIFAR-10, 2,000 images, the softmax's gradient of a mask",
    "softmax-cifar10-2000-annealed": "CIFAR-10, 2,000 images, softmax's gradient, noise annealed",
    "fresh-clutter": "Photographs of CIFAR-10 in clutter, from scratch, new crops in every epoch",
    "fresh-clutter-random": "Photographs in clutter, new crops, a predictor of random masks",
    "clutter-2000": "Photographs of CIFAR-10 in clutter, four crops, masking drop",
    "softmax-clutter-2000": "Photographs in clutter, four crops, the softmax's gradient of a mask",
    "clutter-2000-random": "Photographs in clutter, a predictor that is trained on random masks",
    "imdb-10000": "IMDB from scratch, 10,000 training reviews, masking drop",
    "imdb-10000-random": "IMDB, 10,000 reviews, a predictor that is trained on random masks",
    "cifar10-10000": "CIFAR-10 from scratch, 10,000 training images, four crops, masking drop",
    "softmax-cifar10-10000": "CIFAR-10, 10,000 images, the softmax's gradient of a mask",
    "cifar10-10000-random": "CIFAR-10, 10,000 images, a predictor that is trained on random masks",
    "cifar10-10000-same": "CIFAR-10, 10,000 images, the same patches of every image",
    "cifar10-long": "CIFAR-10 from scratch, 10,000 training images, four crops, 60 epochs",
    "softmax-cifar10-long": "CIFAR-10, 10,000 images, 60 epochs, the softmax's gradient of a mask",
    "softmax-cifar10-long-annealed": "CIFAR-10, 60 epochs, softmax's gradient, noise annealed",
    "cifar10-long-random": "CIFAR-10, 10,000 images, 60 epochs, a predictor of random masks",
    "minilm": "IMDB, 2,000 training reviews of up to 64 tokens, a pretrained teacher, masking drop",
    "minilm-128": "IMDB, the same with up to 128 tokens",
    "minilm-zero": "IMDB, 64 tokens, masking zero",
    "minilm-cut-1": "IMDB, 64 tokens, students that begin with the teacher's first layer",
    "imdb-2000-random": "IMDB, 2,000 reviews, a predictor that is trained on random masks",
    "cifar10-2000-random": "CIFAR-10, 2,000 images, a predictor that is trained on random masks",
}

NOTES = {  # what to read from an arm's tables
    "glyphs-drop": """\
All three methods tell the digit. Here the teacher's students have a higher F1, {rekd_f1:.2f}
instead of {re_f1:.2f}, and it differs less from seed to seed.""",
    "glyphs-zero-lambda": """\
The same students as in glyphs-zero, but without `at_rate` and without the rate's curriculum:
`--lambda-select 1e-2`.""",
    "phrases-zero-lambda": """\
As for glyphs: `--lambda-select 1e-2` instead of `at_rate` and the rate's curriculum.""",
    "glyphs-zero-cold": """\
With `at_rate`, but without the rate's curriculum.""",
    "glyphs-drop-unpacked": """\
What packing costs in accuracy: compare with glyphs-drop, which computes the selected patches and a
random part of the others.""",
    "phrases-drop-unpacked": """\
As for glyphs: compare with phrases-drop.""",
    "fresh-clutter": """\
Each photograph stands at a random place among small pieces of others (`results/clutter.py`), and
covers a quarter of the patches: here it matters what is kept. *F1* tells how much of what is kept
lies in the photograph; a mask of random patches has .25.""",
    "cifar10-10000": """\
Balanced gradient of a mask. Compare with a predictor that is trained on random patches
(cifar10-10000-random), and with the softmax's gradient (softmax-cifar10-10000).""",
    "softmax-cifar10-10000": """\
RE stays below a predictor that is trained on random patches (cifar10-10000-random), and its own
predictor reads random patches better than those that its generator chose.""",
    "cifar10-long": """\
Compare with cifar10-long-random and softmax-cifar10-long, and with fresh-10000, whose crops are new
in every epoch.""",
    "fresh-2000": """\
What `train.py` does by default for a folder of small images, here 2,000. Its teacher is RE of the
first seed.""",
    "fresh-10000": """\
The same with 10,000.""",
    "imdb-10000": """\
RE and REKD reach {re_accuracy:.3f} and {rekd_accuracy:.3f} from a tenth of the words, CLS
{cls_accuracy:.3f} from all of them.""",
    "imdb-2000": """\
RE and REKD reach {re_accuracy:.3f} and {rekd_accuracy:.3f} from a tenth of the words; CLS,
{cls_accuracy:.3f} from all of them. The same predictors on random words of that number are far
below, so it matters which words are kept. Words chosen by saliency serve them as well.""",
    "cifar10-2000": """\
The object fills the image, and any patches will do. A predictor that is trained on random patches
(cifar10-2000-random) is better than RE: it never sees the same patches of an image twice, while
RE's generator soon is sure, and both networks learn the training images by heart.""",
}
