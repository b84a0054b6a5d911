"""Entry point of the command line ``zoo``: parse the arguments, run the command, report errors.

Each command imports its code inside its own function, so ``zoo list`` and ``zoo --help`` start without loading torch.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zoo.commands.chat_options import add_answer_options, add_chat_options
from zoo.commands.demo.options import add_demo_options, run_demo
from zoo.commands.draw_graph_options import add_draw_graph_options
from zoo.commands.fit_scaling_options import add_fit_scaling_options
from zoo.commands.interpolate_options import add_interpolate_options
from zoo.commands.model_options import RUNS_A_MODEL, add_model_options, as_overrides
from zoo.commands.search_options import add_classify_options, add_embed_options, add_search_options
from zoo.commands.serve.options import add_serve_options
from zoo.commands.transcribe_options import add_transcribe_options
from zoo.commands.translate_options import add_translate_options
from zoo.commands.worker_options import SHARES_WORK, add_worker_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line.

    Args:
        arguments: words after ``zoo``; None reads ``sys.argv``.

    Returns:
        The exit status: 0 if all succeeded, 1 if some items failed, 2 for an error that the user can mend (input, config, disk,
        memory), 3 for a fault of zoo itself, 130 if the user interrupted it, 75 if a signal or ``training.max_time`` ended a training run
        that is saved and should be started again.
    """
    from zoo.commands.faults import guarded

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    known, rest = _parser().parse_known_args(arguments)
    if rest and not known.takes_overrides:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    known.arguments = arguments  # what the workers of a job are started with
    if any("://" in word for word in arguments):  # not for every command, because the module imports YAML, sockets and logging
        from zoo.commands.remote_options import is_elsewhere, run_on_this_disk

        if is_elsewhere(known):
            return run_on_this_disk(lambda options: options.run(options, rest), known)
    return known.run(known, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo", description="Build, train and run multimodal models.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace, list[str]], int], text: str, *, overrides: bool = False
    ) -> argparse.ArgumentParser:
        usage = f"zoo {name} [OPTIONS] [KEY=VALUE ...]" if overrides else None
        command = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False, add_help=not overrides)
        if overrides:
            command.add_argument("-h", "--help", action=ConfigHelp, help="print this help with groups, options and examples")
        command.add_argument("--json", action="store_true", help="print JSON lines instead of text and tables")
        if name in RUNS_A_MODEL:
            add_model_options(command, takes_overrides=overrides)
        if name in SHARES_WORK:
            add_worker_options(command)
        if name in ("classify", "embed", "export"):
            command.add_argument("--allow-nan", action="store_true", help="go on if the weights hold NaN or infinity")
        command.set_defaults(run=run, takes_overrides=overrides)
        return command

    command = add("list", _list, "List available models.")
    command.add_argument("pattern", nargs="?", default="*", help="shell pattern, for example '*vit*'; 'timm/*' lists the models of timm")
    command.add_argument("--kind", help="only this kind: encoder, language, head or system")
    command.add_argument("--modality", help="only models of this modality: image, audio or text")
    command.add_argument("--pretrained", action="store_true", help="list published weights (NAME:TAG) with size, licence and figure")
    command = add("info", _info, "Show a model's parts, parameter counts, FLOPs, number of tokens, memory and test results.")
    command.add_argument("name", metavar="NAME", help="name of a model, as zoo list prints it; also NAME:TAG")
    command.add_argument("--verbose", "-v", action="store_true", help="show the whole verification card, with the commands of its tests")
    command = add(
        "check", _check, "Validate a training config with one training step on the meta device, without allocating weights.", overrides=True
    )
    command.add_argument(
        "--world-size", type=int, metavar="N", help="also show memory, FLOPs and communication of each of N training processes"
    )
    add("train", _train, "Train a model from a Hydra config (-m runs a sweep, --cfg job prints the config).", overrides=True)
    add("evaluate", _evaluate, "Evaluate a checkpoint or a training run: checkpoint=PATH (-m evaluates several).", overrides=True)
    add_fit_scaling_options(add("fit-scaling", _fit_scaling, "Fit scaling laws to finished runs, and find the best size for a budget."))
    add_interpolate_options(add("interpolate", _interpolate, "Average the weights of models: WiSE-FT, uniform and greedy soups."))
    command = add("compare", _compare, "Compare runs: settings that differ, final and best metrics, curves.")
    command.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or directories of sweeps")
    command.add_argument("--output", "-o", metavar="FILE", help="write a .csv, .json, .html or .png file instead of a table")
    command = add("completion", _completion, 'Print the tab completion of a shell: eval "$(zoo completion bash)" in ~/.bashrc.')
    command.add_argument("shell", nargs="?", choices=("bash", "zsh", "fish"), default="bash", help="bash (default), zsh or fish")
    command.add_argument("--line", help=argparse.SUPPRESS)  # the scripts ask with it: complete this line
    add_classify_options(add("classify", _classify, "Classify images, zero-shot with your own labels or with a trained classifier."))
    add_embed_options(add("embed", _embed, "Embed a folder of images into a search index; an interrupted job resumes."))
    add_search_options(add("search", _search, "Search an index with a text or an image query."))
    text = "Chat with a multimodal language model about images and audio: one PROMPT, or an interactive session (/help lists its commands)."
    add_chat_options(add("chat", _chat, text))
    text = "Generate answers to the questions of a data source, to train on: checkpoint=M data=NAME, as for zoo evaluate."
    add_answer_options(add("answer", _answer, text, overrides=True))
    command = add("speak", _speak, "Synthesize speech from text, sentence by sentence, into one audio file.")
    command.add_argument("text", nargs="?", metavar="TEXT", help="text to speak")
    command.add_argument("--file", metavar="FILE", help="read the text from a file instead; - reads standard input")
    command.add_argument(
        "--output", "-o", metavar="FILE", default="speech.wav", help="audio file to write: .wav, .flac or .ogg (default: speech.wav)"
    )
    command.add_argument("--model", help="run directory, saved model or name of a bundled model; default: the bundled voice")
    command.add_argument("--plots", metavar="DIR", help="also plot the attention alignment and mel spectrogram of each sentence into DIR")
    command.add_argument("--vocoder", default="griffin_lim", help="vocoder: griffin_lim (default), wavernn, vocos or vocos:WEIGHTS")
    command.add_argument("--speaker", type=int, metavar="N", help="speaker index, for a multi-speaker model")
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    command.add_argument(
        "--max-seconds", type=float, default=20.0, metavar="S", help="maximum duration of one sentence in seconds (default: 20)"
    )
    command.add_argument("--batch-size", type=int, default=16, metavar="N", help="sentences per batch (default: 16)")
    command = add("transcribe", _transcribe, "Transcribe recordings of any length with Whisper.")
    add_transcribe_options(command)
    add_translate_options(add("translate", _translate, "Translate a text, or a file with one text per line."))
    command = add("export", _export, "Export a model to the file format of another library.")
    command.add_argument("model", metavar="M", help="run directory, saved model, transformers directory, bundled name or hf://OWNER/NAME")
    command.add_argument("directory", metavar="DIR", help="output directory; an existing one is replaced")
    command.add_argument(
        "--format",
        default="transformers",
        help="transformers (default), open_clip, timm, vig, torchaudio, openai-whisper, rwkv, onnx, gguf or zoo",
    )
    add_draw_graph_options(add("draw-graph", _draw_graph, "Plot the graph neighbours that a Vision GNN assigns to an image patch."))
    add_serve_options(add("serve", _serve, "Serve models over HTTP, with the routes of OpenAI's API."))
    add_demo_options(add("demo", run_demo, "Open a web page on this machine: classify, search, chat, transcribe, speak, and see graphs."))
    command = add("fetch", _fetch, "Download pretrained weights and datasets into a cache; without a name, list them.")
    command.add_argument("name", nargs="?", metavar="NAME", help="weights or dataset to download")
    command.add_argument("--directory", metavar="DIR", help="cache directory, holds DIR/NAME; default: $ZOO_CACHE or ~/.cache/zoo")
    command = add("guide", _guide, "Read a page of the documentation; without a topic, list the pages.")
    command.add_argument("topic", nargs="?", metavar="TOPIC", help="name of a page")
    add("doctor", _doctor, "Show versions, devices and caches, and which commands miss a package.")
    command = add("install", _install, "Install optional packages in the tested versions; without a name, list them.")
    command.add_argument("extras", nargs="*", metavar="EXTRA", help="set of packages, for example audio or transformers")
    command.add_argument("--dry-run", action="store_true", help="print the command instead of running it")
    parser.set_defaults(commands=commands.choices)  # for the tab completion
    return parser


