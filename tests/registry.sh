#!/usr/bin/env bash
# Images in a registry behind TLS with an authority of its own and passwords, and in a Docker engine, judged by programs
# that are not ours: skopeo, umoci, docker.
#
# Needs the tools below, the engine's part root; says what is missing and skips. $RBUILD is the program
# [target/release/rbuild].
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIP: $*"; exit 0; }
for tool in docker-registry htpasswd openssl skopeo umoci python3; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
rbuild=${RBUILD:-$PWD/target/release/rbuild}
[ -x "$rbuild" ] || skip "$rbuild is not there; cargo build --release makes it"

work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  umount -R "$work"/docker 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
export HOME=$work/home RBUILD_ROOT=$work/store DOCKER_CONFIG=$work/home BUILDKIT_PROGRESS=plain
mkdir -p "$HOME" "$work/context"
say() { printf '\n--- %s\n' "$*"; }
fail() { echo "FAIL: $*"; exit 1; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

say "a registry with TLS and a password"
registry=127.0.0.1:$(free_port)
password=$(openssl rand -hex 12)
htpasswd -Bbn me "$password" >"$work/htpasswd"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=an authority" \
  -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=registry" \
  -keyout "$work/tls.key" -out "$work/tls.csr" 2>/dev/null
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >"$work/tls.ext"
openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
  -extfile "$work/tls.ext" -out "$work/tls.pem" 2>/dev/null
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
auth: {htpasswd: {realm: here, path: $work/htpasswd}}
http: {addr: $registry, tls: {certificate: $work/tls.pem, key: $work/tls.key}}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
pids+=($!)
for _ in $(seq 50); do
  python3 - "${registry#*:}" <<'PYTHON' 2>/dev/null && break
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()
PYTHON
  sleep 0.2
done
ca=(--registry-certificate "$registry=$work/ca.pem")

say "login"
if echo wrong | "$rbuild" login "$registry" -u me --password-stdin "${ca[@]}" 2>"$work/wrong"; then
  fail "a wrong password is accepted"
fi
if echo "$password" | "$rbuild" login "$registry" -u me --password-stdin --registry-retries 0 2>"$work/untrusted"; then
  fail "a certificate that nobody vouches for is accepted"
fi
grep -q "$password" "$work/wrong" "$work/untrusted" && fail "an error shows the password"
echo "$password" | "$rbuild" login "$registry" -u me --password-stdin "${ca[@]}"

say "build and push, two platforms one by one, then joined"
cat >"$work/context/Dockerfile" <<'DOCKERFILE'
FROM base
COPY --chmod=755 hello /bin/hello
COPY --chown=1234:1234 hello /srv/data
CMD ["/bin/hello", "world"]
DOCKERFILE
printf '#!/bin/sh\necho "hello $1"\n' >"$work/context/hello"
base="base=oci-layout://$PWD/fixtures/base"
machine=$(uname -m)
case $machine in x86_64) native=amd64 other=arm64 ;; aarch64) native=arm64 other=amd64 ;; *) skip "no plan for $machine" ;; esac
"$rbuild" --build-context "$base" "${ca[@]}" -t "$registry/app:$native" --push "$work/context"
printf 'FROM scratch\nCOPY hello /bin/hello\n' >"$work/scratch.Dockerfile"
"$rbuild" "${ca[@]}" -f "$work/scratch.Dockerfile" --platform "linux/$other" -t "$registry/app:$other" --push "$work/context"
RBUILD_ROOT=$work/other-store "$rbuild" manifest create "$registry/app:v1" "$registry/app:$native" "$registry/app:$other" "${ca[@]}" -q
digest=$(RBUILD_ROOT=$work/other-store "$rbuild" manifest push "$registry/app:v1" "${ca[@]}")
image=$registry/app:v1

