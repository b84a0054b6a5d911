"""GRPO and PPO on a small system: sampled batches, their log-probabilities one by one, rewards, and rows through the whole objective."""

import pytest
import torch

import zoo
from zoo.evaluation.rewards.length import Length
from zoo.registry import find_part, part_names
from zoo.testing import check_objective
from zoo.training.objectives.grpo import Grpo
from zoo.training.objectives.policy import token_log_probabilities as names
from zoo.training.objectives.ppo import Ppo
from zoo.training.reference import Reference
from zoo.training.rollouts import Rollouts
from zoo.types import SampledAnswer, SamplingObjective

SMALL = {"max_new_tokens": 5, "rewards": {"length": {"most": 5, "margin": 5}}}
ROWS = [0, 2, 4]  # one answer of each of the three prompts


@pytest.fixture
def rolled(talking):
    """Sampled batches of an objective, and the sampling."""

    def run(objective, rows=ROWS, seed=3):
        policy, tokenizer = talking.policy, talking.policy.processor["conversation"]
        reference = Reference(talking.reference, objective) if objective.needs_reference else None
        rollouts = Rollouts(policy, objective, tokenizer, reference, seed=seed)
        rollouts.sample([talking.batch(rows) for _ in range(objective.steps_per_sampling)], 0)
        return rollouts

    return run


def loss_of(talking, objective, batch):
    return objective(talking.policy.head, talking.policy.encode_batch(batch), batch)


def attached(objective, talking):
    """The objective with its modules, which the shared system loses again."""
    objective.attach(talking.policy)
    talking.policy.training_only = None
    return objective


def test_every_objective_on_sampled_answers_is_tested_here():
    names_of = [name for name in part_names("objective") if issubclass(find_part("objective", name), SamplingObjective)]
    assert names_of == ["grpo", "ppo"]


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_policy_objectives_keep_the_contract(name, talking, rolled):
    objective = attached(find_part("objective", name)(answers_per_prompt=2, num_iterations=2, **SMALL), talking)
    (batch,) = rolled(objective).next()
    check_objective(objective, talking.policy, batch, frozen=talking.reference)


