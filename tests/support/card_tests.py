"""Tests that decide lines of verification cards, beside those that have the mark ``card`` in their own file.

One table, because most of these tests run for many families. ``conftest.py`` adds the mark ``card(name, capability)`` to each case.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence

EQUALS, BACK, BATCH = "equals its reference", "goes back", "batch-invariant"
ROW = {"": ("*",)}  # the id of the case is the name of the row
CAUSAL_LM = {  # by family: patterns of the ids
    **{name: (f"{name}*",) for name in ("mistral", "qwen2", "qwen3", "gemma", "gpt1", "gpt2")},
    "llama": ("grouped queries", "one key head*", "biases", "llama 3 positions", "linear positions", "yarn"),
    "phi": ("phi3*",),
    "gpt3": ("gpt neo",),
}
TEXT = {name: (f"{name}*",) for name in ("bert", "roberta", "albert", "electra", "deberta", "modernbert", "t5", "xlm", "xlnet")}
TEXT_HEADS = {
    **{"bert": ("BertFor*",), "roberta": ("Roberta*",), "albert": ("Albert*",)},
    **{"xlm": ("XLM*",), "electra": ("Electra*",), "deberta": ("Deberta*",), "modernbert": ("ModernBert*",)},
}
SEQ2SEQ = {"marian": ("marian*",), "bart": ("bart", "mbart", "pegasus"), "t5": ("t5*", "mt5")}
VIG = {"vig": ("isotropic*",), "pvig": ("pyramid*",)}

CARD_TESTS: dict[str, tuple[Sequence[str], Mapping[str, Sequence[str]]]] = {
    "encoders/test_contract.py::test_each_encoder_keeps_the_contract": ([BATCH], ROW),
    "language/test_contract.py::test_each_language_model_keeps_the_contract": ([BATCH], ROW),
    "convert/test_transformers_causal_lm.py::test_logits_equal_transformers": ([EQUALS], CAUSAL_LM),
    "convert/test_transformers_causal_lm.py::test_greedy_tokens_equal_transformers": ([EQUALS], CAUSAL_LM),
    "convert/test_transformers_causal_lm.py::test_beams_equal_transformers": ([EQUALS], CAUSAL_LM),
    "convert/test_transformers_causal_lm.py::test_it_goes_back_to_transformers": ([BACK], CAUSAL_LM),
    "convert/test_transformers_mixtral.py::test_a_mixtral_comes_in_and_goes_back": ([EQUALS, BACK], {"mixtral": ("*",)}),
    "convert/test_transformers_mixtral.py::test_greedy_tokens_equal_transformers": ([EQUALS], {"mixtral": ("*",)}),
    "convert/test_transformers_mixtral.py::test_beams_equal_transformers": ([EQUALS], {"mixtral": ("*",)}),
    "language/test_rwkv4.py::test_logits_and_greedy_tokens_equal_transformers_there_and_back": ([EQUALS, BACK], {"rwkv4": ("*",)}),
    "language/test_rwkv7.py::test_logits_and_states_equal_the_reference": ([EQUALS, BACK], {"rwkv7": ("*",)}),
    "test_export_language.py::test_real_smollm2_answers_as_transformers_token_for_token": ([EQUALS], {"smollm2": ("*",)}),
    "convert/test_transformers_text.py::test_an_encoder_comes_in_and_goes_back": ([EQUALS, BACK], TEXT),
    "convert/test_transformers_text.py::test_a_model_with_its_head_comes_in_and_goes_back": ([EQUALS, BACK], TEXT_HEADS),
    "convert/test_transformers_vit.py::test_tokens_and_pooled_vector_equal_transformers_at_any_size": ([EQUALS], {"vit": ("*",)}),
    "convert/test_transformers_vit.py::test_transformers_to_zoo_and_back_is_the_same_bit_for_bit_in_both_spellings": (
        [BACK],
        {"vit": ("*",)},
    ),
    "convert/test_timm_vit.py::test_tokens_and_pooled_vector_equal_timm": ([EQUALS], {"vit": ("*",)}),
    "convert/test_timm_vit.py::test_timm_to_zoo_and_back_is_the_same_bit_for_bit": ([BACK], {"vit": ("*",)}),
    "convert/test_timm_vit.py::test_pooled_vector_through_the_classifier_gives_timms_logits": ([EQUALS], {"classifier": ("*",)}),
    "convert/test_transformers_vit.py::test_pooled_vector_through_the_classifier_gives_their_logits": ([EQUALS], {"classifier": ("*",)}),
    "test_export.py::test_a_classifier_goes_to_transformers_and_timm": ([BACK], {"classifier": ("*",)}),
    "convert/test_transformers_dinov2.py::test_tokens_and_pooled_vector_equal_transformers_at_any_size": ([EQUALS], {"dinov2": ("*",)}),
    "convert/test_transformers_dinov2.py::test_transformers_to_zoo_and_back_is_the_same_bit_for_bit": ([BACK], {"dinov2": ("*",)}),
    "convert/test_vig.py::test_tokens_equal_the_naive_form_at_any_size": ([EQUALS], VIG),
    "convert/test_vig.py::test_published_names_come_back_bit_for_bit": ([BACK], VIG),
    "convert/test_transformers_llava.py::test_their_directory_gives_their_logits_here": ([EQUALS], {"llava": ("*",)}),
    "convert/test_transformers_llava.py::test_their_processor_and_greedy_text_are_ours": ([EQUALS], {"llava": ("*",)}),
    "convert/test_transformers_llava.py::test_what_came_from_there_goes_back": ([BACK], {"llava": ("*",)}),
    "heads/test_llava.py::test_a_batch_of_prompts_gives_what_single_prompts_give": ([BATCH], ROW),
    "convert/test_transformers_kosmos2.py::test_their_directory_gives_their_logits_here": ([EQUALS], {"kosmos_2": ("*",)}),
    "convert/test_transformers_kosmos2.py::test_their_greedy_tokens_are_ours": ([EQUALS], {"kosmos_2": ("*",)}),
    "convert/test_transformers_kosmos2.py::test_what_came_from_there_goes_back_bit_for_bit": ([BACK], {"kosmos_2": ("*",)}),
    "heads/test_reward.py::test_transformers_reward_models_load_and_go_back": ([EQUALS, BACK], {"reward": ("*",)}),
    "heads/test_reward.py::test_a_score_does_not_depend_on_padding": ([BATCH], {"reward": ("*",)}),
    "heads/test_kosmos.py::test_a_batch_of_prompts_gives_what_single_prompts_give": ([BATCH], {"kosmos": ("*",)}),
    "encoders/test_whisper.py::test_outputs_equal_those_of_openai_whisper": ([EQUALS], {"whisper": ("*",)}),
    "heads/test_whisper.py::test_logits_equal_those_of_openai_whisper": ([EQUALS], {"whisper": ("*",)}),
    "heads/test_whisper.py::test_logits_equal_those_of_transformers": ([EQUALS], {"whisper": ("*",)}),
    "convert/test_whisper_system.py::test_the_way_to_transformers_and_back_is_bit_equal": ([BACK], {"whisper": ("*",)}),
    "convert/test_whisper_system.py::test_the_way_to_openai_whisper_and_back_is_bit_equal": ([BACK], {"whisper": ("*",)}),
    "test_whisper_systems.py::test_a_clip_in_a_batch_has_the_loss_of_the_clip_alone": ([BATCH], {"whisper": ("*",)}),
    "heads/test_tacotron2.py::test_a_batch_of_texts_says_what_single_texts_say": ([BATCH], {"tacotron2": ("*",)}),
    "heads/test_tacotron.py::test_padding_changes_nothing": ([BATCH], {"tacotron": ("*",)}),
    "encoders/test_seq2seq.py::test_the_paper_equals_torch_without_a_final_norm": ([EQUALS], {"transformer": ("*",)}),
    "convert/test_seq2seq.py::test_outputs_equal_theirs_and_go_back": ([EQUALS, BACK], SEQ2SEQ),
    "convert/test_seq2seq.py::test_written_tokens_equal_theirs": ([EQUALS], {name: (f"*-{name}*",) for name in SEQ2SEQ}),
    "convert/test_seq2seq.py::test_an_image_encoder_with_a_text_decoder_equals_theirs_and_goes_back": ([EQUALS, BACK], {"trocr": ("*",)}),
    "convert/test_switch.py::test_outputs_equal_theirs_and_go_back": ([EQUALS, BACK], {"switch": ("*",)}),
    "convert/test_switch.py::test_written_tokens_equal_theirs": ([EQUALS], {"switch": ("*",)}),
    "convert/test_switch.py::test_an_output_matrix_of_its_own_comes_in_and_goes_back": ([EQUALS, BACK], {"switch": ("*",)}),
    "encoders/test_conse.py::test_the_vector_is_the_papers_convex_combination_of_class_names": ([EQUALS], {"conse": ("*",)}),
    "encoders/test_timm.py::test_sequences_are_timms_own": ([EQUALS], {"hosted": ("*",)}),
    "encoders/test_transformers.py::test_outputs_are_transformers_own": ([EQUALS], {"hosted": ("*",)}),
}


def cards_of(test_id: str) -> Iterator[tuple[str, str]]:
    """Yield name and capability of each line that a test decides; ``test_id`` is pytest's, relative to the repository."""
    test, _, case = test_id.removeprefix("tests/").partition("[")
    case = case.removesuffix("]")
    capabilities, families = CARD_TESTS.get(test, ((), {}))
    for name, patterns in families.items():
        if any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns):
            yield from ((name or case, capability) for capability in capabilities)
