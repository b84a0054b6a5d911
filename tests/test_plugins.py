"""Parts and rows of other installed packages: found, used, saved, and refused with a message that helps."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import zoo
from zoo.assembly.compose import compose
from zoo.registry import KINDS, find_part, name_of, part_names, register, rows
from zoo.registry.parts import BASES
from zoo.registry.plugins import GROUPS, plugins
from zoo.types import Encoded, Encoder

PLUGIN = Path(__file__).parent / "plugin"
ENCODER = "from zoo.types import Encoder\nclass Mine(Encoder):\n    modality = 'image'\nclass Other: ...\nvalue = 3\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution as pip does, into a folder of its own on the path; returns a function that uninstalls it."""

    def add(name, points, files=(), version="0.3.1", record=None, **further):
        folder = tmp_path / f"{name}-{version}"
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        if folder.exists():  # uninstalled before
            monkeypatch.syspath_prepend(folder)
            return None
        info.mkdir(parents=True)
        for path, text in dict(files).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        groups = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in each.items()) for group, each in points.items()]
        listed = (p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file())
        contents = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "entry_points.txt": "\n".join(groups)}
        contents |= {"RECORD": "".join(f"{path},,\n" for path in (listed if record is None else record))}
        for file, text in (contents | {k.replace("_json", ".json"): json.dumps(v) for k, v in further.items()}).items():
            (info / file).write_text(text)
        monkeypatch.syspath_prepend(folder)
        return lambda: sys.path.remove(str(folder))

    return add


@pytest.fixture
def swin(install):
    """Install the package of tests/plugin without building it."""
    points = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]
    files = {path.relative_to(PLUGIN).as_posix(): path.read_text() for path in PLUGIN.rglob("zoo_swin/**/*.*") if path.suffix != ".pyc"}
    return lambda distribution="zoo-swin", version="0.3.1": install(distribution, points, files, version)


def test_rows_and_parts_of_a_package_are_known_without_importing_it(install):
    table = "name: mine\nmodality: image\nvariants: {mine_nano: {}}\n"
    points = {"zoo.encoders": {"mine": "lazy_part:Mine"}, "zoo.rows": {"encoder_mine": "conf/encoder/mine.yaml"}}
    install("lazy", points, {"lazy_part.py": "raise RuntimeError", "conf/encoder/mine.yaml": table})
    assert "mine_nano" in zoo.list_models(kind="encoder", modality="image") and "mine" in part_names("encoder")
    assert (rows("encoder")["mine_nano"].distribution, rows("encoder")["vit_nano"].distribution) == ("lazy", "multimodal-zoo")
    assert compose("train", ["encoder@system.encoders.image=mine_nano"])["system"]["encoders"]["image"] == {"name": "mine"}


def test_options_of_a_package_stand_beside_ours(swin):
    swin()
    config = compose("train", ["system=classifier_swin_nano", "data=thin_stripes", "evaluation=certainty"])
    assert config["data"]["source"] == {"name": "stripes", "widest": 3} and config["evaluation"] == {"name": "certainty"}
    with pytest.raises(zoo.ConfigError, match="data: there is no data 'stripess'; did you mean 'stripes'"):
        compose("train", ["data=stripess"])
    with pytest.raises(zoo.ConfigError, match="did you mean 'swin_nano'"):
        zoo.create_model("swin_nan")


def test_a_model_of_a_package_is_saved_with_its_version_and_loads(swin, tmp_path):
    swin()
    encoder = zoo.create_model("swin_nano")
    zoo.save(encoder, tmp_path / "saved")
    content = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())
    assert content["requires"] == [{"kind": "encoder", "name": "swin", "distribution": "zoo-swin", "version": "0.3.1"}]
    x = torch.rand(2, 3, 32, 32)
    assert content["format"] == 1 and (zoo.load(tmp_path / "saved")(x).pooled == encoder(x).pooled).all()


def test_a_model_of_our_parts_alone_requires_nothing(tmp_path):
    zoo.save(zoo.create_system("clip_vit_nano"), tmp_path / "saved")
    assert "requires" not in yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())