say "every form of layer"
names=("$image" "$registry/app:$native" "$registry/app:$other")
for form in gzip uncompressed estargz $(command -v zstd); do
  form=${form##*/}
  for types in true false; do
    # Docker's own media types have none for zstd.
    [ "$form-$types" != zstd-false ] || continue
    name=$registry/forms:$form-$types
    "$rbuild" --build-context "$base" "${ca[@]}" -q "$work/context" \
      -o "type=registry,name=$name,compression=$form,force-compression=true,oci-mediatypes=$types" >/dev/null
    names+=("$name")
  done
done
judge=(python3 tests/check-image.py --ca "$work/ca.pem" --auth-file "$DOCKER_CONFIG/config.json")
"${judge[@]}" "${names[@]}" || fail "a pushed image is not what its documents say"

say "skopeo"
tls=(--src-cert-dir "$work/certs")
mkdir -p "$work/certs" && cp "$work/ca.pem" "$work/certs/ca.crt"
export REGISTRY_AUTH_FILE=$DOCKER_CONFIG/config.json
skopeo copy -q --all "${tls[@]}" "docker://$image" "oci:$work/all:v1"
got=$(skopeo inspect --raw --cert-dir "$work/certs" "docker://$image" | sha256sum | cut -d' ' -f1)
[ "sha256:$got" = "$digest" ] || fail "pushed $digest, the registry has sha256:$got"

say "umoci"
skopeo copy -q --override-arch "$native" "${tls[@]}" "docker://$image" "oci:$work/layout:v1"
rootless=(); [ "$(id -u)" = 0 ] || rootless=(--rootless)
umoci unpack "${rootless[@]}" --image "$work/layout:v1" "$work/bundle" >/dev/null
test -x "$work/bundle/rootfs/bin/hello"
if [ "$(id -u)" = 0 ]; then [ "$(stat -c %u "$work/bundle/rootfs/srv/data")" = 1234 ]; fi

say "the judge can tell"
layer=$(find "$work/registry" -name data -path '*/blobs/*' -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
cp "$layer" "$work/kept"
printf 'X' | dd of="$layer" bs=1 seek=600 conv=notrunc status=none
"${judge[@]}" "${names[@]}" >"$work/judged" && fail "a changed blob is taken for good"
cp "$work/kept" "$layer"

say "pull it back with every platform's blobs checked"
RBUILD_ROOT=$work/third-store "$rbuild" pull "${ca[@]}" -q "$image"

say "a Docker engine"
[ "$(id -u)" = 0 ] || skip "the rest: not root"
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  skip "the rest: no Docker engine"
fi
if DOCKER_HOST=unix://$work/nobody.sock "$rbuild" --build-context "$base" -t loaded:v1 --load "$work/context" 2>"$work/none"; then
  fail "--load without an engine succeeds"
fi
grep -q "no Docker engine" "$work/none" || fail "--load without an engine says something else"
dockerd --data-root "$work/docker" --exec-root "$work/docker-exec" --pidfile "$work/docker.pid" \
  --host "unix://$work/docker.sock" --bridge=none --iptables=false \
  --storage-driver=overlay2 >"$work/dockerd.log" 2>&1 &
pids+=($!)
export DOCKER_HOST=unix://$work/docker.sock
for _ in $(seq 100); do
  docker info >/dev/null 2>&1 && break
  kill -0 "${pids[-1]}" 2>/dev/null || { tail -5 "$work/dockerd.log"; skip "the rest: dockerd does not start here"; }
  sleep 0.3
done
"$rbuild" --build-context "$base" -t loaded:v1 --load "$work/context"
docker image inspect loaded:v1 >/dev/null || fail "the engine does not have what was loaded"
# The engine takes certificates of loopback registries as they are; the password is the one that rbuild stored.
docker pull -q "$image"
for name in loaded:v1 "$image"; do
  got=$(docker run --rm --network=none "$name") || { tail -5 "$work/dockerd.log"; fail "$name does not run"; }
  [ "$got" = "hello world" ] || fail "$name says: $got"
done

say "all of it works"
