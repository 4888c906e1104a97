#!/bin/bash
# Which method for msd_hippocampus: a search on the validation cases with one seed, a choice by a rule that is fixed
# beforehand (choose.py), then defaults and chosen options on the test cases with three seeds.
#
#   docs/studies/methods/run.sh DATA OUT [DEVICES [JOBS]]      .../run.sh data/Task04_Hippocampus out cuda:0 16
#
# Started again it goes on. MEDCALIB names the command, OPTIONS more options of all three calls.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: $0 DATA OUT [DEVICES [JOBS]]} out=${2:?usage: $0 DATA OUT [DEVICES [JOBS]]}
medcalib=${MEDCALIB:-medcalib}
# fp32: what is compared are losses, and the logits of bf16 are coarse
common=(--data "$data" --devices "${3:-cpu}" --jobs "${4:-1}" --set train.precision=fp32)
read -ra more <<<"${OPTIONS:-}"

compare() { # a cell that fails is named in the table, and does not keep the others from their turn
    $medcalib compare msd_hippocampus "${common[@]}" ${more[@]+"${more[@]}"} "$@" || [ $? -eq 4 ]
}

compare --out "$out/search" \
    --split val --seeds 0 --losses ce,mbls,nacl,crac,acls,cals_alm --set score.distances=false \
    --method 'mbls_m1_w0.1={name: mbls, margin: 1, weight: 0.1}' --method 'mbls_m1_w0.5={name: mbls, margin: 1, weight: 0.5}' \
    --method 'mbls_m2_w0.1={name: mbls, margin: 2, weight: 0.1}' --method 'mbls_m2_w0.5={name: mbls, margin: 2, weight: 0.5}' \
    --method 'mbls_m4_w0.1={name: mbls, margin: 4, weight: 0.1}' --method 'mbls_m4_w0.5={name: mbls, margin: 4, weight: 0.5}' \
    --method 'mbls_m6_w0.1={name: mbls, margin: 6, weight: 0.1}' --method 'mbls_m6_w0.5={name: mbls, margin: 6, weight: 0.5}' \
    --sweep nacl.weight=0.003,0.01,0.03,0.2 \
    --method 'nacl_k5_w0.03={name: nacl, kernel_size: 5, weight: 0.03}' \
    --method 'crac_m5_rho0.01={name: crac, margin: 5, rho: 0.01}' --method 'crac_m5_rho1={name: crac, margin: 5, rho: 1}' \
    --method 'crac_m8_rho0.01={name: crac, margin: 8, rho: 0.01}' --method 'crac_m8_rho0.1={name: crac, margin: 8, rho: 0.1}' \
    --method 'crac_m8_w0.1={name: crac, margin: 8, weight: 0.1}' --method 'crac_m5_w0.1={name: crac, margin: 5, weight: 0.1}' \
    --method 'acls_m2_w0.1={name: acls, margin: 2, weight: 0.1}' --method 'acls_m2_w0.5={name: acls, margin: 2, weight: 0.5}' \
    --method 'acls_m4_w0.1={name: acls, margin: 4, weight: 0.1}' --method 'acls_m4_w0.5={name: acls, margin: 4, weight: 0.5}' \
    --method 'cals_m2={name: cals_alm, margin: 2}' --method 'cals_m4={name: cals_alm, margin: 4}' --method 'cals_m6={name: cals_alm, margin: 6}' \
    --method 'cals_m4_w0.1={name: cals_alm, margin: 4, weight: 0.1}'

mapfile -t chosen < <("${PYTHON:-python3}" "$here/choose.py" "$out/search")
compare --out "$out/main" --seeds 0,1,2 --calibrators temperature,focal_temperature \
    --losses ce,dice_ce,label_smoothing,focal,ecp,svls,mbls,acls,cals_alm,nacl,crac,fcl,ml1_ace_soft "${chosen[@]}"
