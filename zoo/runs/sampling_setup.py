"""Setup of the sampling of answers that objectives such as GRPO and PPO train on; a check does not need it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.runs.objective_setup import make_reference, refuse_other_tokens
from zoo.training.rollouts import Rollouts
from zoo.training.settings import TrainingSettings
from zoo.types import Reward, SamplingObjective


def make_rollouts(
    objective: SamplingObjective,
    config: Mapping[str, Any],
    system: System,
    settings: TrainingSettings,
    run_dir: Path,
    accelerator: Accelerator,
) -> Rollouts:
    """Return the sampling of a run, with the frozen reference model if the objective uses one.

    Raises:
        ConfigError: the system has no conversations, or the teacher reads other tokens than the system.
        WeightsError: a resumed run has lost the weights of its beginning.
    """
    conversation: Any = None if system.processor is None else system.processor.get("conversation")
    if conversation is None:
        raise ConfigError("objective: sampling needs prompts as conversations; choose a multimodal language model (llava)")
    for name, (_, reward) in objective.rewards.items():
        if reward.model_source is not None:
            _give_model(reward, system, accelerator, f"objective.rewards.{name}")
    reference = None
    if objective.needs_reference:
        reference = make_reference(objective, config, system, settings, run_dir, accelerator.device)
    return Rollouts(
        system,
        objective,
        conversation,
        reference,
        seed=int(config["seed"]),
        autocast=lambda: accelerator.autocast(),
    )


def _give_model(reward: Reward, system: System, accelerator: Accelerator, key: str) -> None:
    """Load the model that a reward reads.

    Raises:
        ConfigError: it is no reward model, or reads other tokens than the system.
    """
    from zoo.assembly.save_load import load

    model: Any = load(str(reward.model_source), device=accelerator.device)
    try:
        reward.use(model)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    refuse_other_tokens(model, system, str(reward.model_source), key)