@pytest.fixture
def saved(swin, tmp_path):
    """A model that was saved with zoo-swin 0.3.1, which is not installed any more."""
    uninstall = swin()
    zoo.save(zoo.create_model("swin_nano"), tmp_path / "saved")
    uninstall()
    return tmp_path / "saved"


def test_a_package_that_is_missing_is_named(saved):
    with pytest.raises(zoo.WeightsError) as error:
        zoo.load(saved)
    assert str(error.value) == f"{saved} needs encoder 'swin' of zoo-swin 0.3.1, which is not installed; install it if you trust it"


def test_another_version_is_one_warning(saved, swin, caplog):
    swin(version="0.4.0")
    zoo.load(saved)
    assert caplog.messages == [f"{saved} was saved with zoo-swin 0.3.1; installed is 0.4.0, whose results may differ"]


def test_a_name_that_another_distribution_has_now_is_refused(saved, swin):
    swin(distribution="imitation")
    with pytest.raises(zoo.WeightsError, match="needs encoder 'swin' of zoo-swin 0.3.1, but here 'swin' is of imitation 0.3.1; uninstall"):
        zoo.load(saved)


NO_SAVE = "requires holds .* the file was changed after it was saved"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "encoder", "name": "swin", "distribution": "--index-url=http://bad x", "version": "1"}, NO_SAVE),
        ({"kind": "encoder", "name": "os.system", "distribution": "x", "version": "1"}, NO_SAVE),
        ({"kind": "shell", "name": "x", "distribution": "x", "version": "1"}, NO_SAVE),
        ({"name": "swin"}, NO_SAVE),
        ("swin", r"requires\[0\]: got 'swin' \(str\); allowed is an object; save the model again"),
    ],
    ids=str,
)
def test_a_record_that_no_save_wrote_is_refused_as_it_is(saved, entry, message):
    content = yaml.safe_load((saved / "config.yaml").read_text())
    (saved / "config.yaml").write_text(yaml.safe_dump({**content, "requires": [entry]}))
    with pytest.raises(zoo.WeightsError, match=message):
        zoo.load(saved)


def test_a_part_of_a_package_that_the_file_does_not_say_it_needs_is_refused(saved, swin):
    content = yaml.safe_load((saved / "config.yaml").read_text())
    (saved / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if k != "requires"}))
    swin()
    with pytest.raises(zoo.WeightsError, match="names encoder 'swin' but does not say that it needs a plug-in"):
        zoo.load(saved)


def test_plugins_can_be_turned_off(saved, swin, monkeypatch):
    swin()
    monkeypatch.setenv("ZOO_PLUGINS", "0")
    assert not plugins("encoder") and "swin_nano" not in zoo.list_models()
    with pytest.raises(zoo.WeightsError, match="needs encoder 'swin' of zoo-swin 0.3.1, but ZOO_PLUGINS=0 turns plug-ins off"):
        zoo.load(saved)


def test_a_name_of_two_packages_is_refused_and_ours_is_never_shadowed(install):
    install("first", {"zoo.encoders": {"mine": "first_part:Mine", "vit": "first_part:Mine"}}, {"first_part.py": ENCODER})
    assert find_part("encoder", "vit").__module__ == "zoo.encoders.vit"
    with pytest.raises(
        zoo.ConfigError, match="encoder 'vit' is in multimodal-zoo and in first; uninstall one of the two, or set ZOO_PLUGINS=0"
    ):
        part_names("encoder")
    install("second", {"zoo.encoders": {"mine": "second_part:Mine"}})
    with pytest.raises(zoo.ConfigError, match="encoder 'mine' is in first and in second; uninstall one"):
        find_part("encoder", "mine")


@pytest.mark.parametrize("name", ["vit_nano", "clip_vit_nano"])
def test_a_row_of_two_packages_is_refused_whatever_its_kind(install, name):
    table = f"name: vit\nmodality: image\nvariants: {{{name}: {{}}}}\n"
    install("rows", {"zoo.rows": {"encoder_vit": "conf/encoder/vit.yaml"}}, {"conf/encoder/vit.yaml": table})
    with pytest.raises(zoo.ConfigError, match=f"row '{name}' is in multimodal-zoo .* and in rows .encoder.; uninstall one"):
        zoo.list_models()