def test_sampled_tokens_have_the_log_probabilities_of_single_conversations(talking, rolled):
    objective = Grpo(answers_per_prompt=3, num_iterations=2, **SMALL)
    (batch,) = rolled(objective).next()
    place, policy = 0, talking.policy
    for row in range(9):
        one = talking.batch([ROWS[row // 3]])
        ids = batch.inputs["text"][row][batch.masks["text"][row]]
        answer = batch.targets["supervised"][row].nonzero()[:, 0]
        encoded = policy.encode_batch(one)
        with torch.no_grad():
            vectors = policy.head.spliced(ids[None], torch.ones(1, len(ids), dtype=torch.bool), policy.head._connected(encoded, one), [])
            logs = policy.head.language.logits(policy.head.language(vectors))[0].log_softmax(-1)
        expected = logs[answer - 1, ids[answer]]
        torch.testing.assert_close(batch.targets[names.SAMPLED][place : place + len(answer)], expected, atol=1e-5, rtol=1e-5)
        place += len(answer)
    assert place == len(batch.targets[names.SAMPLED]) == int(batch.targets[names.LENGTHS].sum())


def test_answers_do_not_depend_on_the_other_prompts_and_follow_the_seed(talking, rolled):
    objective = Grpo(answers_per_prompt=2, beta=0.0, **SMALL)
    texts = [each.inputs["text"] for each in (rolled(objective).kept[0], rolled(objective).kept[0], rolled(objective, seed=4).kept[0])]
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])
    (alone,) = rolled(objective, rows=[0]).kept
    width = alone.inputs["text"].shape[1]
    assert torch.equal(texts[0][:2, :width] * alone.masks["text"], alone.inputs["text"])


def test_answers_are_draws_from_the_softmax_of_the_logits(talking):
    """One token of 600 answers: the frequency of each token is its probability, within 5 standard errors."""
    policy, batch = talking.policy, talking.batch([0])
    objective = Grpo(answers_per_prompt=600, max_new_tokens=1, beta=0.0, rewards={"length": {"most": 2}})
    rollouts = Rollouts(policy, objective, policy.processor["conversation"], None, seed=0)
    rollouts.sample([batch], 0)
    (made,) = rollouts.kept
    end = int(made.masks["text"][0].sum()) - 1
    counts = made.inputs["text"][:, end].bincount(minlength=policy.head.language.vocab_size)
    vectors, _ = policy.head.prompt_vectors(policy, [talking.samples[0].inputs["conversation"].question()])
    with torch.no_grad():
        expected = policy.head.language.logits(policy.head.language(vectors[0][None]))[0, -1].softmax(-1)
    error = (expected * (1 - expected) / 600).sqrt()
    assert ((counts / 600 - expected).abs() < 5 * error + 1e-3).all()


def test_the_first_step_of_grpo_is_the_policy_gradient_and_kl_is_that_of_the_reference(talking, rolled):
    objective = Grpo(answers_per_prompt=2, **SMALL)
    (batch,) = rolled(objective).next()
    output = loss_of(talking, objective, batch)
    assert output.metrics["clipped"].item() == 0 and output.metrics["kl"].item() > 0
    found, new = names.predict_tokens(talking.policy.head, talking.policy.encode_batch(batch), batch)
    moved = batch.targets[names.REFERENCE] - new
    expected = -batch.targets[names.ADVANTAGES][found.rows] + 0.04 * (moved.exp() - 1 - moved)
    assert output.loss.item() == pytest.approx(expected.mean().item(), abs=1e-5)


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_dapo_and_bnpo_agree_on_one_batch_and_equal_rewards_have_no_gradient(loss, talking, rolled):
    objective = Grpo(answers_per_prompt=2, beta=0.0, loss=loss, scale_rewards=loss != "dr_grpo", **SMALL)
    (batch,) = rolled(objective).next()
    batch.targets[names.REWARD] = torch.ones(6)
    (equal,) = objective.finish([batch])
    output = loss_of(talking, objective, equal)
    assert output.loss.item() == 0 and output.metrics["equal_rewards"].item() == 1


def test_batches_that_are_sampled_at_once_are_used_in_every_iteration(talking, rolled):
    objective = Grpo(answers_per_prompt=2, steps_per_sampling=2, num_iterations=3, beta=0.0, **SMALL)
    rollouts, used = rolled(objective), []
    while not rollouts.is_spent:
        used += [id(batch) for batch in rollouts.next()]
    assert used == [*map(id, rollouts.kept)] * 3 and len(set(used)) == 2
    ours, theirs = (batch.inputs["text"] for batch in rollouts.kept)
    assert ours.shape != theirs.shape or not torch.equal(ours, theirs)


def test_unused_batches_are_saved_and_loaded(talking, rolled, tmp_path):
    objective = attached(Ppo(answers_per_prompt=2, num_iterations=2, **SMALL), talking)
    rollouts = rolled(objective)
    rollouts.next()
    objective.beta = 0.3
    rollouts.save(tmp_path)
    objective.beta = 0.5
    other = Rollouts(talking.policy, objective, rollouts.tokenizer, rollouts.reference, seed=3)
    other.load(tmp_path, torch.device("cpu"))
    (ours,), (theirs,) = rollouts.next(), other.next()
    assert other.is_spent and objective.beta == 0.3 and ours.ids == theirs.ids
    for table in ("inputs", "masks", "targets"):
        first, second = vars(ours)[table], vars(theirs)[table]
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_ppo_gives_the_score_at_the_last_token_and_the_penalty_at_each(talking):
    """The row of TRL 0.11.4, beside an answer of another length."""
    objective = Ppo(beta=0.1, rewards={"length": {"most": 5}})
    old, reference, values = torch.tensor([[-1.0, -2.0, -0.5], [-1.2, -1.5, -0.7], [0.2, 0.1, 0.4]])
    targets = {
        "supervised": torch.tensor([[False, True, False, False], [False, True, True, True]]),
        names.SAMPLED: torch.cat([torch.tensor([-1.0]), old]),
        names.REFERENCE: torch.cat([torch.tensor([-1.0]), reference]),
        names.REWARD: torch.tensor([0.5, 1.0]),
        "sampled_values": torch.cat([torch.tensor([0.1]), values]),
    }
    (made,) = objective.finish([two_answers(targets)])
    advantages, _ = objective._estimate(made)
    assert advantages.tolist() == pytest.approx([0.4, 0.73595, 0.901, 0.58], abs=1e-6)
    assert made.targets["returns"].tolist() == pytest.approx([0.5, 0.93595, 1.001, 0.98], abs=1e-6)


def two_answers(targets):
    return zoo.types.Batch({"text": torch.zeros(2, 4, dtype=torch.int64)}, {}, targets)


def test_rewards_are_those_of_hand_computed_rows():
    said = [
        SampledAnswer([1] * n, text, done) for n, text, done in ((2, "Nine.", True), (4, "ten", True), (6, "9", True), (9, "nine", False))
    ]
    objective = Grpo(rewards={"exact": 1.0, "format": {"weight": 0.5, "pattern": "[a-z]+"}}, unfinished_penalty=0.25)
    scores = objective.score(said, [["nine", "9"]] * 4)
    assert scores == {"exact": [1.0, 0.0, 1.0, 1.0], "format": [0.0, 1.0, 0.0, 0.0], "reward": [1.0, 0.5, 1.0, 0.75]}
    assert Length(most=8, margin=4)(said, [[]] * 4) == [0.0, 0.0, -0.5, -1.0]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rewards": {}}, "rewards: none is named"),
        ({"rewards": {"exakt": 1.0}}, "there is no reward 'exakt'; did you mean 'exact'"),
        ({"rewards": {"format": {"pattern": "("}}}, r"rewards.format.pattern: '\(' is no regular expression"),
        ({"rewards": {"exact": "much"}}, "rewards.exact: 'much'; give a weight"),
        ({"answers_per_prompt": 1}, "answers_per_prompt: 1; allowed is 2 or more"),
        ({"loss": "dr_grpo"}, "scale_rewards: true, but loss 'dr_grpo'"),
        ({"advantage": "rlo"}, "advantage: there is no 'rlo'; did you mean 'rloo'"),
        ({"clip": 0.0}, "clip: 0.0, clip_high: None"),
    ],
)
def test_what_cannot_be_is_refused(keywords, message):
    with pytest.raises(zoo.ConfigError, match=message):
        Grpo(**keywords)


