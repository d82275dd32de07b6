#!/bin/sh
# ImageNet-1k, ResNet-50 cut after its first residual block: the paper's unit, JPEG at quality 20, end to end.
#
#   recipes/imagenet_resnet50.sh IMAGENET OUT     IMAGENET/train and /val: a folder for each class; or train/*.tar, shards
#   recipes/imagenet_resnet50.sh --smoke          the same commands on a handful of photos, on a CPU
#
# Written for one machine with four GPUs and 64 cores: 1,281,167 photos x 90 passes. For several machines, the same line
# after `accelerate launch`. NOBODY HAS RUN IT: minutes and result are not known.
set -eu
. "$(dirname "$0")/settings.sh"
$BOTTLENET train --model "${MODEL:-torchvision/resnet50}" --cut "${CUT:-layer1.0}" --data "$DATA/train" \
    --out "$OUT/run" --unit paper --channels 1 --stride 2 --codec jpeg --quality 20 --end-to-end --norms \
    --label-weight 1 --optimizer sgd --lr 0.1 --tail-lr 0.02 \
    --epochs 90 --batch 1024 --no-cache --workers 14 --processes 4 --precision bf16 $SMOKE
$BOTTLENET export "$OUT/run" -o "$OUT/bundle" --align 1
$BOTTLENET evaluate "$OUT/bundle" --data "$DATA/val" ${SMOKE:+--limit 10}
