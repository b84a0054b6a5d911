"""Objectives: what a training run makes of a batch in place of the head's own loss.

An objective is a class registered under its module's name; a run chooses one with ``objective=NAME``. It has:

* ``check(system, batch_size)``: raises before any work where the system cannot be trained so, or not with so many items on a process;
* ``frozen_targets(head, encoded, batch)``: what a frozen model gives for a batch, as targets by name. That model is the run's teacher, or
  without one the model as it was when the run began;
* ``__call__(head, encoded, batch) -> HeadOutput``: the loss, of a batch with those targets.

Without an objective the head's own loss is trained; of a head that talks that is supervised fine-tuning.
"""
