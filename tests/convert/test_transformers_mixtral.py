"""transformers' Mixtral against our ``causal_lm`` with experts: directories in, directories out, and the loss that balances the experts."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

import zoo
from tests.convert.test_transformers_causal_lm import GOLDEN_SIZES, SIZES, beams_equal, fill_with_sines
from zoo.interop.causal_lm import configs, transformers_causal_lm
from zoo.layers.experts import balance_loss
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly, read_tensors

FLAVOURS = {
    "two of five experts": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "one of three experts, short window": {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 5},
}


def make(**words):
    config = MixtralConfig(**{**SIZES, "num_attention_heads": 6, "num_key_value_heads": 3, **words})
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("flavour", FLAVOURS)
@torch.no_grad()
def test_a_mixtral_comes_in_and_goes_back(flavour, scramble, same_state, close, tmp_path):
    reference = scramble(make(**FLAVOURS[flavour])).eval()
    reference.save_pretrained(tmp_path / "theirs")
    model, ids = zoo.load(tmp_path / "theirs").head.language, torch.randint(0, 97, (3, 20))
    mask = torch.arange(20) >= torch.tensor([[0], [4], [15]])
    close(model.logits(model(ids)), reference(ids).logits)
    theirs = reference(ids, attention_mask=mask.long(), position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    close(model.logits(model(ids, mask))[mask], theirs[mask])
    zoo.export(zoo.load(tmp_path / "theirs"), tmp_path / "back")
    same_state(read_tensors(tmp_path / "back" / "model.safetensors"), read_tensors(tmp_path / "theirs" / "model.safetensors"))
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True, attn_implementation="eager")
    assert not report["missing_keys"] and not report["unexpected_keys"]
    close(again(ids).logits, reference(ids).logits)
    assert configs.arguments(again.config.to_dict()) == configs.arguments(reference.config.to_dict())


def ours_in_memory(reference):
    arguments = configs.arguments(reference.config.to_dict())
    model = build_part("language", {"name": "causal_lm", **arguments}, "language")
    load_strictly(model, transformers_causal_lm.to_zoo(reference.state_dict()), origin="transformers")
    return model


@torch.no_grad()
def test_greedy_tokens_equal_transformers(scramble):
    reference = scramble(make(num_local_experts=4)).eval()
    model, ids = ours_in_memory(reference).eval(), torch.randint(3, 97, (2, 7))
    cache, found = model.new_cache(2, 27), []
    hidden = model(ids, cache=cache)
    for _ in range(20):
        found.append(model.logits(hidden[:, -1]).argmax(-1, keepdim=True))
        hidden = model(found[-1], cache=cache)
    expected = reference.generate(ids, max_new_tokens=20, min_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(torch.cat(found, dim=1), expected[:, 7:])


@torch.no_grad()
def test_beams_equal_transformers(scramble):
    reference = scramble(make(num_local_experts=4)).eval()
    beams_equal(ours_in_memory(reference).eval(), reference, torch.randint(3, 97, (2, 7)))


@torch.no_grad()
def test_logits_and_balance_are_those_of_the_specification():
    """From the specification ``decoders_more``, section 2; transformers pools the tokens of all layers in its loss."""
    words = {"head_dim": 4, "num_local_experts": 4, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    reference = make(**{**GOLDEN_SIZES, **words}).eval()
    fill_with_sines(reference)
    model, ids = ours_in_memory(reference).train(), torch.tensor([[5, 9, 3, 7, 2, 11]])
    logits = model.logits(model(ids))[0]
    assert sum(p.numel() for p in model.parameters()) == 3384
    assert logits[-1, :4].tolist() == pytest.approx([0.022509634, -0.197634655, -0.329067023, -0.312791655], abs=2e-6)
    assert logits.abs().sum().item() == pytest.approx(21.17462, abs=1e-4)
    routings = [block.mlp.routing for block in model.blocks]
    pooled = balance_loss(torch.cat([r.probabilities for r in routings]), torch.cat([r.chosen for r in routings]))
    assert pooled.item() == pytest.approx(2.0133474, abs=1e-5)
    theirs = load_balancing_loss_func(tuple(r.logits for r in routings), 4, 2)
    torch.testing.assert_close(pooled, theirs, atol=1e-6, rtol=0)
