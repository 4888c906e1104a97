#!/bin/bash
# Builds the image without a daemon, with buildah, and uses it as a hardened container does: a user without a name, a
# read-only root, no network, little shared memory. Needs root, buildah and, without BASE, debootstrap.
#
#   docker/trial.sh FOLDER      FOLDER takes what is built (some GB) and what the container writes
#
# Environment:
#   BASE            an image to build upon; without it Debian's Python is made into one
#   TARGET          cpu (the default) or gpu
#   PIP_FIND_LINKS, PIP_NO_INDEX, PIP_INDEX_URL, PIP_CERT, TORCH_INDEX, EXTRAS
#                   passed on; a folder of wheels is mounted
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath --canonicalize-missing "${1:?usage: $0 FOLDER}")
target=${TARGET:-cpu}
mkdir -p "$folder/out"
chmod 0777 "$folder/out" # the container's user is not this one

builder() {
    buildah --storage-driver vfs --root "$folder/storage" --runroot "$folder/run" "$@"
}

said() {
    printf '%s  %s\n' "$(date +%T)" "$*"
}

stand_in() { # Debian with Python: what an image of that name has on the network, for where there is none
    base=localhost/medcalib-base
    builder inspect --type image "$base" >/dev/null 2>&1 && return
    said "making $base with debootstrap"
    rm -rf "$folder/base"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/base" >"$folder/base.log"
    local container
    container=$(builder from scratch)
    builder add --quiet "$container" "$folder/base" / >/dev/null
    builder commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$folder/base"
}

build() {
    local passed=(--build-arg "BASE=$base" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)") name place
    for name in PIP_FIND_LINKS PIP_NO_INDEX PIP_INDEX_URL PIP_CERT TORCH_INDEX EXTRAS; do
        [ -z "${!name:-}" ] || passed+=(--build-arg "$name=${!name}")
    done
    for place in /etc/ssl/certs ${PIP_FIND_LINKS:-}; do # a registry behind a certificate of this machine's
        [ ! -d "$place" ] || passed+=(--volume "$place:$place:ro")
    done
    said "building the target $target upon $base"
    builder build --isolation chroot --layers=false --format docker "${passed[@]}" \
        --target "$target" --tag "medcalib:$target" --file docker/Dockerfile . >"$folder/build.log" 2>&1 ||
        { tail -30 "$folder/build.log" >&2 && exit 1; }
    builder images --format '{{.Name}}:{{.Tag}} {{.Size}}'
}

contained() { # contained UID:GID SHARED_MEMORY COMMAND...: in namespaces of its own, as `docker run --read-only` does
    local ids=$1 shared=$2
    shift 2
    # shellcheck disable=SC2016 # the inner shell expands them
    unshare --mount --net --pid --fork --kill-child bash -euc '
        root=$1 out=$2 ids=$3 shared=$4
        shift 4
        mount --bind "$root" "$root"
        mount -o remount,bind,ro "$root"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o "size=$shared,mode=1777" tmpfs "$root/dev/shm"
        mount --bind "$out" "$root/out"
        ip link set lo up 2>/dev/null || true
        exec chroot --userspec="$ids" "$root" /usr/bin/env --ignore-environment --chdir=/out "$@"
    ' contained "$root" "$folder/out" "$ids" "$shared" "${environment[@]}" "$@"
}

use() {
    local container image="localhost/medcalib:$target"
    container=$(builder from "$image")
    root=$(builder mount "$container")
    mapfile -t environment < <(builder inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$image" | sed '/^$/d')
    mapfile -t entrypoint < <(builder inspect --type image --format '{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}' "$image" | sed '/^$/d')
    local user
    user=$(builder inspect --type image --format '{{.OCIv1.Config.User}}' "$image")
    rm -rf "$folder/out"/*
    said "as the image's user $user"
    contained "$user:0" 64m "${entrypoint[@]}" --version
    contained "$user:0" 64m sh -s <docker/story.sh
    said "as a user without a name, as clusters choose it"
    contained 1000680000:0 64m "${entrypoint[@]}" score --predictions pred --labels hearts --config phantom --out scores-again
    cmp "$folder/out/scores/scores.json" "$folder/out/scores-again/scores.json"
    builder rm "$container" >/dev/null
    said "done"
}

base=${BASE:-}
[ -n "$base" ] || stand_in
build
use
