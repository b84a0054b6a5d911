"""Training objectives that replace the head's own loss: preferences, rewards of sampled answers, and distillation.

An objective is a class registered under its module's name; a run selects one with ``objective=NAME``. It has these methods:

* ``check(system, batch_size)`` raises ConfigError before training if the objective does not fit the system or the number of items per
  process;
* ``frozen_targets(head, encoded, batch)`` returns targets by name, computed by a frozen reference model. The reference is the run's
  teacher, or without a teacher the model as it was at the beginning of the run;
* ``__call__(head, encoded, batch) -> HeadOutput`` computes the loss of a batch that contains these targets.

A ``SamplingObjective`` (GRPO, PPO) trains on answers that the run samples to the prompts of its data (``zoo.training.rollouts``).

Without an objective, training minimises the head's own loss; for language-model heads this is supervised fine-tuning.

To add an objective, write ``zoo/training/objectives/NAME.py`` with a subclass of ``zoo.types.Objective`` or ``SamplingObjective``, and
``tests/objectives/test_NAME.py``.
"""
