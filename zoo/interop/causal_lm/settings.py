"""Settings of ``generation_config.json`` that zoo does not take over."""

from pathlib import Path

from zoo.interop.base.library_files import read_optional

FILE = "generation_config.json"
TAKEN = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")  # ids; ``read_language_tokenizer`` reads the end ids
WITHOUT_EFFECT = (  # on the text
    *("transformers_version", "_from_model_config", "use_cache", "cache_implementation", "cache_config", "compile_config"),
    *("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states", "disable_compile"),
)
NEUTRAL = {  # values that change nothing
    **{"do_sample": (False,), "temperature": (1.0,), "top_k": (50, 0), "top_p": (1.0,), "typical_p": (1.0,), "num_return_sequences": (1,)},
    **{
        "repetition_penalty": (1.0,),
        "no_repeat_ngram_size": (0,),
        "num_beams": (1,),
        "length_penalty": (1.0,),
        "diversity_penalty": (0.0,),
    },
    **{"epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "early_stopping": (False,), "remove_invalid_values": (False,), "min_length": (0,)},
    **{"encoder_repetition_penalty": (1.0,), "encoder_no_repeat_ngram_size": (0,), "num_beam_groups": (1,), "renormalize_logits": (False,)},
    **{"trust_remote_code": (False,), "guidance_scale": (1.0,)},
}


def sampling_settings(directory: Path) -> tuple[str, ...]:
    """Return the settings of a directory that change what transformers generates and that ``generate`` does not use, in words.

    A key that is unknown here counts as one of them.
    """
    settings = read_optional(directory / FILE)
    unused = {key: value for key, value in settings.items() if key not in (*TAKEN, *WITHOUT_EFFECT) and value not in (None, [], {})}
    others = [f"{key} {value}" for key, value in unused.items() if value not in NEUTRAL.get(key, ())]
    return (f"{FILE}: {', '.join(others)}; pass them to generate yourself",) if others else ()
