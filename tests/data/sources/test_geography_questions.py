"""Questions about maps, on three made-up countries; the fetched maps are tested in tests/test_fetch.py."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.downloads.kgeography import area_of, convert, singular
from zoo.errors import ConfigError, DataError
from zoo.sources.geography_questions import COLOURS, KINDS, LAND, GeographyQuestions

XML = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE kgeographyMap>
<map><mapFile>{stem}.png</mapFile><name>{name}</name><divisionsName>Counties</divisionsName>
<division><name>Frontier</name><ignore>yes</ignore><color><red>0</red><green>0</green><blue>0</blue></color></division>
<division><name>Sea</name><ignore>allowClickMode</ignore><color><red>0</red><green>0</green><blue>200</blue></color></division>
{regions}</map>"""
REGION = (
    "<division><name>{0} {1}</name><capital>{1} City</capital>{2}<color><red>{3}</red><green>9</green><blue>9</blue></color></division>"
)
AREAS = tuple(f"{letter}land" for letter in "ABDIJKLOPZ")  # I, L are tested on, O and Z for validation; of flags D, J and K, P, Z


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder like the converter's, with maps of 60 x 40 pixels: sea on the left, then four regions with borders, the first one large."""
    source, target = tmp_path_factory.mktemp("source") / "kgeography", tmp_path_factory.mktemp("target")
    (source / "flags").mkdir(parents=True)
    for number, area in enumerate(AREAS):
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels[:, :10] = 0, 0, 200
        for place, (rows, columns) in enumerate([((0, 40), (11, 30)), ((0, 10), (31, 60)), ((11, 20), (31, 60)), ((30, 40), (31, 60))]):
            pixels[slice(*rows), slice(*columns)] = 100 + place, 9, 9
        Image.fromarray(pixels).quantize(64).save(source / f"area{number}.png")
        Image.new("RGB", (30, 20), (number, 0, 0)).save(source / "flags" / f"{area.lower()}.png")
        flag = f"<flag>{area.lower()}.png</flag>"
        regions = "".join(
            REGION.format(area, word, flag if not place else "", 100 + place)
            for place, word in enumerate(("West", "North", "Middle", "South"))
        )
        (source / f"area{number}.kgm").write_text(XML.format(stem=f"area{number}", name=f"{area} (Counties)", regions=regions))
    convert(source.parent, target)
    return target


def test_the_table_names_regions_with_their_places_and_leaves_the_sea_out(folder):
    row = json.loads((folder / "table.jsonl").read_text().splitlines()[0])
    assert (row["area"], row["division"], row["borders"]) == ("Aland", "county", [[0, 0, 0]])
    assert [region["name"] for region in row["regions"]] == ["Aland West", "Aland North", "Aland Middle", "Aland South"]
    west = row["regions"][0]
    assert west["share"] == pytest.approx(40 * 19 / 2400, abs=1e-6) and west["y"] == 0.5 and west["x"] == pytest.approx(20.5 / 60, abs=1e-4)
    assert west["flag"] == "flags/aland.png" and (folder / west["flag"]).is_file() and west["capital"] == "West City"


def coloured(image):
    """Return the rows and columns of each colour in an image, by the colour's name."""
    pixels = np.asarray(image.convert("RGB"))
    return {name: (pixels == colour).all(2).nonzero() for name, colour in COLOURS.items() if (pixels == colour).all(2).any()}


