#!/usr/bin/env bash
# A real build on Debian, judged by other programs: a base from mmdebstrap in a local registry, packages installed in a
# RUN step, a second stage, the result pushed. Then skopeo, umoci and a Docker engine have to accept it, and the program
# in it has to run.
#
# Needs root and the tools below; says what is missing and skips. $RBUILD is the program [target/release/rbuild].
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIP: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
for tool in mmdebstrap docker-registry skopeo umoci python3; do
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
export HOME=$work/home RBUILD_ROOT=$work/store DOCKER_CONFIG=$work/home
mkdir -p "$HOME"
say() { printf '\n--- %s\n' "$*"; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

say "a registry"
port=$(free_port)
registry=127.0.0.1:$port
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: $registry}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
pids+=($!)
for _ in $(seq 50); do
  python3 -c "import urllib.request as u; u.urlopen('http://$registry/v2/')" 2>/dev/null && break
  sleep 0.2
done

say "a base image"
mmdebstrap --variant=apt --quiet bookworm "$work/base.tar" 2>"$work/mmdebstrap.log" ||
  { tail -3 "$work/mmdebstrap.log"; skip "mmdebstrap cannot reach a Debian mirror"; }
mkdir -p "$work/base" "$work/context"
mv "$work/base.tar" "$work/base/rootfs.tar"
cat >"$work/base/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD rootfs.tar /
# The mirror that this machine uses may be an address that only it can reach.
CMD ["bash"]
DOCKERFILE
"$rbuild" --progress=plain -t "$registry/debian:bookworm" --push "$work/base"

say "a key file for a step"
if command -v ssh-keygen >/dev/null; then
  mkdir "$work/ssh"
  ssh-keygen -q -t ed25519 -N '' -C rbuild-test -f "$work/ssh/key"
  cat >"$work/ssh/Dockerfile" <<DOCKERFILE
FROM $registry/debian:bookworm
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openssh-client
RUN --mount=type=ssh ssh-add -l >/keys
RUN --mount=type=ssh,id=default,uid=1000,mode=0600 --mount=type=bind,target=/context \
    ssh-keygen -Y sign -n file -f /context/key.pub /keys
DOCKERFILE
  printf 'key\n' >"$work/ssh/.dockerignore"
  "$rbuild" --progress=plain --ssh "default=$work/ssh/key" -o "type=local,dest=$work/signed" "$work/ssh"
  grep -q rbuild-test "$work/signed/keys"
  ssh-keygen -Y check-novalidate -n file -s "$work/signed/keys.sig" <"$work/signed/keys"
else
  echo "no ssh-keygen; not tried"
fi

say "the build"
cat >"$work/context/main.py" <<'PYTHON'
import json, sys
print(json.dumps({"python": sys.version_info.major, "argv": sys.argv[1:]}))
PYTHON
cat >"$work/context/Dockerfile" <<DOCKERFILE
FROM $registry/debian:bookworm AS packages
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1234 app

FROM packages AS compiled
WORKDIR /src
COPY main.py .
RUN python3 -m compileall -q . && echo built > /src/stamp

FROM packages
COPY --from=compiled --chown=app:app /src /app
USER app
WORKDIR /app
ENTRYPOINT ["python3", "/app/main.py"]
CMD ["default"]
DOCKERFILE
image=$registry/app:v1
"$rbuild" --progress=plain -t "$image" --push --iidfile "$work/iid" "$work/context"

say "a second build finds everything"
"$rbuild" --progress=plain -t "$image" --iidfile "$work/iid2" "$work/context" 2>"$work/second.log"
cmp "$work/iid" "$work/iid2"
if grep -E '^#[0-9]+ [0-9]+\.[0-9]{3} ' "$work/second.log"; then
  echo "FAIL: a step ran again"; exit 1
fi

say "skopeo"
skopeo inspect --tls-verify=false "docker://$image" >"$work/inspect.json"
python3 - "$work/inspect.json" <<'PYTHON'
import json, sys
image = json.load(open(sys.argv[1]))
assert image["Architecture"] and len(image["Layers"]) == 5, image["Layers"]
PYTHON

say "umoci"
skopeo copy -q --src-tls-verify=false "docker://$image" "oci:$work/layout:v1"
umoci unpack --image "$work/layout:v1" "$work/bundle" >/dev/null
test -x "$work/bundle/rootfs/usr/bin/python3"
[ "$(stat -c %u "$work/bundle/rootfs/app/main.py")" = 1234 ]
[ "$(chroot "$work/bundle/rootfs" /usr/bin/python3 /app/main.py x)" = '{"python": 3, "argv": ["x"]}' ]

say "a Docker engine"
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  skip "the rest: no Docker engine"
fi
dockerd --data-root "$work/docker" --exec-root "$work/docker-exec" --pidfile "$work/docker.pid" \
  --host "unix://$work/docker.sock" --insecure-registry "$registry" --bridge=none --iptables=false \
  --storage-driver=overlay2 >"$work/dockerd.log" 2>&1 &
pids+=($!)
docker="docker --host unix://$work/docker.sock"
for _ in $(seq 100); do
  $docker info >/dev/null 2>&1 && break
  kill -0 "${pids[-1]}" 2>/dev/null || { tail -5 "$work/dockerd.log"; skip "the rest: dockerd does not start here"; }
  sleep 0.3
done
$docker pull -q "$image"
got=$($docker run --rm --network=none "$image" one two)
echo "$got"
[ "$got" = '{"python": 3, "argv": ["one", "two"]}' ]
"$rbuild" save -o "$work/image.tar" "$image"
$docker load -q -i "$work/image.tar"

say "all of it works"
