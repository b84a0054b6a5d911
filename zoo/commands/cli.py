"""The command ``zoo``: parse, call, print.

Each command's code and imports stand in a function of its own, so that ``zoo list`` never loads torch.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from zoo.errors import ZooError

SWEEP_FLAGS = ("-m", "--multirun", "--cfg", "-c", "--info", "-i", "--hydra-help", "--package", "-p", "--resolve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 some items failed, 2 the user's mistake, 130 stopped by the user."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        known, rest = _parser().parse_known_args(arguments)
        if rest and not known.takes_overrides:
            _parser().error(f"unrecognized arguments: {' '.join(rest)}")
        return known.run(known, rest)
    except ZooError as error:
        if os.environ.get("ZOO_DEBUG") == "1":
            raise
        stopped = type(error).__name__ == "Interrupted"
        print(f"zoo: {error}", file=sys.stderr)
        return 130 if stopped else 2
    except KeyboardInterrupt:
        print("zoo: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away, as `| head` does
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo", description="Multimodal models made of parts.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace, list[str]], int], text: str, *, overrides: bool = False
    ) -> argparse.ArgumentParser:
        usage = f"zoo {name} [OPTIONS] [KEY=VALUE ...]" if overrides else None
        command = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print JSON lines")
        command.set_defaults(run=run, takes_overrides=overrides)
        return command

    command = add("list", _list, "List the models that can be created.")
    command.add_argument("pattern", nargs="?", default="*", help="shell pattern, for example '*vit*'; 'timm/*' lists timm's")
    command.add_argument("--kind", help="encoder, language, head or system")
    command.add_argument("--modality", help="image, audio or text")
    command = add("info", _info, "Show a model's parts, parameters, FLOPs, tokens, memory and verification card.")
    command.add_argument("name")
    add("check", _check, "Run a training step of a config without weights; refuse what does not fit.", overrides=True)
    add("train", _train, "Train; Hydra's flags work (-m sweeps, --cfg job).", overrides=True)
    add("evaluate", _evaluate, "Evaluate a checkpoint or run: checkpoint=PATH.", overrides=True)
    command = add("classify", _classify, "Classify images: zero-shot among labels of your own, or by a trained classifier.")
    command.add_argument("paths", nargs="+", metavar="PATH", help="image files and folders")
    labels = command.add_mutually_exclusive_group()
    labels.add_argument("--labels", help="labels separated by commas (zero-shot models only)")
    labels.add_argument("--labels-file", metavar="FILE", help="one label per line, or JSON with names or prompts for each")
    command.add_argument("--model", help="run directory, saved model or bundled name")
    command.add_argument("--templates", metavar="T", help="imagenet, imagenet_7, cifar, simple, or a file of prompts with {} for the label")
    command.add_argument("--top-k", type=int, default=3)
    command.add_argument("--batch-size", type=int, default=64)
    command.add_argument("--output", metavar="FILE", help="write .csv, .json or .html instead of the table")
    command.add_argument("--no-cache", action="store_true", help="compute the labels' vectors anew; keep none on disk")
    command = add("embed", _embed, "Embed all images of a folder into an index to be searched; a job that was stopped goes on.")
    command.add_argument("folder", metavar="FOLDER", help="images, also in the folders below; with --modality text a file of lines")
    command.add_argument("--output", "-o", metavar="DIR", required=True, help="the index: embeddings.npy, items.jsonl, manifest.json")
    command.add_argument("--model", help="run directory, saved model, transformers directory or bundled name")
    command.add_argument("--modality", default="image", help="image (default), audio or text")
    command.add_argument("--format", default="npy", help="npy (default) or parquet")
    command.add_argument("--dtype", default="float32", help="float32 (default) or float16")
    command.add_argument("--batch-size", type=int, default=64)
    command.add_argument("--workers", type=int, default=2, help="threads that read images (default: 2)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    change = command.add_mutually_exclusive_group()
    change.add_argument("--update", action="store_true", help="take up new, changed and removed files; the others are not computed again")
    change.add_argument("--restart", action="store_true", help="drop the index that DIR holds and begin anew")
    command = add("search", _search, "Find the items of an index that are nearest to a text or an image.")
    command.add_argument("text", nargs="?", metavar="TEXT", help="what to look for")
    command.add_argument("--index", metavar="DIR", required=True, help="what zoo embed wrote")
    command.add_argument("--image", metavar="FILE", help="look for items like this image instead")
    command.add_argument("--top-k", type=int, default=10)
    command.add_argument("--output", metavar="FILE", help="write .csv, .json or .html instead of the table")
    command.add_argument("--model", help="where the index's model is now, if it was moved")
    command.add_argument("--backend", default="exact", help="exact (default) or faiss")
    command = add("chat", _chat, "Talk with a model, and show it pictures and sound: one PROMPT, or a session of lines (/help in it).")
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the question; - reads it from standard input; without it a session")
    command.add_argument("--model", required=True, help="run directory, saved model or transformers directory of a model that talks")
    command.add_argument("--image", action="append", metavar="FILE", help="a picture for the first question; may be given again")
    command.add_argument("--audio", action="append", metavar="FILE", help="a clip for the first question; may be given again")
    command.add_argument("--system", metavar="TEXT", help="what the model is told first, in place of its template's own sentence")
    command.add_argument("--boxes", metavar="FILE", help="draw the places that an answer names into the last picture (Kosmos-2)")
    command.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="no answer is longer (default: 256)")
    command.add_argument("--temperature", type=float, default=0.0, help="above 0 answers are drawn; 0 (default) takes the likeliest token")
    command.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest tokens")
    command.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest tokens that hold the share P")
    command.add_argument("--min-p", type=float, metavar="P", help="draw among tokens at least P times as likely as the likeliest")
    command.add_argument("--num-beams", type=int, default=1, metavar="N", help="follow N answers at once and take the likeliest")
    command.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1 words are repeated less")
    command.add_argument("--stop", action="append", metavar="TEXT", help="end an answer before this text; may be given again")
    command.add_argument("--seed", type=int, help="of drawn answers")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    command = add(
        "answer", _answer, "Let a model answer the questions of a source: checkpoint=M data=NAME, as for evaluate.", overrides=True
    )
    command.add_argument(
        "--output", "-o", metavar="FILE", required=True, help="JSON lines for data=instruct; a job that was stopped goes on"
    )
    command.add_argument("--split", default="train", help="of the source (default: train)")
    command.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="no answer is longer (default: 128)")
    command.add_argument("--temperature", type=float, default=0.0, help="above 0 answers are drawn; 0 (default) takes the likeliest token")
    command.add_argument("--seed", type=int, default=0, help="of drawn answers (default: 0)")
    command.add_argument("--batch-size", type=int, default=16, help="questions at once (default: 16)")
    command.add_argument("--limit", type=int, metavar="N", help="only so many questions, spread evenly over the split")
    command = add("speak", _speak, "Say a text: a recording, sentence by sentence.")
    command.add_argument("text", nargs="?", metavar="TEXT")
    command.add_argument("--file", metavar="FILE", help="a text file instead; - for standard input")
    command.add_argument("--output", "-o", metavar="FILE", default="speech.wav", help=".wav, .flac or .ogg (default: speech.wav)")
    command.add_argument("--model", help="run directory, saved model or bundled name; default: the voice that ships with zoo")
    command.add_argument("--plots", metavar="DIR", help="also draw alignment and mels of each sentence there")
    command.add_argument("--vocoder", default="griffin_lim", help="griffin_lim (default), wavernn, vocos or vocos:WEIGHTS")
    command.add_argument("--speaker", type=int, metavar="N", help="number of the voice, of a model with several")
    command.add_argument("--seed", type=int, default=0, help="of what is random in speaking")
    command.add_argument("--max-seconds", type=float, default=20.0, help="the longest sentence (default: 20)")
    command.add_argument("--batch-size", type=int, default=16)
    command = add("transcribe", _transcribe, "Write down what is said in recordings, of any length.")
    command.add_argument("paths", nargs="+", metavar="PATH", help="recordings, and folders of them")
    command.add_argument("--model", help="run directory, saved model, or directory of a Whisper; default: whisper_tiny_en of zoo fetch")
    command.add_argument("--output", "-o", metavar="DIR", help="write files there; a job that was stopped goes on")
    command.add_argument("--format", default="txt", metavar="F,...", help="txt (default), json, srt, vtt, tsv, or all")
    command.add_argument("--overwrite", action="store_true", help="make transcripts anew that are there already")
    command.add_argument("--language", metavar="CODE", help="en, de, ...; default: found by the first 30 s")
    command.add_argument("--task", default="transcribe", help="transcribe (default), or translate into English (multilingual models)")
    command.add_argument("--word-timestamps", action="store_true", help="tell when each word was said (json, srt, vtt)")
    command.add_argument("--no-timestamps", action="store_true", help="one segment for each 30 s")
    command.add_argument("--num-beams", type=int, metavar="N", help="follow N texts at once and take the likeliest")
    command.add_argument("--patience", type=float, metavar="P", help="of beams: wait for N * P texts that have ended")
    command.add_argument("--length-penalty", type=float, metavar="A", help="0 to 1, by which texts of unequal length are compared")
    command.add_argument("--best-of", type=int, metavar="N", help="of N texts that are drawn take the likeliest")
    command.add_argument("--temperatures", metavar="T,...", help="one after the other is tried; default: 0,0.2,0.4,0.6,0.8,1")
    command.add_argument("--compression-ratio-threshold", default="2.4", metavar="R", help="a text above repeats itself: next temperature")
    command.add_argument("--log-probability-threshold", default="-1", metavar="L", help="a text below is improbable: next temperature")
    command.add_argument("--no-speech-threshold", default="0.6", metavar="P", help="above it an improbable text is taken for silence")
    command.add_argument("--initial-prompt", metavar="TEXT", help="names and spelling, as if said before the recording")
    command.add_argument("--no-previous-text", action="store_true", help="what was said before does not help with what follows")
    command.add_argument("--windows", default="seek", help="seek (default): one after the other; fixed: each 30 s by itself, many at once")
    command.add_argument("--short", action="store_true", help="hear what there is of a window, without padding: faster")
    command.add_argument("--batch-size", type=int, default=1, help="windows at once, of several recordings or with --windows fixed")
    command.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    command.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    command = add("export", _export, "Write a model as another library's files.")
    command.add_argument("model", metavar="M", help="run directory, saved model, transformers directory or bundled name")
    command.add_argument("directory", metavar="DIR", help="is written as a whole")
    command.add_argument("--format", default="transformers", help="transformers (default), open_clip, timm, vig, torchaudio or zoo")
    command = add("draw-graph", _draw_graph, "Draw the neighbours that a Vision GNN gives to a patch of an image.")
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("--model", help="name, run directory, saved model or bundled name; default: the bundled clip_vig_nano")
    command.add_argument("--weights", help="weights for a model that is given by name (a published .pth file, a saved model)")
    command.add_argument("--weights-parts", nargs="+", metavar="PART", help="load only these parts of the weights, for example: encoder")
    command.add_argument("--layer", metavar="K,...", help="blocks, from 0; default: the first, the middle and the last")
    command.add_argument("--node", action="append", metavar="ROW,COL", help="patch, from 0 at the top left; may be given again")
    command.add_argument("--output", "-o", metavar="FILE", default="graph.png", help=".png, .pdf, .svg or .jpg (default: graph.png)")
    command = add("fetch", _fetch, "Fetch real weights and data into a cache; without a name, list what there is.")
    command.add_argument("name", nargs="?")
    command.add_argument("--directory", metavar="DIR", help="put it there as DIR/NAME; default: $ZOO_CACHE or ~/.cache/zoo")
    return parser


def _print_json(value: Any) -> None:
    # display.print_json says the same, but its module loads rich, which would double the time of `zoo list`
    print(json.dumps(value, ensure_ascii=False))


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.registry import find_row, list_models

    found = [find_row(name) for name in list_models(options.pattern, options.kind, options.modality)]
    if options.json:
        for row in found:
            _print_json({"name": row.name, "kind": row.kind, "family": row.family, "modalities": row.modalities})
        return 0
    if not found:
        raise ZooError(f"nothing matches {options.pattern!r}; see all with: zoo list")
    width = max(len(row.name) for row in found)
    for row in found:  # plain columns: they are also what a pipe wants, and rich would double the time of this command
        print(f"{row.name:<{width}}  {row.kind:<8}  {', '.join(row.modalities)}")
    return 0


def _info(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.assembly.summary import summarize
    from zoo.commands.display import show_info

    show_info(options.name, summarize(options.name), as_json=options.json)
    return 0


def _check(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.assembly.compose import compose
    from zoo.commands.display import show_check
    from zoo.runs.check import check

    show_check(check(compose("train", rest)), as_json=options.json)
    return 0


def _train(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.assembly.compose import apply_overrides, compose, run_with_hydra

    if any(word in SWEEP_FLAGS for word in rest):
        status = run_with_hydra(rest, lambda config: _train_one(config, options.json))
    elif resume := [word.partition("=")[2] for word in rest if word.startswith("resume=") and word != "resume=null"]:
        from zoo.runs.run_directory import read_run_config

        changes = [word for word in rest if not word.startswith(("resume=", "run_dir="))]
        status = _train_one({**apply_overrides(read_run_config(resume[-1]), changes), "resume": resume[-1]}, options.json)
    else:
        status = _train_one(compose("train", rest), options.json)
    if status == 0:
        from zoo.losses.distributed import leave

        leave()
    return status


def _train_one(config: dict[str, Any], as_json: bool) -> int:
    from zoo.commands.display import show_trained, training_progress
    from zoo.runs.train import train

    with training_progress(config, as_json=as_json) as progress:
        result = train(config, progress=progress)
    if int(os.environ.get("RANK", "0")) == 0:
        show_trained(result, as_json=as_json)
    return 0


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.assembly.compose import compose
    from zoo.commands.display import counting_progress, show_evaluation
    from zoo.runs.evaluate import evaluate_each

    config = compose("evaluate", rest)
    with counting_progress("evaluate", None, as_json=options.json) as advance:
        for result, output in evaluate_each(config, advance=advance):
            show_evaluation(result, output, as_json=options.json)
    return 0


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
    from zoo.assembly.compose import compose
    from zoo.commands.answer import answer_command

    return answer_command(options, compose("evaluate", rest))


def _speak(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.speak import speak_command

    return speak_command(options)


def _transcribe(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.transcribe import transcribe_command

    return transcribe_command(options)


def _export(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.assembly.export import export
    from zoo.assembly.save_load import load

    written = str(export(cast(Any, load(options.model)), options.directory, options.format))
    _print_json({"written": written, "format": options.format}) if options.json else print(f"written: {written}")
    return 0


def _draw_graph(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.draw_graph import draw_graph_command

    return draw_graph_command(options)


def _fetch(options: argparse.Namespace, rest: list[str]) -> int:
    from zoo.commands.fetch import fetch_command

    return fetch_command(options)


if __name__ == "__main__":
    sys.exit(main())
