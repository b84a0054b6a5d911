"""Options of ``zoo chat`` and ``zoo answer``, without the modules that run them."""

import argparse


def add_chat_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``zoo chat``."""
    command.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="question to answer; - reads it from standard input; omit it for an interactive session"
    )
    command.add_argument(
        "--model", required=True, help="run directory, saved model or transformers directory of a multimodal language model"
    )
    command.add_argument("--image", action="append", metavar="FILE", help="image for the first question; repeat for several")
    command.add_argument("--video", action="append", metavar="FILE", help="video for the first question; repeat for several")
    command.add_argument("--frames", type=int, metavar="N", help="number of evenly spread frames of each video (default: 8)")
    command.add_argument("--frame-rate", type=float, metavar="R", help="frames per second of each video, instead of --frames")
    command.add_argument("--audio", action="append", metavar="FILE", help="audio clip for the first question; repeat for several")
    command.add_argument("--system", metavar="TEXT", help="system prompt; default: that of the chat template")
    command.add_argument(
        "--boxes", metavar="FILE", help="draw the bounding boxes of each answer onto the last image and write it to FILE (Kosmos-2)"
    )
    command.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="maximum number of tokens per answer (default: 256)")
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="sampling temperature; 0 (default) decodes greedily")
    command.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens")
    command.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the smallest set of tokens with total probability P (nucleus sampling)"
    )
    command.add_argument("--min-p", type=float, metavar="P", help="sample from tokens at least P times as likely as the most likely token")
    command.add_argument("--num-beams", type=int, default=1, metavar="N", help="beam search with N beams (default: 1, no beam search)")
    command.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="R", help="values above 1 penalize repeated tokens (default: 1)"
    )
    command.add_argument("--stop", action="append", metavar="TEXT", help="stop string: end the answer before this text; repeat for several")
    command.add_argument("--seed", type=int, help="random seed for sampling")


def add_answer_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``zoo answer``."""
    command.add_argument(
        "--output", "-o", metavar="FILE", required=True, help="JSON-lines file to write, for data=instruct; an interrupted job resumes"
    )
    command.add_argument("--split", default="train", help="split of the data source (default: train)")
    command.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="maximum number of tokens per answer (default: 128)")
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="sampling temperature; 0 (default) decodes greedily")
    command.add_argument("--seed", type=int, default=0, help="random seed for sampling (default: 0)")
    command.add_argument("--batch-size", type=int, default=16, metavar="N", help="questions per batch (default: 16)")
    command.add_argument("--limit", type=int, metavar="N", help="answer only N questions, spread evenly over the split")
    command.add_argument("--best-of", type=int, metavar="N", help="sample N answers per question and keep the one with the highest reward")
    command.add_argument(
        "--reward", metavar="REWARD", help="reward of --best-of: exact (match with a right answer), or a saved reward model"
    )