class ConfigHelp(argparse.Action):
    """Option ``--help`` of a command with a config: the options, and then groups and examples, which are read only now."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **rest)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        """Print the help and leave."""
        from zoo.commands.config_help import help_of

        print(parser.format_help() + help_of(parser.prog.split()[-1]))
        parser.exit()


class _Version(argparse.Action):
    """Print the version and end; read from the installed package, not at every start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from zoo.storage.distribution import version

        print(version())
        parser.exit()


def _print_json(value: Any) -> None:
    # the same as display.print_json, whose module imports rich: that would double the time of a short command
    print(json.dumps(value, ensure_ascii=False))


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.listing import list_command

    return list_command(options)


def _info(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.listing import info_command

    return info_command(options)


def _check(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.configured import check_command

    return check_command(options, rest)


def _train(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.configured import train_command

    return train_command(options, rest)


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.configured import evaluate_command

    return evaluate_command(options, rest)


def _compare(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.compare import compare_command

    return compare_command(options)


def _completion(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.completion import completion_command

    return completion_command(options)


def _fit_scaling(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.fit_scaling import fit_scaling_command

    return fit_scaling_command(options)


def _interpolate(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.interpolate import interpolate_command

    return interpolate_command(options)


def _classify(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.classify import classify_command

    return classify_command(options)


def _embed(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.embed import embed_command

    return embed_command(options)


def _search(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.search import search_command

    return search_command(options)


def _chat(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.chat import chat_command

    return chat_command(options)


def _answer(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.answer import answer_command
    from zoo.commands.configured import composed

    return answer_command(options, composed("evaluate", [*as_overrides(options), *rest]))


def _speak(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.speak import speak_command

    return speak_command(options)


def _transcribe(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.transcribe import transcribe_command

    return transcribe_command(options)


def _translate(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.translate import translate_command

    return translate_command(options)


def _export(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.assembly.export import export
    from zoo.assembly.save_load import load

    model: Any = load(options.model)
    written = str(export(model, options.directory, options.format, allow_nan=options.allow_nan))
    _print_json({"written": written, "format": options.format}) if options.json else print(f"written: {written}")
    return 0


def _draw_graph(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.draw_graph import draw_graph_command

    return draw_graph_command(options)


def _serve(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.serve.command import serve_command

    return serve_command(options)


def _fetch(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.fetch import fetch_command

    return fetch_command(options)


def _guide(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.guide import guide_command

    return guide_command(options)


def _doctor(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.doctor import doctor_command

    return doctor_command(options)


def _install(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.install import install_command

    return install_command(options)


if __name__ == "__main__":
    sys.exit(main())
