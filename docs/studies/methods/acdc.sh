#!/bin/bash
# Whether what run.sh chose on hippocampi helps elsewhere: a few methods on hearts, few patients.
#
#   docs/studies/methods/acdc.sh DATA OUT [DEVICES [JOBS [long]]]      OUT as of run.sh, whose search is in OUT/search
#
# 600 steps and one seed, into OUT/acdc; `long`: 4000 steps, three seeds and one method more, into OUT/acdc_long.
# The 12 patients of a sample of ACDC: 4 to test, 2 to validate, 6 to train. The patch has 6 slices, as many as the thinnest
# volume: none of those to train has fewer than 8, and a network that has never seen padding fails where it meets it.
# Started again it goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: $0 DATA OUT [DEVICES [JOBS [long]]]} out=${2:?usage: $0 DATA OUT [DEVICES [JOBS [long]]]}
medcalib=${MEDCALIB:-medcalib}
name=acdc methods=(nacl_pf) length=(--seeds 0 --set train.epochs=12 --set train.validate_every=2)
if [ "${5:-}" = long ]; then
    name=acdc_long methods=(nacl_pf crac_pf)
    length=(--seeds 0,1,2 --set train.epochs=80 --set train.validate_every=8 --set train.workers=2)
fi
mapfile -t chosen < <("${PYTHON:-python3}" "$here/choose.py" "$out/search" "${methods[@]}")

$medcalib compare acdc --data "$data" --devices "${3:-cpu}" --jobs "${4:-1}" --out "$out/$name" "${length[@]}" --calibrators temperature \
    --set split.test=0.34 --set split.folds=4 --set "train.patch_size=[96, 96, 6]" --set train.batch_size=2 \
    --set train.steps_per_epoch=50 --set train.precision=fp32 \
    --losses ce,dice_ce,svls "${chosen[@]}" || [ $? -eq 4 ]
