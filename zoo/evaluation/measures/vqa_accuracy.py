"""Whether an answer is right: VQA accuracy and exact match, after the answers are made alike.

Source: Antol et al. 2015 (VQA, arXiv 1505.00468), section 4.1, and the published rule of the VQA v2 evaluation (visualqa.org,
"Evaluation"): lower case; number words to digits; no articles; an apostrophe where a contraction lacks it; no full stop unless it is a
decimal point; no comma between digits; every other punctuation but apostrophe and colon to a space.
"""

import re
from collections import Counter
from collections.abc import Sequence

VOTES = 10  # so many references are the votes of people, as VQA v2 has them; fewer are all accepted
FULL_VOTE = 3  # an answer that so many people gave is wholly right

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
# Those whose form without apostrophe is a word of its own (its, well, were, ill, wed, hell, shell, lets) are left as they are.
_NOT = "ain are ca could did does do had has have is might must need ought sha should was were wo would".split()
_ENDINGS = {
    "'ve": "could i might must should they we what who would you".split(),
    "'d": "he how it that there they what where who you".split(),
    "'ll": "how it that there they what who you".split(),
    "'re": "there they what who why you".split(),
    "'s": "he how she somebody someone something that there what when where who why".split(),
    "'m": ["i"],
}
_OTHERS = {"maam": "ma'am", "oclock": "o'clock", "yall": "y'all"}
CONTRACTIONS = (
    _OTHERS
    | {f"{stem}nt": f"{stem}n't" for stem in _NOT}
    | {stem + ending.replace("'", ""): stem + ending for ending, stems in _ENDINGS.items() for stem in stems}
)


def normalised(answer: str) -> str:
    """An answer as it is compared.

    "The  two dogs, isnt it?" -> "2 dogs isn't it"; "1,000.50 p.m." -> "1000.50 pm"; "2:50" stays.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", answer.lower().replace("\u2019", "'"))
    text = re.sub(r"\.(?!\d)", "", text)
    text = re.sub(r"[^\w\s':.]|_", " ", text)
    words = [CONTRACTIONS.get(word, DIGITS.get(word, word)) for word in text.split()]
    return " ".join(word for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How many people agree: the mean of ``min(matches / 3, 1)`` over all ways to leave one of ten references out.

    With 3 of 10 equal to the answer, the 3 ways to leave out one of these give 2/3 and the other 7 give 1: 0.9. Fewer than ten
    references are no votes: the answer is right where it is one of them.
    """
    given, accepted = normalised(answer), [normalised(reference) for reference in references]
    if len(accepted) < VOTES:
        return float(given in accepted)
    matches = accepted.count(given)
    without = [min((matches - (reference == given)) / FULL_VOTE, 1.0) for reference in accepted]
    return sum(without) / len(without)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references, or of ten votes the most frequent (of equally frequent ones any)."""
    counts = Counter(map(normalised, references))
    most = max(counts.values(), default=0) if len(references) >= VOTES else 1
    return float(counts[normalised(answer)] >= most > 0)