def test_an_option_of_two_packages_is_refused(install):
    install("option", {"zoo.rows": {"data_digits": "conf/data/digits.yaml"}}, {"conf/data/digits.yaml": "source: {name: digits}"})
    with pytest.raises(zoo.ConfigError, match="data=digits is in multimodal-zoo and in option; uninstall one"):
        compose("train")


@pytest.mark.parametrize("name", ["my.encoder", "timm/mine", "my:encoder"])
def test_names_are_no_paths(install, name):
    install("paths", {"zoo.encoders": {name: "paths_part:Mine"}})
    with pytest.raises(zoo.ConfigError, match=f"encoder {name!r} of paths 0.3.1: allowed in a name are letters, digits, _ and -"):
        part_names("encoder")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "wrong_part:Other",
            "encoder 'mine' of wrong 0.3.1: wrong_part.Other is no subclass of zoo.types.Encoder; derive it from that class",
        ),
        ("wrong_part:value", "encoder 'mine' of wrong 0.3.1: got 3, which is no class; name a subclass of zoo.types.Encoder"),
        ("wrong_part:Missing", "encoder 'mine' of wrong 0.3.1: wrong_part:Missing cannot be imported .*; install its requirements"),
        ("nowhere.to.find:It", "encoder 'mine' of wrong 0.3.1: nowhere.to.find:It cannot be imported .No module named 'nowhere'.; install"),
    ],
)
def test_a_class_that_is_no_part_is_refused(install, target, message):
    install("wrong", {"zoo.encoders": {"mine": target}}, {"wrong_part.py": ENCODER})
    with pytest.raises(zoo.ConfigError, match=message):
        find_part("encoder", "mine")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_part_may_come_from_a_package(install, kind):
    module, _, base = BASES[kind].partition(":")
    source = f"from {module} import {base}\nclass Mine({base}): ...\n"
    install(f"of-{kind}", {GROUPS[kind]: {"mine": f"{kind}_of_package:Mine"}}, {f"{kind}_of_package.py": source})
    assert "mine" in part_names(kind) and name_of(kind, find_part(kind, "mine")) == "mine"
    with pytest.raises(zoo.ConfigError, match=f"somewhere: there is no {kind} 'min'; did you mean 'mine'"):
        find_part(kind, "min", "somewhere")


TABLE = "name: vit\nmodality: image\nvariants: {mine_nano: {}}\n"


@pytest.mark.parametrize(
    "path", ["conf/encoder/other.yaml", "../../secret/encoder/x.yaml", "/etc/passwd", "conf/other/mine.yaml", "conf/mine.txt"]
)
def test_rows_outside_the_files_of_a_distribution_are_refused(install, path):
    files = {"conf/encoder/mine.yaml": TABLE, "conf/other/mine.yaml": TABLE, "conf/mine.txt": TABLE, "conf/encoder/other.yaml": TABLE}
    record = [file for file in files if file != "conf/encoder/other.yaml"]
    install("outside", {"zoo.rows": {"mine": path}}, files, record=[*record, "../../secret/encoder/x.yaml"])
    with pytest.raises(
        zoo.ConfigError, match="rows 'mine' of outside 0.3.1: .* is no YAML file of that distribution; name one that its RECORD"
    ):
        zoo.list_models()


def test_rows_of_an_editable_install_lie_in_its_project(install, tmp_path):
    (tmp_path / "project" / "src" / "conf" / "encoder").mkdir(parents=True)
    (tmp_path / "project" / "src" / "conf" / "encoder" / "mine.yaml").write_text(TABLE)
    origin = {"url": (tmp_path / "project").as_uri(), "dir_info": {"editable": True}}
    install("editable", {"zoo.rows": {"mine": "conf/encoder/mine.yaml"}}, direct_url_json=origin)
    assert "mine_nano" in zoo.list_models()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[1, 2]", "holds no mapping; reinstall or uninstall tables"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system [ls]", "cannot be read"),
        ("variants: {}", "a table of rows needs 'name', a part, and 'variants', keywords by row"),
        ("name: vit\nvariants: {a.b: {}}", "row 'a.b'; allowed in a name are letters"),
        ("name: vit\nvariants: {a: 3}", "row 'a' needs a mapping of keywords"),
    ],
)
def test_a_table_that_cannot_be_read_names_its_package(install, table, message):
    install("tables", {"zoo.rows": {"mine": "conf/encoder/mine.yaml"}}, {"conf/encoder/mine.yaml": table})
    with pytest.raises(zoo.ConfigError, match=f"mine.yaml of tables.*{message}"):
        zoo.list_models()


