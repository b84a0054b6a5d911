#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated classifier of your images: offline once installed, on a CPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

heading "Environment"
prepare_environment ""
cd "$ZOO_ROOT"

# A model this small is fastest on one thread, and ten times faster where other programs use the cores too.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

run=runs/quickstart
heading "Training clip_vit_nano on the digits in assets/"
if [ -n "$(ls -d "$run"/state/step_* 2>/dev/null)" ]; then
    zoo train resume="$run" # goes on where it stopped; trains nothing where it is done
else
    rm -rf "$run" # what a kill before the first state left behind
    zoo train experiment=quickstart run_dir="$run"
fi

heading "Evaluating it"
zoo evaluate checkpoint="$run"

heading "Classifying the pictures in assets/samples/"
zoo classify assets/samples --model "$run" --labels zero,one,two,three,four,five,six,seven,eight,nine

heading "Next"
printf '%s\n' \
    "source \"$ZOO_VENV/bin/activate\"    # then, in the same shell:" \
    "zoo classify YOUR_FOLDER --model $run --labels cat,dog    # your pictures and labels; zoo list shows other models" \
    "zoo train system=siglip_vit_nano run_dir=runs/siglip    # another system on the same data; zoo check system=... tries one without training"
