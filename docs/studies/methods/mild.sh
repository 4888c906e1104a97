#!/bin/bash
# How much calibration costs no Dice: a second search among weak penalties, with half of the loss of Dice that the first
# rule allows, then the chosen options on the test cases with three seeds.
#
#   docs/studies/methods/mild.sh DATA OUT [DEVICES [JOBS]]      started again it goes on
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: $0 DATA OUT [DEVICES [JOBS]]} out=${2:?usage: $0 DATA OUT [DEVICES [JOBS]]}
medcalib=${MEDCALIB:-medcalib}
common=(--data "$data" --devices "${3:-cpu}" --jobs "${4:-1}" --set train.precision=fp32)

compare() { $medcalib compare msd_hippocampus "${common[@]}" "$@" || [ $? -eq 4 ]; }

compare --out "$out/mild_search" --split val --seeds 0 --losses ce --set score.distances=false \
    --method 'nacl_w0.005={name: nacl, weight: 0.005}' --method 'nacl_w0.01={name: nacl, weight: 0.01}' \
    --method 'crac_m8_rho0.01={name: crac, margin: 8, rho: 0.01}' --method 'crac_m8_w0.1={name: crac, margin: 8, weight: 0.1}' \
    --method 'cals_m6_w0.1={name: cals_alm, margin: 6, weight: 0.1}' --method 'cals_m8={name: cals_alm, margin: 8}' \
    --method 'mbls_m8_w0.1={name: mbls, margin: 8}' --method 'mbls_m6_w0.03={name: mbls, margin: 6, weight: 0.03}' \
    --method 'acls_m8_w0.1={name: acls, margin: 8}' --method 'acls_m6_w0.03={name: acls, margin: 6, weight: 0.03}'

mapfile -t chosen < <("${PYTHON:-python3}" "$here/choose.py" "$out/mild_search" --lost-dice 0.0025 --suffix mild)
compare --out "$out/mild" --seeds 0,1,2 --losses ce,dice_ce "${chosen[@]}"
