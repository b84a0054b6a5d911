"""Token ids that stand for an image or clip in a conversation: placeholders, and the symbols around them."""

from collections.abc import Callable, Mapping, Sequence

from tokenizers import Tokenizer

from zoo.errors import ItemError, WeightsError
from zoo.processors.chat.messages import MARKERS, PLURALS
from zoo.types import PLACEHOLDER_IDS

Writing = int | Sequence[str | int]  # a number of placeholders, or numbers with texts between them


def item_ids(modality: str, writing: Writing, tokenizer: Tokenizer, single: Sequence[str] = ()) -> list[int]:
    """Return the ids of an image or clip.

    Args:
        modality: "image" or "audio".
        writing: number of placeholders, or numbers and the texts around its tiles.
        tokenizer: encodes the texts.
        single: symbols in the texts that have to be one token each.

    Raises:
        WeightsError: the tokenizer lacks one of ``single``.
    """
    ids: list[int] = []
    for part in [writing] if isinstance(writing, int) else writing:
        if isinstance(part, int):
            ids += [PLACEHOLDER_IDS[modality]] * part
            continue
        missing = next((word for word in single if tokenizer.token_to_id(word) is None), None)
        if missing is not None:
            raise WeightsError(
                f"the tokenizer has no {missing!r}, which must stand around tiles; set system.processor.{modality}.tiler.around to a "
                "special token that it has"
            )
        ids += tokenizer.encode(part, add_special_tokens=False).ids
    return ids


def expanded(
    ids: Sequence[int],
    modalities: Mapping[int, str],
    writings: Mapping[str, Sequence[Writing]],
    run: Callable[[str, Writing], list[int]],
    source: tuple[str, str],
) -> tuple[list[list[int]], list[str | None]]:
    """Return for each token the ids that replace it, and its modality if it is a marker, else None.

    Args:
        ids: token ids, with a marker for each image and clip.
        modalities: modality of each marker's id.
        writings: numbers of placeholders and texts for each image and clip, by modality and in order.
        run: ids of one item.
        source: names of the conversation and of its template, for messages.

    Raises:
        ItemError: the numbers of markers and items differ.
    """
    runs, places, seen = [], [], dict.fromkeys(MARKERS, 0)
    for number in ids:
        modality = modalities.get(number)
        places.append(modality)
        if modality is None:
            runs.append([number])
            continue
        if seen[modality] < len(writings.get(modality, ())):
            runs.append(run(modality, writings[modality][seen[modality]]))
        seen[modality] += 1
    for modality, count in seen.items():
        if count != len(writings.get(modality, ())):
            raise ItemError(
                f"{source[0]} holds {len(writings.get(modality, ()))} {PLURALS[modality]}, but the text of template {source[1]} contains "
                f"{count}; choose another template, or put media and markers into the user's messages",
                "markers",
            )
    return runs, places
