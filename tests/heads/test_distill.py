"""An encoder learns a teacher's vectors."""

import pytest
import torch

import zoo
from zoo.assembly.compose import compose
from zoo.assembly.shrink import shrink
from zoo.runs.train import train
from zoo.training.log import read_lines
from zoo.types import Batch, Encoded, EncoderSpec

WORDS = "red green blue cat dog house tree river small large old new bright dark over under with and the of".split()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A text encoder with its tokenizer, and a file of texts."""
    folder = tmp_path_factory.mktemp("teacher")
    lines = [f"{a} {b} {c}" for a in WORDS for b in WORDS[:8] for c in WORDS[3:6]]
    (folder / "lines.txt").write_text("\n".join(lines))
    system = zoo.create_system({"encoders": {"text": "bert_nano"}, "head": {"name": "distill"}, "processor": {"text": {}}})
    system.processor.fit(lines)
    encoder = system.encoders["text"]
    torch.manual_seed(0)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    encoder.config, encoder.processor = {"encoder": dict(system.config["encoders"]["text"])}, system.processor
    zoo.save(encoder, folder / "model")
    return folder


def config(teacher, run_dir, *words):
    small = ["training.batch_size=32", "training.log_every=1", "training.warmup_steps=0", "training.precision=fp32", "data.num_workers=0"]
    sizes = {"vocab_size": 512, "context_length": 32, "dim": 64, "depth": 1, "num_heads": 2, "embedding_dim": None}
    parts = ["experiment=distil_text", *(f"system.encoders.text.{key}={'null' if v is None else v}" for key, v in sizes.items())]
    settings = {"tokenizer": "trained", "cleaning": "whitespace", "lowercase": "true", "eot_token_id": 2, "max_length": "null"}
    text = [*(f"system.processor.text.{key}={value}" for key, value in settings.items()), "data.source.templates=['{}']"]
    places = [f"data.source.path={teacher}", f"teacher={teacher / 'model'}", f"run_dir={run_dir}"]
    return compose("train", [*parts, *text, *small, *places, *words])


def test_a_shrunk_student_comes_nearer_to_its_teacher(teacher, tmp_path):
    zoo.save(shrink(zoo.load(teacher / "model"), depth=1), tmp_path / "start")
    words = [f"weights.encoders.text={tmp_path / 'start'}", "training.max_steps=30", "training.learning_rate=0.003"]
    train(config(teacher, tmp_path / "run", *words))
    cosines = [line["cosine"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert cosines[-1] > cosines[0] + 0.1


def test_another_tokenizer_than_the_teachers_is_refused(teacher, tmp_path):
    with pytest.raises(zoo.ConfigError, match="another tokenizer"):
        train(config(teacher, tmp_path / "run", "data.source.templates=['{} {}']", "training.max_steps=1"))


def test_a_head_without_a_teacher_and_a_teacher_without_such_a_head_are_refused(teacher, tmp_path):
    with pytest.raises(zoo.ConfigError, match="learns from one; name a saved model"):
        train({**config(teacher, tmp_path / "run"), "teacher": None})
    with pytest.raises(zoo.ConfigError, match="does not learn from one"):
        train(compose("train", [f"teacher={teacher / 'model'}", f"run_dir={tmp_path / 'other'}"]))


def test_the_loss_is_one_minus_the_mean_cosine():
    head = zoo.create_model("distill", inputs={"text": EncoderSpec("text", 3)})
    vectors, target = torch.tensor([[2.0, 0, 0], [0, 1, 1]]), torch.tensor([[1.0, 0, 0], [0, 0, 3]])
    encoded = {"text": Encoded(vectors[:, None], vectors, torch.ones(2, 1, dtype=torch.bool))}
    output = head(encoded, Batch({"text": torch.zeros(2, 1)}, targets={"teacher": target}))
    assert output.loss.item() == pytest.approx(1 - (1 + 0.5**0.5) / 2)
    with pytest.raises(zoo.DataError, match="set system.head.teacher_dim=4"):
        head(encoded, Batch({"text": torch.zeros(2, 1)}, targets={"teacher": torch.zeros(2, 4)}))