@pytest.mark.parametrize("name", GeographyQuestions.splits)
def test_answers_are_true_of_the_picture(folder, name):
    split = GeographyQuestions(path=folder, questions=500).split(name)
    kinds = []
    for index in range(50):
        sample = split.sample(index, np.random.default_rng(index) if name == "train" else None)
        said, image = sample.inputs["conversation"].messages[0].text, sample.inputs["conversation"].images[0]
        kinds.append(sample.kind)
        shown = coloured(image)
        if sample.kind == "position":
            axis = 0 if "north" in said or "south" in said else 1
            sign = -1 if "north" in said or "west" in said else 1
            assert sample.answers[0] == max(shown, key=lambda colour: sign * shown[colour][axis].mean())
        elif sample.kind == "size":
            assert sample.answers[0] == (min if "smaller" in said else max)(shown, key=lambda colour: len(shown[colour][0]))
        elif sample.kind == "count":
            (name_of, (rows, columns)) = next(iter(shown.items()))
            words = {(bool(column < 30), int(row // 10) if column >= 30 else 0) for row, column in zip(rows, columns, strict=True)}
            assert name_of in said and sample.answers[1] == str(len(words))
        elif sample.kind in ("region", "capital"):
            rows, columns = shown["red"]
            place = "West" if columns.mean() < 30 else ("North", "Middle", "South")[int(rows.mean() // 10) if rows.mean() < 20 else 2]
            assert place in sample.answers[0]
        else:
            assert not shown and sample.answers[0] in (*AREAS, *(f"{area} West" for area in AREAS))
    assert set(kinds) == set(KINDS)


def test_the_sea_is_white_and_land_is_grey(folder):
    split = GeographyQuestions(path=folder, kinds=["map"]).split("train")
    pixels = np.asarray(split.sample(0).inputs["conversation"].images[0])
    assert (pixels[:, 5] == 255).all() and (pixels[20, 20] == LAND).all() and (pixels[20, 30] < 100).all()


def test_maps_and_flags_of_the_tests_are_never_trained_on(folder):
    splits = [GeographyQuestions(path=folder).split(name) for name in GeographyQuestions.splits]
    for kind in ("maps", "flags"):
        sets = [{str(each.area if kind == "maps" else each[0]) for each in getattr(split, kind)} for split in splits]
        assert all(sets) and sum(map(len, sets)) == len(set.union(*sets)) == len(AREAS)


def test_a_question_follows_from_its_numbers_alone(folder):
    split = GeographyQuestions(path=folder).split("train")
    first, again = (split.sample(3, np.random.default_rng((0, 0, 3))) for _ in range(2))
    assert first.answers == again.answers and first.id == again.id
    ours, theirs = (np.asarray(sample.inputs["conversation"].images[0]) for sample in (first, again))
    assert (ours == theirs).all()


def test_captions_name_what_training_may_answer_and_no_area_of_the_tests(folder):
    source = GeographyQuestions(path=folder)
    texts = set(source.captions())
    assert {each.area for each in source.split("train").maps} <= texts
    assert not {each.area for name in ("validation", "test") for each in source.split(name).maps} & texts


def test_names_are_made_plain():
    names = (
        "Latvia Districts (Pre 2009)",
        "Italy by Provinces",
        "Denmark (Counties) (1970-2006)",
        "Portugal Provinces (traditional)",
        "New-Zealand",
    )
    assert [area_of(name) for name in names] == ["Latvia", "Italy", "Denmark", "Portugal", "New Zealand"]
    words = ("Provinces and Territories", "Autonomous communities", "Parishes", "District", "Provinces (traditional)")
    assert [singular(word) for word in words] == ["province or territory", "autonomous community", "parish", "district", "province"]


def test_what_is_no_such_folder_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="zoo fetch kgeography"):
        GeographyQuestions(path=tmp_path)
    (tmp_path / "table.jsonl").write_text('{"path": "a.png"}\n')
    with pytest.raises(DataError, match="holds no maps"):
        GeographyQuestions(path=tmp_path)
    (tmp_path / "table.jsonl").write_text('{"path": \n')
    with pytest.raises(DataError, match="is damaged"):
        GeographyQuestions(path=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'capital'"):
        GeographyQuestions(path=folder, kinds=["capitals"])
    with pytest.raises(ConfigError, match="questions: 0"):
        GeographyQuestions(path=folder, questions=0)
