#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated classifier of your images: offline once installed, on a CPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

heading "Environment"
prepare_environment ""
cd "$ZOO_ROOT"

heading "Training clip_vit_nano on the digits in assets/"
if [ -d runs/quickstart/model ]; then
    printf 'runs/quickstart/model is there already, so nothing is trained; to train anew: rm -r runs/quickstart\n'
else
    zoo train run_dir=runs/quickstart
fi

heading "Evaluating it"
zoo evaluate checkpoint=runs/quickstart

heading "Classifying the pictures in assets/samples/"
zoo classify assets/samples --model runs/quickstart --labels zero,one,two,three,four,five,six,seven,eight,nine

heading "Next"
printf '%s\n' \
    "source \"$ZOO_VENV/bin/activate\"    # then, in the same shell:" \
    "zoo classify YOUR_FOLDER --model runs/quickstart --labels cat,dog    # your pictures and labels; zoo list shows other models" \
    "zoo train system=clip_vig_nano run_dir=runs/vig    # another encoder in the same system"
