#!/usr/bin/env bash
# SFT, KTO (the same data and labels, |W| = 1) and GRACE-KTO, offline (one data set of K = 128) and semi-online (four of
# K = 32), on generated worlds of several seeds, each method at its own best of three learning rates. The rate is chosen
# on 128 held-out queries and the table is made on 128 others. About 20 minutes a seed on one core; a rerun goes on
# where it stopped.
#
#     bash scripts/compare_methods.sh            # SEEDS="0 1 2" RATES="1e-4 2e-4 4e-4" JOBS=2
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
SEEDS="${SEEDS:-0 1 2}" RATES="${RATES:-1e-4 2e-4 4e-4}" JOBS="${JOBS:-2}" FOLDER="${FOLDER:-.grace/compare}"

one_seed() {
    local seed=$1 store="$FOLDER/seed-$1/store" policies=("local/tiny-sft@main")
    local common=(--config tiny --store "$store" --set "world.seed=$seed" --set "random_seed=$seed")
    .venv/bin/train --sft "${common[@]}"
    for rate in $RATES; do
        for binary in true false; do
            for variant in "offline 1 128" "semi 4 32"; do
                read -r label rounds queries <<<"$variant"
                name="$([ $binary = true ] && echo kto || echo grace)-$label-$rate"
                .venv/bin/grace loop "${common[@]}" --rounds "$rounds" --set "name=$name" --set "calibrate.binary=$binary" \
                    --set models.policy=local/tiny-sft --set "generate.queries=$queries" --set "train.learning_rate=$(printf '%.6f' "$rate")"
                policies+=("local/$name-policy@main")
            done
        done
    done
    .venv/bin/grace evaluate "${common[@]}" --set evaluate.skip=128 --output "$FOLDER/seed-$seed/choice" "${policies[@]}"
    .venv/bin/grace evaluate "${common[@]}" --output "$FOLDER/seed-$seed/test" "${policies[@]}"
}
export -f one_seed
export RATES FOLDER
echo "$SEEDS" | tr ' ' '\n' | xargs -P "$JOBS" -I{} bash -c 'mkdir -p "$FOLDER/seed-{}" && one_seed {} >"$FOLDER/seed-{}/log" 2>&1'
.venv/bin/python scripts/compare_methods.py "$FOLDER" $SEEDS
