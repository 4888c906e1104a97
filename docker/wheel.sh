#!/bin/sh
# Tries a wheel as someone without a compiler gets it: a new environment of the tested versions, no command but those of
# this environment in PATH, medcalib's doctor with the native library, and the demo.
#
#   docker/wheel.sh PYTHON WHEEL FOLDER      FOLDER takes the environment and the demo
#
# The environment variables are those of install.sh.
set -eu

if [ $# -ne 3 ]; then
    echo "usage: $0 PYTHON WHEEL FOLDER" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
wheel=$(realpath "$2")
mkdir -p "$3"
folder=$(realpath "$3")

PYTHON="$1" CC=false CXX=false "$here/install.sh" "$folder/venv" "$wheel[report]"
cd "$folder" # not the checkout: what is imported must be the wheel's
alone() {
    env -i ${OMP_NUM_THREADS:+OMP_NUM_THREADS="$OMP_NUM_THREADS"} HOME="$folder" PATH="$folder/venv/bin" MEDCALIB_BACKEND=native "$@"
}
alone python -c 'import medcalib, sys; print(sys.version.split()[0], medcalib.__version__, medcalib.__file__)'
alone medcalib doctor
alone medcalib demo --out demo
[ -s demo/report.html ]
