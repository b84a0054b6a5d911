"""Every nano system on an emulated CUDA device: no synchronisation in a step that does not log, and no tensor of another device."""

import pytest
import torch
from accelerate import Accelerator, PartialState
from emulated_cuda import CUDA, emulated_cuda
from nano_batches import random_batch

import zoo
from zoo.data.loader import Item, ProcessedSplit
from zoo.training.loop import Trainer
from zoo.training.settings import TrainingSettings
from zoo.types import Sample, Split

DRAWING = ("tacotron", "electra", "deberta", "switch")  # dropout in evaluation too, tokens that a generator samples, noise of a router
SYSTEMS = zoo.list_models("*nano*", kind="system")
ITEMS, STEPS = 6, 2  # the optimizer makes its state in the first step
SETTINGS = {"batch_size": ITEMS, "learning_rate": 1e-3, "log_every": 100, "checkpoint_every": 100, "max_steps": 100}


class Ended(Exception):
    """End of a run, raised by its first evaluation."""


class Numbers(Split):
    def __len__(self):
        return 4 * ITEMS

    def sample(self, index, generator=None):
        return Sample(id=str(index), inputs={})


class RandomBatches(ProcessedSplit):
    """Training data whose batches are random, with padding."""

    def __init__(self, system):
        super().__init__(Numbers(), system.processor)
        self.batch = random_batch(system, ITEMS, padded=True)
        self.batch.ids = [str(number) for number in range(ITEMS)]

    def __getitem__(self, draw):
        return Item(Sample(id="", inputs={}), {}, None)

    def collate(self, items):
        return self.batch


def end(model):
    raise Ended


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_that_does_not_log_never_waits_for_the_device(name, tmp_path, monkeypatch):
    system = zoo.create_system(name)
    expected = zoo.create_system(name).train()
    expected.load_state_dict(system.state_dict())
    expected = expected(random_batch(system, ITEMS, padded=True)).loss.detach()
    losses = []
    with emulated_cuda() as device:
        accelerator = Accelerator(cpu=True)
        monkeypatch.setitem(PartialState._shared_state, "device", CUDA)
        monkeypatch.setitem(accelerator.state._shared_state, "device", CUDA)
        settings = TrainingSettings(**SETTINGS, evaluate_every=STEPS, ema_decay=0.9)
        parts = {"run_dir": tmp_path, "seed": 0, "save_model": print, "evaluate": end, "accelerator": accelerator}
        trainer = Trainer(system, RandomBatches(system), settings, **parts)
        trainer.model.register_forward_hook(lambda module, inputs, output: losses.append(output.loss.detach()))
        device.waits.clear()
        with pytest.raises(Ended):
            trainer.run()
        assert trainer.step == STEPS and device.waits == []
        assert torch.isfinite(losses[-1]) and losses[-1] != losses[0]
        if not name.startswith(DRAWING):  # these draw other numbers
            assert torch.allclose(losses[0].cpu(), expected, atol=1e-5)  # packed rows are rounded up to multiples of 8 on a GPU
