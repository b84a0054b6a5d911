"""Cost of deterministic algorithms: the same training steps without and with them."""

import torch
from benchmarks.job import Entry, Job

from zoo.assembly.create import create_model
from zoo.training.determinism import deterministic_algorithms
from zoo.training.optim import make_optimizer
from zoo.training.settings import TrainingSettings
from zoo.types import Batch


def deterministic_step(size: int) -> Job:
    """Run a training step of ``clip_vit_nano`` on ``size`` pairs; the text's positions are summed over the whole batch."""
    system = create_model("clip_vit_nano").train()
    optimizer = make_optimizer(system, TrainingSettings(max_steps=1, batch_size=size, learning_rate=1e-9))
    shape = system.processor.meta(["image", "text"], size).inputs
    tokens = torch.randint(1, 20, shape["text"].shape)
    batch = Batch({"image": torch.rand(shape["image"].shape), "text": tokens}, targets={"groups": torch.arange(size)})

    def step(wanted: bool) -> torch.Tensor:
        with deterministic_algorithms(wanted):
            optimizer.zero_grad()
            loss = system(batch).loss
            loss.backward()
            optimizer.step()
        return loss.detach()

    return Job(lambda: step(False), lambda: step(True), lambda: (step(False) - step(True)).abs().item())


ENTRIES = {"deterministic_step": Entry(deterministic_step, 128, "the same step without deterministic algorithms", 1e-5)}
