"""Configs compose, wrong ones are refused with the key, both sides and what is legal, and none can name code."""

import pytest

import zoo
from zoo.compose import apply_overrides, compose
from zoo.registry import packaged_directory, rows

REFUSED = {
    "system.encoders.image.drop_pat=0.1": "system.encoders.image.drop_pat: .*did you mean 'drop_path'",
    "training.learning_rat=1": "training.learning_rat: .*did you mean 'learning_rate'",
    "sytem.head.embed_dim=3": "did you mean 'system'",
    "system=clip_vit_nan": "system: there is no system 'clip_vit_nan'; did you mean 'clip_vit_nano'",
    "encoder@system.encoders.image=vit_nan": "did you mean 'vit_nano'",
    "encoder@system.encoders.imag=vit_nano": "did you mean 'encoder@system.encoders.image'",
    "data=digit": "data: there is no data 'digit'; did you mean 'digits'",
    "experiment=digit_pair": "did you mean 'digit_pairs'",
    "nonsense": "write KEY=VALUE",
}
MISFITS = {
    "encoder@system.encoders.image=text_nano": "system.encoders.image: encoder 'text' takes text.*stands under 'image'",
    "system.processor.text.vocab_size=600": "processor.text.vocab_size: the processor has 600.*has 512",
    "system.encoders.text.vocab_size=300": "the processor has 512.*has 300",
    "system.processor.image.image_size=64": "processor.image.image_size: the processor has 64.*has 32",
    "system.encoders.image.num_heads=5": "system.encoders.image.num_heads: 5 does not divide dim 64",
    "system.encoders.image.patch_size=5": "system.encoders.image.patch_size: 5 does not divide image_size 32",
    "system.encoders.image.pool=none": "gives no pooled vector.*head 'clip' reads",
    "system.encoders.text.eot_token_id=1": "pools at 1, but the tokenizer ends texts with 2",
    "system.head.projections=none,system.encoders.image.dim=96": "encoder's dim 96 to equal embed_dim 64",
    "~system.encoders.text": "system.encoders: has 1 .*head 'clip' takes 2",
    "system.encoders.image.depth=two": "system.encoders.image.depth: got 'two'",
    "data.source.name=digit": "data.source.name: there is no source 'digit'; did you mean 'digits'",
    "training.precision=fp8": "training.precision: there is no 'fp8'",
    "training.batch_size=0": "training.batch_size: 0; allowed is 1 or more",
}


@pytest.mark.parametrize("override", REFUSED)
def test_unknown_keys_and_options_are_refused_with_near_matches(override):
    with pytest.raises(zoo.ConfigError, match=REFUSED[override]):
        compose("train", [override])


@pytest.mark.parametrize("overrides", MISFITS)
def test_parts_that_do_not_fit_are_refused_before_weights_are_made(overrides):
    with pytest.raises(zoo.ConfigError, match=MISFITS[overrides]):
        zoo.check(compose("train", overrides.split(",")))


@pytest.mark.parametrize("name", rows("system"))
def test_every_system_composes_and_fits(name):
    report = zoo.check(compose("train", [f"system={name}"]))
    assert report.edges[-1].target == "loss"


@pytest.mark.parametrize("group", ["experiment", "training", "evaluation"])
def test_every_option_of_a_plain_group_composes(group):
    for path in (packaged_directory("conf") / group).glob("*.yaml"):
        zoo.check(compose("train", [f"{group}={path.stem}"]))


@pytest.mark.parametrize("name", [p.stem for p in (packaged_directory("conf") / "data").glob("*.yaml")])
def test_every_data_option_composes_and_fits(name, tmp_path):
    extra = [f"data.source.path={tmp_path}"] if name in ("folder", "fashion_mnist") else []
    zoo.check(compose("train", [f"data={name}", *extra]))


def test_a_missing_path_says_which_key():
    with pytest.raises(zoo.ConfigError, match=r"data.source.path: has no value.*data.source.path=..."):
        compose("train", ["data=folder"])


def test_a_keyword_that_the_row_does_not_mention_can_be_set():
    config = compose("train", ["system.encoders.image.drop_path=0.1", "training.max_steps=7"])
    assert config["system"]["encoders"]["image"]["drop_path"] == 0.1


def test_another_tower_is_one_override():
    assert zoo.create_system("clip_vit_nano", ["encoder@system.encoders.text=text_bidirectional_nano"]).encoders["text"].causal is False


@pytest.mark.parametrize("override", ["+system.head._target_=os.system", "+data.source._target_=os.system", "+_partial_=true"])
def test_a_config_that_names_code_is_refused(override):
    with pytest.raises(zoo.ConfigError, match="names code"):
        compose("train", [override])


def test_a_mapping_that_names_code_is_refused():
    config = {"encoders": {"image": "vit_nano", "text": "text_nano"}, "head": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(zoo.ConfigError, match="system.head._target_: 'os.system' names code"):
        zoo.create_system(config)


def test_a_mapping_may_name_rows():
    system = zoo.create_system({"encoders": {"image": "vit_nano", "text": "text_nano"}, "head": "clip_nano"})
    assert set(system.encoders) == {"image", "text"}


def test_saved_configs_take_overrides_of_their_own_keys_only():
    config = compose("train")
    assert apply_overrides(config, ["training.max_steps=9"])["training"]["max_steps"] == 9
    with pytest.raises(zoo.ConfigError, match="did you mean 'max_steps'"):
        apply_overrides(config, ["training.max_step=9"])