def test_a_reward_model_reads_the_whole_conversation_of_each_answer(talking, rolled):
    torch.manual_seed(5)
    judge = zoo.create_model("reward_nano").eval()
    judge.use_processor(talking.policy.processor)
    objective = Grpo(answers_per_prompt=2, beta=0.0, max_new_tokens=5, rewards={"model": {"path": "judge", "weight": 2.0}})
    objective.rewards["model"][1].use(judge)
    (batch,) = rolled(objective).next()
    texts = []
    for ids, supervised in zip(batch.inputs["text"], batch.targets["supervised"], strict=True):
        texts.append(talking.policy.processor["conversation"].decode(ids[supervised].tolist()))
    asked = [talking.samples[row].inputs["conversation"].question() for row in ROWS for _ in range(2)]
    finished = [row for row in range(6) if batch.targets[names.FINISHED][row] and texts[row].strip()]
    for row in finished:
        alone = judge.reward([asked[row]], [texts[row]])
        torch.testing.assert_close(2 * alone[0], batch.targets[names.REWARD][row], atol=1e-4, rtol=1e-4)
    assert batch.targets[names.REWARD].unique().numel() > 3
    with pytest.raises(zoo.ConfigError, match="path: judge gives no rewards; name a model with head reward"):
        objective.rewards["model"][1].use(talking.policy)
