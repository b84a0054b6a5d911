"""Options of ``zoo transcribe``; no torch is imported here, because every command reads them."""

import argparse


def add_transcribe_options(command: argparse.ArgumentParser) -> None:
    """Add the options to the command's parser."""
    command.add_argument(
        "paths", nargs="*", metavar="PATH", help="audio files, folders that are searched recursively, or - for standard input"
    )
    command.add_argument("--model", help="run directory, saved model or Whisper directory; default: whisper_tiny_en of zoo fetch")
    command.add_argument(
        "--output", "-o", metavar="DIR", help="directory of the transcripts; an interrupted job resumes; default: print them"
    )
    command.add_argument(
        "--format",
        default="txt",
        metavar="F,...",
        help="comma-separated output formats: txt (default), json, srt, vtt, tsv, or all; in tsv a text that a spreadsheet would compute "
        "(it begins with = + - @) gets a ' in front",
    )
    command.add_argument("--overwrite", action="store_true", help="transcribe again if a transcript exists")
    command.add_argument(
        "--language", metavar="L", help="en, German, de-AT, ...; auto detects it from the first 30 s; default: the model's own, else auto"
    )
    command.add_argument(
        "--task", help="transcribe, or translate into English (multilingual models only); default: the model's own, else transcribe"
    )
    command.add_argument("--track", type=int, metavar="N", help="sound track of files that have several, from 1 on; default: the first")
    command.add_argument("--live", action="store_true", help="print text while standard input (-) comes in: 16 kHz s16le, or a container")
    command.add_argument("--microphone", action="store_true", help="print text while you speak, until Ctrl-C (zoo install microphone)")
    command.add_argument("--word-timestamps", action="store_true", help="add the start and end time of each word (json, srt, vtt)")
    command.add_argument("--no-timestamps", action="store_true", help="do not predict timestamps; one segment per 30 s window")
    command.add_argument("--num-beams", type=int, metavar="N", help="beam search with N beams")
    command.add_argument("--patience", type=float, metavar="P", help="beam search patience: stop after P * N finished hypotheses")
    command.add_argument("--length-penalty", type=float, metavar="A", help="length penalty when hypotheses are ranked, 0 to 1")
    command.add_argument("--best-of", type=int, metavar="N", help="draw N samples at temperatures above 0 and keep the most likely")
    command.add_argument("--temperatures", metavar="T,...", help="temperature fallback schedule (default: 0,0.2,0.4,0.6,0.8,1)")
    command.add_argument(
        "--compression-ratio-threshold", default="2.4", metavar="R", help="fall back to the next temperature above this gzip ratio"
    )
    command.add_argument("--log-probability-threshold", default="-1", metavar="L", help="fall back below this average log probability")
    command.add_argument(
        "--no-speech-threshold", default="0.6", metavar="P", help="skip an improbable window as silence above this no-speech probability"
    )
    command.add_argument(
        "--suppress-tokens", metavar="N,...", help="token ids never written; -1: openai-whisper's list; '': none; default: the model's own"
    )
    command.add_argument(
        "--initial-prompt", metavar="TEXT", help="text given to the decoder as context, for example names and their spelling"
    )
    command.add_argument(
        "--no-previous-text", action="store_true", help="do not use the text of the previous window as context for the next"
    )
    command.add_argument(
        "--windows",
        default="seek",
        help="seek (default): one after another, with the text before as context; fixed: sections of 2 minutes side by side",
    )
    command.add_argument(
        "--vad",
        "--vad-filter",
        dest="vad_filter",
        default="auto",
        help="leave out pauses of 2 s and more, found by: silero, energy (loudness), none, or auto (default): silero if it is installed",
    )
    command.add_argument("--max-line-width", type=int, metavar="N", help="subtitles: characters per line, with --word-timestamps")
    command.add_argument("--max-line-count", type=int, metavar="N", help="subtitles: lines per subtitle, with --max-line-width")
    command.add_argument("--max-words-per-line", type=int, metavar="N", help="subtitles: words per subtitle, with --word-timestamps")
    command.add_argument("--short", action="store_true", help="do not pad short windows to 30 s: faster")
    command.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="windows per batch, of several recordings or of one with fixed windows; results do not depend on it (default: 8)",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed for sampling (default: 0)")
