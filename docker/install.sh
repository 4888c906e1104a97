#!/bin/sh
# Installs medcalib with the tested versions into a virtual environment. The image, make and with it CI share it.
#
#   docker/install.sh VENV [PIP_ARGUMENT...]      docker/install.sh .venv --editable ".[report,dev]"
#
# Without a PIP_ARGUMENT it installs torch only, which goes first in any case. Environment:
#   PYTHON       the interpreter of a new environment (python3)
#   TORCH        what pip is told of torch (torch); the build that fits a machine is the machine's matter
#   TORCH_INDEX  one more package index, which has the torch build to take
# and what pip itself reads: PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX, PIP_CERT, ...
set -eu

if [ $# -eq 0 ]; then
    echo "usage: $0 VENV [PIP_ARGUMENT...]" >&2
    exit 2
fi
constraints=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt
venv=$1
shift

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
# the constraints hold for what builds the native library, too, whatever the age of pip
export PIP_CONSTRAINT="$constraints" PIP_BUILD_CONSTRAINT="$constraints"
"$venv/bin/python" -m pip install --quiet pip # Debian's own takes a quarter of an hour to resolve the notebook extra
# a further index, not the only one: those of torch do not hold the pinned versions of what torch itself requires
# shellcheck disable=SC2086 # TORCH may hold options
"$venv/bin/python" -m pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ${TORCH:-torch}
[ $# -eq 0 ] || "$venv/bin/python" -m pip install --quiet "$@"
"$venv/bin/python" -m pip check
