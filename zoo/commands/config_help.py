"""``--help`` of the commands with a config: Hydra's flags, config groups with their options, and examples."""

import textwrap

from zoo.assembly.config_source import PLAIN_GROUPS, options
from zoo.assembly.hydra_flags import HELP
from zoo.registry import TABLES, rows

WIDTH, MOST = 88, 10
PLACES = {  # group -> override that chooses one of its options
    "system": "system=",
    "encoder": "encoder@system.encoders.image=",
    "head": "head@system.head=",
    "language": "language@system.head.language=",
}
EXAMPLES = {
    "train": """\
zoo train experiment=quickstart                                a run on digits, in a minute
zoo train system=clip_vit_nano data=folder data.source.path=P  your pictures
zoo train training.learning_rate=1e-3 training.max_steps=500   any key; all: zoo train --cfg job
zoo train encoder@system.encoders.image=vig_nano               another image tower
zoo train -m seed=0,1,2 training.learning_rate=1e-3,3e-3       a sweep of six jobs; again: it goes on
zoo train -m hydra/launcher=joblib 'seed=range(8)'             the same on several cores
zoo train --config-dir my_conf experiment=mine                 YAML of your own
zoo train resume=RUN_DIR                                       an interrupted run""",
    "evaluate": """\
zoo evaluate checkpoint=RUN_DIR                                the evaluation and the data of the run
zoo evaluate checkpoint=clip_vit_nano data=digits evaluation=zero_shot
zoo evaluate -m checkpoint=RUN_1,RUN_2 evaluation=zero_shot,knn_probe""",
    "check": """\
zoo check experiment=quickstart
zoo check encoder@system.encoders.image=vig_nano training.batch_size=64""",
    "answer": "zoo answer checkpoint=RUN_DIR data=digit_questions -o answers.jsonl",
}
EVALUATED = ("data", "evaluation", "experiment")  # groups of conf/evaluate.yaml


def help_of(command: str) -> str:
    """Return the part of a command's help that depends on its config."""
    lines = ["", "flags of Hydra:"]
    shown = {names: text for names, text in HELP.items() if command in ("train", "evaluate") or names[0].startswith("--config")}
    for names, text in shown.items():
        lines += _folded(f"  {', '.join(names)}", text, 26)
    lines += ["", "groups and their options (GROUP=OPTION):"]
    groups = (*PLACES, *PLAIN_GROUPS) if command in ("train", "check") else EVALUATED
    for group in groups:
        lines += _folded(f"  {PLACES.get(group, f'{group}=')}", _some(group), 4, own_line=True)
    return "\n".join([*lines, "", "examples:", textwrap.indent(EXAMPLES[command], "  "), ""])


def _some(group: str) -> str:
    """Return the options of a group; of a long table one of each family, and how many there are."""
    if group not in TABLES:
        return ", ".join(options(group))
    of_family = {row.family: name for name, row in reversed(rows(group).items())}
    names = sorted(of_family.values())[:MOST]
    return f"{', '.join(names)}, ... ({len(rows(group))} in all: zoo list --kind {group})"


def _folded(name: str, text: str, indent: int, *, own_line: bool = False) -> list[str]:
    folded = textwrap.wrap(text, WIDTH - indent)
    if own_line or len(name) >= indent:
        return [name, *(" " * indent + line for line in folded)]
    return [f"{name:<{indent}}{folded[0]}", *(" " * indent + line for line in folded[1:])]
