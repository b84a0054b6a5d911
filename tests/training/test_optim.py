"""Optimizer groups: weight decay by parameter, and learning rate by layer."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

import zoo
from zoo.interop.vit import timm_vit
from zoo.registry.construct import construct
from zoo.training.optim import layers_above, make_optimizer, parameter_groups, set_learning_rate
from zoo.training.settings import TrainingSettings

SETTINGS = {"max_steps": 10, "batch_size": 4, "learning_rate": 1e-3}


def by_name(model, groups, key):
    """Return the setting of each parameter's group as a tensor of the parameter's shape, so that a converter can rename it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: torch.full_like(p, group[key]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("key", ["lr_scale", "weight_decay"])
@pytest.mark.parametrize("pool", [("token", "cls"), ("avg", "mean_norm")], ids=lambda words: words[1])
def test_layers_and_decay_of_a_vit_equal_timm(key, pool):
    reference = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=5, num_heads=3, num_classes=7, global_pool=pool[0])
    encoder = {"name": "vit", "image_size": 32, "patch_size": 8, "dim": 48, "depth": 5, "num_heads": 3, "pool": pool[1]}
    system = zoo.create_system({"encoders": {"image": encoder}, "head": {"name": "classifier", "num_classes": 7}})
    theirs = param_groups_layer_decay(reference, 0.05, reference.no_weight_decay(), layer_decay=0.7)
    scales = by_name(reference, theirs, key)
    expected = {f"encoders.image.{k}": v for k, v in timm_vit.to_zoo(scales, drop=("head",)).items()}
    expected |= {f"head.linear.{word}": scales[f"head.{word}"] for word in ("weight", "bias")}
    if key == "lr_scale":  # timm's matcher keeps ``norm`` with the last block, BEiT's and MAE's code and ours with the head
        expected |= {name: torch.ones_like(expected[name]) for name in expected if name.startswith("encoders.image.norm.")}
    found = by_name(system, parameter_groups(system, 0.05, 0.7), key)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["clip_vit_nano", "classifier_vig_nano"])
def test_without_layer_decay_there_is_one_rate_and_only_matrices_decay(name):
    model = zoo.create_model(name)
    decayed, undecayed = parameter_groups(model, 0.1)
    assert decayed["lr_scale"] == undecayed["lr_scale"] == 1 and (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(decayed["params"]) + len(undecayed["params"]) == len([p for p in model.parameters() if p.requires_grad])


def test_towers_of_different_depth_meet_at_the_top():
    system = zoo.create_system("clip_vit_nano", ["system.encoders.text.depth=4"])
    scales = {name: tensor.flatten()[0].item() for name, tensor in by_name(system, parameter_groups(system, 0.1, 0.5), "lr_scale").items()}
    assert scales["encoders.image.positions"] == 0.5**3 and scales["encoders.text.positions"] == 0.5**5
    assert scales["encoders.image.blocks.1.norm1.weight"] == scales["encoders.text.blocks.3.norm1.weight"] == 0.5
    assert {scales[n] for n in ("head.logit_scale", "head.projections.text.weight", "encoders.text.norm.weight")} == {1.0}


def test_blocks_of_stages_are_counted_on_as_timm_does():
    model = timm.create_model("convnext_atto", pretrained=False)
    above = layers_above(model)
    layers = [above[f"stages.{stage}.blocks.{block}.mlp.fc1.weight"] for stage, depth in enumerate((2, 2, 6, 2)) for block in range(depth)]
    assert layers == list(range(12, 0, -1))
    assert above["stem.0.weight"] == 13 and above["head.fc.weight"] == 0
    assert above["stages.1.downsample.1.weight"] == above["stages.1.blocks.0.mlp.fc1.weight"]


def test_a_wrapped_backbone_has_its_layers_and_one_without_blocks_is_one_layer():
    wrapped = layers_above(nn.ModuleDict({"model": zoo.create_model("vit_nano")}))
    assert wrapped["model.positions"] == 3 and wrapped["model.blocks.1.mlp.fc1.weight"] == 1 and wrapped["model.norm.weight"] == 0
    assert set(layers_above(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).values()) == {1}


def test_the_layers_of_a_neck_or_stem_are_not_those_of_the_trunk():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            self.neck = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])})

    above = layers_above(Encoder())
    assert [above[f"blocks.{i}.bias"] for i in range(3)] == [3, 2, 1] and above["neck.layers.0.bias"] == 0
    vig = layers_above(zoo.create_model("vig_nano"))  # whose stem is a list of layers
    assert {n for name, n in vig.items() if name.startswith("stem")} == {5} and vig["blocks.0.grapher.fc1.weight"] == 4


def test_each_group_gets_its_share_of_the_scheduled_rate():
    optimizer = make_optimizer(zoo.create_model("classifier_vit_nano"), TrainingSettings(**SETTINGS, layer_decay=0.5))
    set_learning_rate(optimizer, 0.1)
    set_learning_rate(optimizer, 0.2)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.2 * 0.5**i for i in (3, 2, 1, 0)]


@pytest.mark.parametrize("value", [0, -0.5, 1.1])
def test_a_factor_outside_its_range_is_refused(value):
    with pytest.raises(zoo.ConfigError, match=f"training.layer_decay: {value}.*; allowed is above 0 to 1, or null"):
        construct(TrainingSettings, {**SETTINGS, "layer_decay": value}, "training")


def test_a_part_with_a_rate_of_its_own_has_it_and_the_innermost_counts():
    model = zoo.create_system({"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "num_classes": 3}})
    rates = {"encoders.image": 2e-4, "encoders.image.blocks.1": 5e-5}
    settings = construct(TrainingSettings, {"max_steps": 1, "batch_size": 1, "learning_rate": 1e-3, "learning_rates": rates}, "training")
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 0.5e-3)  # half way down the schedule
    found = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        peak = 5e-5 if ".blocks.1." in name else 2e-4 if name.startswith("encoders.") else 1e-3
        assert found[id(parameter)] == pytest.approx(peak / 2), name


def test_a_rate_for_a_part_that_is_not_there_is_refused_with_near_matches():
    model = zoo.create_system({"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "num_classes": 3}})
    with pytest.raises(zoo.ConfigError, match=r"training.learning_rates.encoders.imag.*encoders.image"):
        parameter_groups(model, 0.1, scales={"encoders.imag": 0.1})


def test_what_is_kept_of_weights_for_inference_is_made_anew_after_a_step():
    """Fused kernels update weights unnoticed by autograd; speech after a step must equal that of a model loaded with the new weights."""
    torch.manual_seed(0)
    system = zoo.create_system("tacotron2_nano")
    optimizer = make_optimizer(system, TrainingSettings(**{**SETTINGS, "learning_rate": 0.1}))
    before = system.eval().synthesize(["two"], max_seconds=0.3)[0].mels
    for parameter in system.parameters():
        parameter.grad = torch.randn_like(parameter)
    versions = [parameter._version for parameter in system.parameters()]
    optimizer.step()
    assert all(parameter._version > version for parameter, version in zip(system.parameters(), versions, strict=True))
    after = system.synthesize(["two"], max_seconds=0.3)[0].mels  # without train() between
    fresh = zoo.create_system("tacotron2_nano").eval()
    fresh.load_state_dict(system.state_dict())
    assert torch.equal(after, fresh.synthesize(["two"], max_seconds=0.3)[0].mels) and not torch.equal(after[:, :3], before[:, :3])
