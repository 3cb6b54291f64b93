#!/usr/bin/env bash
# Figures about registries: memory while a large image is pushed, what a second push moves, and how many images survive a
# registry at which everything goes wrong.
#
# Says what is missing and skips. $RBUILD is the program [target/release/rbuild], $MIB the size of the image [1024],
# $RBUILD_STORM the number of images of the storm [1000; 0 leaves it out].
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIP: $*"; exit 0; }
for tool in docker-registry python3 /usr/bin/time; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
rbuild=${RBUILD:-$PWD/target/release/rbuild}
[ -x "$rbuild" ] || skip "$rbuild is not there; cargo build --release makes it"
mib=${MIB:-1024}

work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT
free=$(df --output=avail -m "$work" | tail -1)
[ "$free" -gt $((mib * 4)) ] || skip "$((mib * 4)) MiB of disk are needed, there are $free"
export HOME=$work/home RBUILD_ROOT=$work/store DOCKER_CONFIG=$work/home
mkdir -p "$HOME" "$work/context"
fail() { echo "FAIL: $*"; exit 1; }

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
registry=127.0.0.1:$port
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: $registry}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
pids+=($!)
for _ in $(seq 50); do
  python3 -c "import urllib.request as u; u.urlopen('http://$registry/v2/')" 2>/dev/null && break
  sleep 0.2
done

for n in 1 2 3 4; do head -c $((mib / 4 * 1048576)) /dev/urandom >"$work/context/part$n"; done
printf 'FROM scratch\nCOPY part1 /\nCOPY part2 /\nCOPY part3 /\nCOPY part4 /\n' >"$work/context/Dockerfile"
image=$registry/large:1
"$rbuild" build -q -t "$image" "$work/context" >/dev/null

# How many requests carried bytes of blobs so far.
uploads() { grep -cE '"(POST|PATCH|PUT) /v2/[^"]*/blobs/uploads/' "$work/registry.log" || true; }
measured() { # NAME COMMAND…
  local name=$1; shift
  /usr/bin/time -v "$@" >/dev/null 2>"$work/time" || { cat "$work/time"; fail "$name"; }
  kib=$(sed -n 's/.*Maximum resident set size (kbytes): //p' "$work/time")
  echo "$name: $((kib / 1024)) MiB of memory, $(sed -n 's/.*Elapsed (wall clock) time.*): //p' "$work/time") elapsed"
  [ "$kib" -lt 65536 ] || fail "$name: more than 64 MiB of memory"
}
before=$(uploads)
measured "push of $mib MiB" "$rbuild" push -q "$image"
first=$(($(uploads) - before))
before=$(uploads)
measured "the same push again" "$rbuild" push -q "$image"
second=$(($(uploads) - before))
echo "requests that send blobs: $first in the first push, $second in the second"
[ "$first" -gt 0 ] || fail "the registry's log does not tell of uploads"
[ "$second" = 0 ] || fail "the second push moves blobs"
RBUILD_ROOT=$work/other measured "pull of $mib MiB" "$rbuild" pull -q "$image"

storm=${RBUILD_STORM:-1000}
[ "$storm" != 0 ] || exit 0
command -v cargo >/dev/null || skip "the storm: cargo is not installed"
export HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
RBUILD_STORM=$storm cargo test --quiet --test it -- registry::storm --nocapture | tee "$work/storm"
