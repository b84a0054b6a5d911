"""transformers' Switch Transformers against our T5 with experts: directories in and out, outputs, greedy and beam tokens, refusals.

Their release 5.17 is no reference for the limit on tokens and for the losses (its router drops no token and returns probabilities in place
of logits); tests/layers/test_experts.py has rows by hand.
"""

import functools
import json

import pytest
import torch
import transformers
from transformers import GenerationConfig, SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

import zoo
from tests.convert.test_seq2seq import outputs, sources
from zoo.interop.base.recognise import unknown_files
from zoo.interop.base.source import read_source
from zoo.interop.seq2seq import switch
from zoo.interop.seq2seq.format import Seq2Seqs
from zoo.language.decoding.sampling import Sampling
from zoo.language.decoding.seq2seq import generate_answers
from zoo.layers.experts import Experts
from zoo.storage.tensors import read_tensors, write_tensors

SIZES = {"vocab_size": 61, "d_model": 24, "d_kv": 7, "num_heads": 3, "d_ff": 20, "decoder_start_token_id": 0, "expert_capacity": 5}
FLAVOURS = {  # their keywords, and what becomes of them: experts and distance of the encoder, then of the decoder
    "every second layer": (
        {"num_layers": 4, "num_decoder_layers": 4, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "num_experts": 3},
        (3, 2, 3, 2),
    ),
    "every layer and the last": (
        {"num_layers": 3, "num_decoder_layers": 2, "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 1, "num_experts": 5},
        (5, 1, 5, 2),
    ),
    "a dense encoder": (
        {"num_layers": 1, "num_decoder_layers": 3, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 1, "num_experts": 2},
        (None, 2, 2, 3),
    ),
}
SEVERAL = [name for name in FLAVOURS if name != "a dense encoder"]  # their cache fails with more layers in the decoder


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


def made(**keywords):
    """Return their model with random values everywhere; large routers choose clearly."""
    torch.manual_seed(1)
    model = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**{**SIZES, **keywords})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3).add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Their model, and ours read from its directory."""

    @functools.cache
    def make(name):
        model, directory = made(**FLAVOURS[name][0]), tmp_path_factory.mktemp("theirs")
        model.save_pretrained(directory)
        return model, zoo.load(directory), directory

    return make


def logits_of(model, ids, mask, target):
    return model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=target[:, :-1], use_cache=False).logits


def targets():
    return torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", FLAVOURS)
@torch.no_grad()
def test_outputs_equal_theirs_and_go_back(name, pair, tmp_path):
    model, system, directory = pair(name)
    assert not unknown_files(read_source(directory))  # every file that their library writes is used, harmless or named
    encoder, head = system.config["encoders"]["text"], system.config["head"]
    found = [part.get(key, 2 if key == "expert_step" else None) for part in (encoder, head) for key in ("num_experts", "expert_step")]
    assert tuple(found) == FLAVOURS[name][1]
    ids, mask = sources()
    expected = logits_of(model, ids, mask, targets())
    torch.testing.assert_close(outputs(system, ids, mask, targets()), expected, atol=1e-5, rtol=1e-5)
    zoo.export(system, tmp_path / "back")
    again, report = SwitchTransformersForConditionalGeneration.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(logits_of(again.eval(), ids, mask, targets()), expected, atol=1e-6, rtol=1e-6)
    theirs, ours = zoo.load(tmp_path / "back"), system.state_dict()
    assert theirs.state_dict().keys() == ours.keys() and all(tensor.equal(ours[key]) for key, tensor in theirs.state_dict().items())
    assert theirs.config["encoders"] == system.config["encoders"] and theirs.config["head"] == system.config["head"]


@torch.no_grad()
def test_the_tokens_use_several_experts_in_each_layer(pair):
    """Otherwise the comparison would compare one expert only."""
    _, system, _ = pair("every second layer")
    (ids, mask), chosen = sources(), []
    routers = [module.router for module in system.modules() if isinstance(module, Experts)]
    hooks = [router.register_forward_hook(lambda *call: chosen.append(len(call[2].argmax(-1).unique()))) for router in routers]
    outputs(system, ids, mask, targets())
    for hook in hooks:
        hook.remove()
    assert len(chosen) == 4 and min(chosen) > 1, chosen


SETTINGS = {"greedy": {}, "beams": {"num_beams": 4}, "beams, penalty": {"num_beams": 3, "length_penalty": 2.0}}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_written_tokens_equal_theirs(name, settings, pair):
    model, system, _ = pair(name)
    ids, mask = sources()
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    generation = GenerationConfig(**special, max_new_tokens=9, do_sample=False, **settings)
    model.generation_config = GenerationConfig(**special)
    theirs = model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=generation)
    encoded = system.encode_ready("text", ids, mask)
    found = generate_answers(system.head.decoder, encoded, [0], Sampling(max_new_tokens=9, eos_token_ids=(1,), **settings))
    for answer, row in zip(found, theirs.tolist(), strict=True):
        assert answer.ids == row[1 : row.index(1, 1) if 1 in row[1:] else len(row)]


@torch.no_grad()
def test_a_cache_changes_nothing(pair):
    _, system, _ = pair("every second layer")
    decoder, (ids, mask) = system.head.decoder, sources()
    encoded = system.encode_ready("text", ids, mask)
    memory, target = decoder.remember(encoded.tokens, encoded.mask), torch.randint(3, 50, (6, 8))  # two rows for each source
    whole = decoder.logits(decoder.states(target, memory))
    cache = decoder.new_cache(memory, batch_size=6, length=8)
    steps = [decoder.logits(decoder.states(target[:, a:b], cache.memory, cache=cache)) for a, b in ((0, 3), (3, 4), (4, 8))]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(pair):
    _, system, _ = pair("every layer and the last")
    target, ids, real = torch.tensor([[7, 11, 4, 7]]), torch.tensor([[5, 9, 3]]), torch.tensor([[False, False, True, True, True]])
    alone = outputs(system, ids, torch.ones_like(ids, dtype=torch.bool), target)
    for padded, mask in ((torch.tensor([[1, 1, 5, 9, 3]]), real), (torch.tensor([[5, 9, 3, 1, 1]]), real.flip(1))):
        torch.testing.assert_close(outputs(system, padded, mask, target), alone, atol=1e-5, rtol=1e-5)
    encoded, decoder = system.encode_ready("text", ids), system.head.decoder
    memory = decoder.remember(encoded.tokens, encoded.mask)
    shifted = decoder.logits(decoder.states(torch.tensor([[0, 0, 7, 11, 4]]), memory, mask=real))
    torch.testing.assert_close(shifted[:, 2:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_an_output_matrix_of_its_own_comes_in_and_goes_back(tied, tmp_path):
    """With ``tie_word_embeddings`` theirs divides the hidden states, even if the file holds another matrix."""
    model = made(**FLAVOURS["every second layer"][0], tie_word_embeddings=False)
    for stack in (model.encoder, model.decoder):
        stack.embed_tokens.weight.copy_(model.shared.weight)  # three tables, which the file holds
    model.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": tied}))
    reference = SwitchTransformersForConditionalGeneration.from_pretrained(tmp_path / "theirs").eval()
    assert not reference.lm_head.weight.equal(reference.shared.weight)
    system, (ids, mask) = zoo.load(tmp_path / "theirs"), sources()
    expected = logits_of(reference, ids, mask, targets())
    torch.testing.assert_close(outputs(system, ids, mask, targets()), expected, atol=1e-5, rtol=1e-5)
    zoo.export(system, tmp_path / "back")
    again = SwitchTransformersForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    torch.testing.assert_close(logits_of(again, ids, mask, targets()), expected, atol=1e-6, rtol=1e-6)


def test_a_word_table_of_one_stack_is_refused(tmp_path):
    made(**FLAVOURS["every second layer"][0], tie_word_embeddings=False).save_pretrained(tmp_path)
    with pytest.raises(zoo.WeightsError, match=r"unknown \(decoder.embed_tokens.weight, encoder.embed_tokens.weight\)"):
        zoo.load(tmp_path)


def test_files_of_the_hub_hold_copies_of_the_word_table_and_older_keys(pair, tmp_path):
    """The repositories of 2022: every name of the shared table, positions of the cross-attention, and a fuller config."""
    _, system, directory = pair("every second layer")
    tensors, config = read_tensors(directory / "model.safetensors"), json.loads((directory / "config.json").read_text())
    tensors |= {name: tensors["shared.weight"].clone() for name in switch.COPIES}
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(32, 3)
    write_tensors(tensors, tmp_path / "model.safetensors")
    older = {"router_type": "tokens_masked", "feed_forward_proj": "relu", "is_gated_act": False, "num_selected_experts": 1}
    older |= {"batch_prioritized_routing": False, "router_ignore_padding_tokens": False}
    (tmp_path / "config.json").write_text(json.dumps({**config, **older}))
    found, expected = zoo.load(tmp_path).state_dict(), system.state_dict()
    assert found.keys() == expected.keys() and all(found[key].equal(expected[key]) for key in expected)


def test_the_settings_of_training_are_taken_and_the_capacity_is_named(pair, tmp_path):
    _, _, directory = pair("every second layer")
    config = json.loads((directory / "config.json").read_text())
    changed = {"router_jitter_noise": 0.02, "router_aux_loss_coef": 0.03, "router_z_loss_coef": 0.004}
    encoder, head = switch.arguments({**config, **changed}, read_tensors(directory / "model.safetensors"))
    for part in (encoder, head):
        assert [part[key] for key in ("router_jitter", "balance_weight", "router_z_weight")] == [0.02, 0.03, 0.004]
        assert "expert_capacity" not in part
    (note,) = Seq2Seqs().describe(read_source(directory)).left_out
    assert note.startswith("expert_capacity 5: a number of tokens")
    zoo.export(zoo.load(directory), tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["expert_capacity"] == 512  # the longest text: nothing is dropped


@torch.no_grad()
def test_one_expert_in_every_layer_is_a_t5():
    """Its probability is 1, so that the dense model with the same matrices gives the same logits."""
    torch.manual_seed(0)
    sparse = zoo.create_system(
        "switch_nano", [f"system.{part}.{key}=1" for part in ("encoders.text", "head") for key in ("num_experts", "expert_step")]
    ).eval()
    dense, state = zoo.create_system("t5_seq2seq_nano").eval(), {}
    for name, tensor in sparse.state_dict().items():
        if ".router." not in name:
            one = name.endswith((".mlp.fc1", ".mlp.fc2"))
            state[f"{name}.weight" if one else name] = tensor[0] if one else tensor
    dense.load_state_dict(state)
    ids, mask = sources()
    torch.testing.assert_close(outputs(sparse, ids, mask, targets()), outputs(dense, ids, mask, targets()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"router_bias": True}, "router_bias: got True.*allowed is False"),
        ({"router_dtype": "bfloat16"}, "router_dtype: got 'bfloat16'"),
        ({"router_type": "experts_masked"}, "router_type: got 'experts_masked'.*allowed is 'tokens_masked'"),
        ({"add_router_probs": True}, "add_router_probs: got True"),
        ({"num_selected_experts": 2}, "num_selected_experts: got 2"),
        ({"batch_prioritized_routing": True}, "batch_prioritized_routing: got True"),
        ({"feed_forward_proj": "gated-gelu"}, "feed_forward_proj: got 'gated-gelu'"),
        ({"dense_act_fn": "mish"}, "dense_act_fn: our t5 with experts has no 'mish'"),
        ({"num_experts": 0}, "num_experts: got 0"),
    ],
)
def test_configs_that_ours_cannot_honour_are_refused_by_name(change, message, pair):
    _, _, directory = pair("every second layer")
    config = {**json.loads((directory / "config.json").read_text()), **change}
    with pytest.raises(zoo.ConfigError, match=message):
        switch.arguments(config, read_tensors(directory / "model.safetensors"))


def test_experts_at_uneven_distances_are_refused(pair):
    _, _, directory = pair("every second layer")
    config, tensors = json.loads((directory / "config.json").read_text()), read_tensors(directory / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.block.1.layer.1.mlp")}
    with pytest.raises(zoo.ConfigError, match=r"encoder_sparse_step: the layers \[3\] of 4 have experts"):
        switch.arguments(config, left)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["encoders.text.num_experts=2"], "head.num_experts: 4, but encoders.text.num_experts is 2"),
        (["head.balance_weight=0.5"], "head.balance_weight: 0.5, but encoders.text.balance_weight is 0.01"),
        (["head.scale_output=false"], "scale_output: got False"),
        (["encoders.text.gated=true", "encoders.text.activation=gelu", "head.activation=geglu"], "gated: got True"),
        (["head.norm_place=after"], "norm_place: got 'after'"),
    ],
)
def test_systems_that_theirs_cannot_honour_are_not_exported(changes, message, tmp_path):
    system = zoo.create_system("switch_nano", [f"system.{change}" for change in changes])
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.export(system, tmp_path / "back")


def test_the_encoder_alone_is_not_exported_as_a_t5(tmp_path):
    with pytest.raises(zoo.ConfigError, match="num_experts: got 4, which transformers' T5EncoderModel does not have"):
        zoo.export(zoo.create_model("switch_encoder_nano"), tmp_path / "back")
