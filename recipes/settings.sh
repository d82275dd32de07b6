# What all recipes share: RECIPE DATA OUT, or RECIPE --smoke. Sets DATA, OUT and SMOKE, options that stand last and so
# hold. BOTTLENET, PYTHON, MODEL and CUT may be set outside.
HERE=$(dirname "$0")
PYTHON=${PYTHON:-python}
BOTTLENET=${BOTTLENET:-bottlenet}
SMOKE=
if [ "${1:-}" = --smoke ]; then
    OUT=$(mktemp -d)
    trap 'rm -rf "$OUT"' EXIT
    DATA=$OUT/data
    "$PYTHON" "$HERE/smoke.py" "$DATA"
    if [ -z "${MODEL:-}" ]; then MODEL=efficientnet_lite0 CUT=${CUT:-blocks.0}; fi  # else the recipe's own cut
    SMOKE="--epochs 1 --batch 4 --workers 1 --processes 1"
elif [ $# = 2 ]; then
    DATA=$1 OUT=$2
else
    echo "usage: $0 DATA OUT, or $0 --smoke" >&2
    exit 2
fi