class HandMade(Encoder):
    """An encoder that no package offers."""

    modality = "image"

    def __init__(self, dim=64):
        super().__init__()
        self.dim, self.weight = dim, nn.Parameter(torch.ones(dim))

    def forward(self, x, mask=None, *, reads="tokens"):
        return Encoded.of_pooled(x.mean((1, 2, 3))[:, None] * self.weight)


def test_registering_from_elsewhere_says_how_to_make_a_plugin():
    with pytest.raises(zoo.ConfigError) as error:
        register("encoder")(HandMade)
    assert '[project.entry-points."zoo.encoders"] NAME = "' in str(error.value) and ':HandMade" into its pyproject.toml' in str(error.value)
    with pytest.raises(zoo.ConfigError, match="register: there is no kind 'encodr'; did you mean 'encoder'"):
        register("encodr")
    Impostor = type("Impostor", (), {"__module__": "zoo.encoders.impostor"})
    with pytest.raises(zoo.ConfigError, match="encoder 'impostor': zoo.encoders.impostor.Impostor is no subclass of zoo.types.Encoder"):
        register("encoder")(Impostor)


def test_a_hand_made_part_is_not_saved_under_a_config_that_does_not_describe_it(tmp_path):
    system = zoo.create_system("clip_vit_nano")
    system.encoders["image"] = HandMade()
    with pytest.raises(
        zoo.ConfigError, match="encoders.image is a .*HandMade, but the model's config describes a zoo.encoders.vit.ViT; make it a"
    ):
        zoo.save(system, tmp_path / "saved")
    system = zoo.create_system("clip_vit_nano")
    system.encoders["audio"] = HandMade()
    with pytest.raises(zoo.ConfigError, match="encoders.audio is a .*HandMade, but the model's config describes no such part"):
        zoo.save(system, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_weights_of_another_shape_than_the_config_describes_are_not_saved(tmp_path):
    encoder = zoo.create_model("vit_nano")
    encoder.norm = nn.LayerNorm(32)
    with pytest.raises(zoo.ConfigError, match=r"norm.weight: has shape \[32\], but the model's config describes \[64\]"):
        zoo.save(encoder, tmp_path / "saved")
    encoder = zoo.create_model("vit_nano")
    encoder.further = nn.Linear(2, 2)
    with pytest.raises(zoo.ConfigError, match=r"further.weight: has shape \[2, 2\], but the model's config describes no such weight"):
        zoo.save(encoder, tmp_path / "saved")


def test_saving_draws_no_random_numbers(tmp_path):
    model = zoo.create_model("vig_nano", image_size=48)
    before = torch.get_rng_state()
    zoo.save(model, tmp_path / "saved")
    assert (torch.get_rng_state() == before).all()


def test_a_connector_of_a_package_is_chosen_by_name_and_recorded(swin, tmp_path):
    swin()
    words = ["encoder@system.encoders.image=swin_nano", "system.head.connectors.image={kind: window_pool, size: 8}"]
    system = zoo.create_system("llava_nano", words)
    assert type(system.head.connectors["image"]).__name__ == "WindowPool" and system.counts["image"](torch.zeros(3, 32, 32)) == 8
    system.processor.fit(["a b", "c d"])
    zoo.save(system, tmp_path / "saved")
    needs = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())["requires"]
    assert [(need["kind"], need["name"]) for need in needs] == [("encoder", "swin"), ("connector", "window_pool")]
    with pytest.raises(zoo.ConfigError, match="connectors.image.*size: 7 does not divide 64 tokens"):
        zoo.create_system("llava_nano", [words[0], "system.head.connectors.image={kind: window_pool, size: 7}"])
