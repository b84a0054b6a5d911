"""VQA accuracy and exact match of an answer against references, after both are normalised.

Source: Antol et al. 2015 (VQA, arXiv 1505.00468), section 4.1, and the published rules of the VQA v2 evaluation (visualqa.org,
"Evaluation"): lower case; number words become digits; articles are removed; contractions without an apostrophe get one; a full stop is
removed unless it is a decimal point; a comma between digits is removed; all other punctuation except apostrophe and colon becomes a space.
"""

import re
from collections import Counter
from collections.abc import Sequence

VOTES = 10  # answers by people per question in VQA v2; with this many references they count as votes, with fewer each one is accepted
FULL_VOTE = 3  # an answer that at least this many people gave has accuracy 1

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = "zero one two three four five six seven eight nine ten".split()
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
# Left out are contractions that are another word without the apostrophe: its, well, were, ill, wed, hell, shell, lets.
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
    """Return an answer in the form in which answers are compared.

    "The  two dogs, isnt it?" -> "2 dogs isn't it"; "1,000.50 p.m." -> "1000.50 pm"; "2:50" stays.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", answer.lower().replace("\u2019", "'"))
    text = re.sub(r"\.(?!\d)", "", text)
    text = re.sub(r"[^\w\s':.]|_", " ", text)
    words = [CONTRACTIONS.get(word, DIGITS.get(word, word)) for word in text.split()]
    return " ".join(word for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the VQA accuracy: the mean of ``min(matches / 3, 1)`` over all ways to leave one of ten references out.

    Example: 3 of 10 references equal the answer. Leaving out one of these 3 gives 2/3, leaving out one of the other 7 gives 1; the mean
    is 0.9. With fewer than ten references the result is 1 if the answer equals one of them, else 0.
    """
    given, accepted = normalised(answer), [normalised(reference) for reference in references]
    if len(accepted) < VOTES:
        return float(given in accepted)
    matches = accepted.count(given)
    without = [min((matches - (reference == given)) / FULL_VOTE, 1.0) for reference in accepted]
    return sum(without) / len(without)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer equals a reference, else 0; with ten or more references it must equal a most frequent one."""
    counts = Counter(map(normalised, references))
    most = max(counts.values(), default=0) if len(references) >= VOTES else 1
    return float(counts[normalised(answer)] >= most > 0)
