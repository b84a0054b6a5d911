"""Boxes and location tokens: the spec sheet's golden, and transformers' own functions."""

import pytest
import torch
from PIL import Image
from transformers.models.kosmos2 import processing_kosmos2 as reference

from zoo.errors import DataError
from zoo.processors.chat.grounding import TAGS, Phrase, box_of, cells_of, draw_boxes, location_tokens, read_boxes, with_boxes

SAID = (
    "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> warming himself by"
    "<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></delimiter_of_multi_objects/><patch_index_0040>"
    "<patch_index_0045></object>."
)


def some_boxes(count=200):
    corners = torch.rand(count, 2, 2, dtype=torch.float64).sort(1).values  # [boxes, first and last, x and y]
    return [tuple(box) for box in corners.flatten(1).tolist()]


def test_the_sheets_box_has_the_sheets_cells():
    assert cells_of((0.1, 0.2, 0.5, 0.75)) == (195, 751)
    assert box_of(195, 751) == (0.109375, 0.203125, 0.484375, 0.734375)


@pytest.mark.parametrize("grid", [32, 7])
def test_boxes_and_cells_are_transformers(grid):
    for box in some_boxes():
        cells = cells_of(box, grid)
        assert cells == reference.coordinate_to_patch_index(box, grid)
        assert box_of(*cells, grid) == pytest.approx(reference.patch_index_to_coordinate(*cells, grid), abs=1e-12)


def test_a_box_that_is_read_back_is_at_most_a_cell_off():
    for box in some_boxes():
        assert box_of(*cells_of(box)) == pytest.approx(box, abs=1 / 32)


@pytest.mark.parametrize("text", [SAID, "  " + SAID + " ", SAID.replace("<grounding> ", ""), "nothing to see", ""])
def test_what_a_model_says_is_read_as_transformers_reads_it(text):
    plain, phrases = read_boxes(text)
    expected, entities = reference.clean_text_and_extract_entities_with_bboxes(text)
    assert plain == expected
    assert [(p.text, (p.start, p.end), list(p.boxes)) for p in phrases] == entities
    assert all(plain[phrase.start : phrase.end] == phrase.text for phrase in phrases)


def test_boxes_behind_phrases_are_read_back():
    boxes = [[(0.1, 0.2, 0.5, 0.75), (0.5, 0.5, 1.0, 1.0)], None, [(0.0, 0.0, 1.0, 1.0)]]
    text = with_boxes("<phrase>one</phrase> and <phrase>two</phrase>, <phrase>three</phrase>!", boxes)
    plain, phrases = read_boxes(text)
    assert plain == "one and two, three!" and [phrase.text for phrase in phrases] == ["one", "three"]
    assert [[cells_of(box) for box in phrase.boxes] for phrase in phrases] == [[(195, 751), (528, 1023)], [(0, 1023)]]


def test_boxes_are_put_where_transformers_puts_them():
    text, boxes = "<phrase>a fire</phrase> and <phrase>a cat</phrase>", [[(0.1, 0.2, 0.5, 0.75)] * 2, None]
    processor = reference.Kosmos2Processor.__new__(reference.Kosmos2Processor)
    processor.num_patch_index_tokens = 1024
    expected = processor._insert_patch_index_tokens(text, boxes)
    found, spaced = with_boxes(text, boxes), "</object> and <phrase>"  # what follows a location token may have a space before it there
    assert spaced in found and found.replace(" <", "<").replace("> ", ">") == expected.replace(" <", "<").replace("> ", ">")


def test_what_is_no_box_is_left_out_and_what_is_no_tag_stays():
    beyond = "<object><patch_index_0001><patch_index_9999></object>"
    backwards = "<object><patch_index_0099><patch_index_0001></object>"
    assert read_boxes(f"<phrase>a</phrase>{beyond} <phrase>b</phrase>{backwards} 1 < 2 > 1 <b>") == ("a b 1 < 2 > 1 <b>", [])
    assert read_boxes("<object><patch_index_0001><object> x </phrase>") == ("x", [])
    (found,) = read_boxes("there<object><patch_index_0000><patch_index_0000></object> it is")[1]
    assert found == Phrase("", 5, 5, ((0.0, 0.0, 1 / 32, 1 / 32),))


def test_words_are_those_of_transformers_processor():
    words = location_tokens()
    assert len(words) == 1024 and words[44] == "<patch_index_0044>" and len(set(TAGS)) == 11


def test_boxes_are_drawn_where_they_are():
    picture = Image.new("RGB", (64, 32), "white")
    drawn = draw_boxes(picture, [Phrase("", 0, 0, ((0.25, 0.25, 0.75, 0.75),))])
    changed = [(x, y) for x in range(64) for y in range(32) if drawn.getpixel((x, y)) != (255, 255, 255)]
    assert {min(changed), max(changed)} == {(16, 8), (47, 23)} and drawn.getpixel((30, 15)) == (255, 255, 255)
    assert picture.getcolors() == [(64 * 32, (255, 255, 255))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells_of((0.5, 0.1, 0.4, 0.9)), "box: got"),
        (lambda: cells_of((0.0, 0.0, 64.0, 64.0)), "from 0 to 1"),
        (lambda: box_of(0, 1024), "no box in a grid of 32 x 32"),
        (lambda: with_boxes("<phrase>a</phrase>", []), "boxes: got 0 for 1 phrases"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(DataError, match=message):
        call()
