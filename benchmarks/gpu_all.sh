#!/usr/bin/env bash
# Everything about a GPU in one call of under eight minutes: the tests, the benchmarks, a study through Ray.
#
#     bash benchmarks/gpu_all.sh [--dry-run] [FOLDER]
#
# FOLDER (gpu_results unless given) gets results.json, results.md (a table to paste into docs/speed.md) and the logs.
# Each part is ended at its own limit and reported so; the others run all the same. Without a GPU it is a dry run: the
# same commands in tiny sizes on the CPU, whose numbers mean nothing. PYTHON names the interpreter, python unless set.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-python}
dry=0
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
out=${1:-gpu_results}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
rm -f "$out/parts.tsv" "$out/tests.xml" "$out/gpu.json" "$out/stacked.json" "$out/stacked_graphs.json"
export OMP_NUM_THREADS=1 AKDTUNE_CACHE="$out/cache"

"$python" benchmarks/gpu_table.py begin "$out" || exit 1
if [ "$dry" = 0 ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no CUDA device: a dry run on the CPU, whose numbers mean nothing"
    dry=1
fi

part() { # NAME LIMIT_S COMMAND...: runs it, ends it at its limit, notes what became of it
    local name=$1 limit=$2 began=$SECONDS ended
    shift 2
    echo "== $name: at most $limit s"
    timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1
    ended=$?
    printf '%s\t%s\t%s\t%s\n' "$name" "$limit" "$((SECONDS - began))" "$ended" >>"$out/parts.tsv"
    if [ "$ended" = 0 ]; then tail -n 3 "$out/$name.log"; else echo "   ended with $ended (124: its time was up); $out/$name.log"; fi
}

rm -rf "$out/study"
cat >"$out/study.yaml" <<'YAML'
study: gpu_check
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [8, 16]}, checkpoint: auto, epochs: 4, batch_size: 32, milestones: [3]}
student: {network: {name: cnn, widths: [4, 8]}}
views: {name: angular, variant: constrained, num_views: 3, warmup_epochs: 2}
method: {choice: [kd, crd, dkd, [kd, crd]]}
training: {epochs: 6, batch_size: 32, lr: 0.05, milestones: [4, 5]}
search: {algorithm: grid}
scheduler: {name: none}
YAML
study=("$python" -m akdtune.cli run "$out/study.yaml" --dir "$out/study")

if [ "$dry" = 1 ]; then
    part tests 120 "$python" -m pytest -m gpu -n0 -q -p no:cacheprovider --junitxml "$out/tests.xml"
    part gpu 400 "$python" benchmarks/gpu.py --dry-run --budget 380 --json "$out/gpu.json"
    part stacked 200 "$python" benchmarks/stacked_seeds.py --quick --students digits --json "$out/stacked.json"
    part study 300 "${study[@]}"
else
    part tests 75 "$python" -m pytest -m gpu -n0 -q -p no:cacheprovider --junitxml "$out/tests.xml"
    part gpu 250 "$python" benchmarks/gpu.py --budget 235 --json "$out/gpu.json"
    part stacked 40 "$python" benchmarks/stacked_seeds.py --device cuda --students digits resnet8x4 --steps 30 --json "$out/stacked.json"
    part stacked_graphs 40 "$python" benchmarks/stacked_seeds.py --device cuda --students digits resnet8x4 --steps 30 --graphs --json "$out/stacked_graphs.json"
    part study 60 "${study[@]}" resources.gpu=0.5 training.cuda_graphs=true
fi
"$python" benchmarks/gpu_table.py end "$out" "$dry"
