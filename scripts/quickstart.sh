#!/usr/bin/env bash
# Install zoo with the packages that README uses, then train, evaluate and use a small zero-shot image classifier on a CPU; offline after the installation.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

heading "Environment"
prepare_environment vision,audio,speech,transformers,peft,gguf,fetch,metrics,demo,serve,docs # what README uses
cd "$ZOO_ROOT"

# A model of this size is fastest with one thread; on a shared machine by a factor of ten.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

run=runs/quickstart
heading "Training clip_vit_nano on the digits in assets/"
if [ -n "$(ls -d "$run"/state/step_* 2>/dev/null)" ]; then
    zoo train resume="$run" # resumes an interrupted run; a finished run is not trained again
else
    rm -rf "$run" # remove a run that was killed before its first checkpoint
    zoo train experiment=quickstart run_dir="$run"
fi

heading "Evaluating the model"
zoo evaluate checkpoint="$run"

heading "Classifying the images in assets/samples/"
zoo classify assets/samples --model "$run" --labels zero,one,two,three,four,five,six,seven,eight,nine

heading "Next steps"
printf '%s\n' \
    "source \"$ZOO_VENV/bin/activate\"    # then, in the same shell:" \
    "zoo classify YOUR_FOLDER --model $run --labels cat,dog    # your images and labels; zoo list shows other models" \
    "zoo train system=siglip_vit_nano run_dir=runs/siglip    # another model, same data; zoo check system=... only validates it"
