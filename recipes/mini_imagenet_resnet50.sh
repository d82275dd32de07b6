#!/bin/sh
# The paper: miniImageNet-100, ResNet-50 cut after its first residual block, 28 x 28 x 1, JPEG at quality 20, 90 passes.
#
#   recipes/mini_imagenet_resnet50.sh IMAGENET OUT     IMAGENET/train: ImageNet-1k, a folder for each class
#   recipes/mini_imagenet_resnet50.sh --smoke          the same commands on a handful of photos, on a CPU
#
# Written for one GPU and 16 cores: 51,000 photos x 90 passes. NOBODY HAS RUN IT: minutes and result are not known.
# The paper: 74.1 % (uncut 76.1 %) at 316 bytes. As there, head, unit and tail all learn from the labels, and the unit
# starts from random weights. The classifier keeps its 1,000 classes, of which 100 are trained.
set -eu
. "$(dirname "$0")/settings.sh"
SPLIT=${SMOKE:+--folders 2 --count 2 --photos 10}
"$PYTHON" "$HERE/mini_imagenet.py" "$DATA" "$OUT/photos" $SPLIT
$BOTTLENET train --model "${MODEL:-torchvision/resnet50}" --cut "${CUT:-layer1.0}" --data "$OUT/photos/train" \
    --out "$OUT/run" --unit paper --channels 1 --stride 2 --codec jpeg --quality 20 --end-to-end --norms \
    --label-weight 1 --distillation-weight 0 --optimizer sgd --lr 0.05 --tail-lr 0.01 --blend 0 \
    --epochs 90 --batch 256 --no-cache --workers 14 --precision bf16 $SMOKE
$BOTTLENET export "$OUT/run" -o "$OUT/bundle" --align 1
$BOTTLENET evaluate "$OUT/bundle" --data "$OUT/photos/val"
