#!/usr/bin/env bash
# Make the image-text model in assets/: download, shrink both encoders, distil the text encoder, train projections on drawings, join an
# ImageNet classifier for photos (ConSE), quantize to int8.
#
#   scripts/train_clip_photos_minilm.sh FOLDER        about an hour on two cores; FOLDER is the new directory of the runs
set -euo pipefail
folder=${1:?usage: scripts/train_clip_photos_minilm.sh FOLDER}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir "$folder"

minilm=$(zoo fetch minilm) dinov2=$(zoo fetch dinov2_small_focus) wordnet=$(zoo fetch wordnet) emoji=$(zoo fetch emoji)
extra=()
for name in emoji_styles icons openclipart; do
    extra+=("$(zoo fetch "$name")")
done

imagenet='preprocessing={mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}'
python "$here/scripts/shrink.py" "$minilm" "$folder/text" depth=3 embedding_dim=128 context_length=64
python "$here/scripts/shrink.py" "$dinov2" "$folder/image" depth=8 pool=concat pool_hidden_dim=512 pool_dropout=0.27 image_size=112 "$imagenet"

zoo train experiment=distil_text data.source.path="$wordnet" teacher="$minilm" weights.encoders.text="$folder/text" run_dir="$folder/distilled"
zoo train experiment=clip_dinov2_minilm data.source.path="$emoji" data.source.extra="[$(IFS=,; echo "${extra[*]}")]" \
    weights.encoders.image="$folder/image" weights.encoders.text="$folder/distilled" run_dir="$folder/trained"

python "$here/scripts/fuse_photos.py" "$folder/trained" "$(zoo fetch efficientnet_lite0)" "$wordnet/data.noun" "$folder/clip_photos_minilm"
for concepts in seen unseen; do
    zoo evaluate checkpoint="$folder/clip_photos_minilm" data=emoji data.source.path="$emoji" data.source.concepts=$concepts output="$folder/$concepts"
done
