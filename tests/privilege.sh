#!/usr/bin/env bash
# One Dockerfile in the environments that builders meet: `rbuild doctor` has to name the isolation that is possible, a build has to
# use it, and the layers have to be the same everywhere. Where steps cannot be run, a build without any still works, and one
# with some ends with status 3 and says what to change.
#
#   host     root                             stock    root in a container, Docker's default capabilities, filter
#   user     an ordinary user                 stock-u  the same as user 1000
#   pod      user 1000, no filter             restricted  user 1000, no capabilities, no new privileges, read-only root
#   admin    root with CAP_SYS_ADMIN, its root an overlay      sealed   the same as restricted, without ptrace
#   mapped   root of a user namespace, default capabilities     mapped-admin  the same with CAP_SYS_ADMIN
#
# The containers are runc's, on a busybox root. Their filter refuses what Docker's refuses of namespaces and mounts.
# Needs root and the tools below; says what is missing and skips. $RBUILD is the program [target/release/rbuild].
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIP: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
for tool in runc python3 setpriv unshare; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[ -x /bin/busybox ] || skip "/bin/busybox is not there (Debian: busybox-static)"
rbuild=$(realpath "${RBUILD:-target/release/rbuild}")
[ -x "$rbuild" ] || skip "$rbuild is not there; cargo build --release makes it"

work=$(mktemp -d)
cleanup() {
  umount -R "$work"/*/rootfs 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
chmod 755 "$work"

# What is built. Only busybox, so that nothing has to be fetched.
mkdir "$work/context"
cp /bin/busybox "$work/context/"
cp "$rbuild" "$work/rbuild"
chmod 755 "$work/rbuild"
echo secret >"$work/context/token"
echo content >"$work/context/file"
# With the libraries that they are linked to: nobody links them statically.
mkdir "$work/context/tools"
if setcap=$(PATH=$PATH:/sbin:/usr/sbin command -v setcap) && getcap=$(PATH=$PATH:/sbin:/usr/sbin command -v getcap); then
  ldd "$setcap" "$getcap" | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$work/context/tools$(dirname "$library")"
    cp -L "$library" "$work/context/tools$library"
  done
  mkdir -p "$work/context/tools/bin"
  cp -L "$setcap" "$getcap" "$work/context/tools/bin/"
  cp "$work/context/file" "$work/context/able"
  setcap cap_net_raw+ep "$work/context/able"
else
  skip "setcap is not installed (Debian: libcap2-bin)"
fi
cat >"$work/context/Dockerfile" <<'DOCKERFILE'
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /tmp && chmod 1777 /tmp \
 && echo "root:x:0:0:root:/root:/bin/sh" >/etc/passwd && echo "root:x:0:" >/etc/group \
 && echo "app:x:1234:1234::/home/app:/bin/sh" >>/etc/passwd && echo "app:x:1234:" >>/etc/group
FROM base AS made
RUN mkdir -p /srv/d && echo a >/srv/d/f && chown -R 1234:5678 /srv/d && chmod 4755 /srv/d/f \
 && ln -s x /srv/l && chown -h 7:8 /srv/l && mkfifo /srv/p && ln /srv/d/f /srv/hard
COPY --chown=33:44 --chmod=640 file /srv/file
COPY able /srv/able
RUN --mount=type=tmpfs,target=/m/t --mount=type=cache,target=/m/c --mount=type=bind,target=/m/b \
    --mount=type=secret,id=token,target=/m/s \
    touch /m/t/x /m/c/y && test -f /m/b/file && test "$(cat /m/s)" = secret && echo ok >/out
RUN --mount=type=bind,source=tools,target=/tools \
    export LD_LIBRARY_PATH=$(ls -d /tools/lib/* /tools/usr/lib/* 2>/dev/null | tr '\n' ':'); \
    run() { $(ls /tools/lib64/ld-linux-* /tools/lib/ld-linux-* 2>/dev/null | head -n 1) "/tools/bin/$@"; } \
 && cp /srv/file /srv/net && run setcap cap_net_bind_service,cap_net_raw=ep /srv/net && chmod 755 /srv/net \
 && cp /srv/file /srv/lost && run setcap cap_net_raw=ep /srv/lost && chown 5:6 /srv/lost \
 && mv /srv/net /srv/renamed && run getcap /srv/renamed /srv/lost /srv/able >/caps
RUN rm -rf /srv/d && mkdir /srv/d && touch /srv/d/new && rm /srv/hard
USER app
WORKDIR /home/app
RUN test "$(id -u):$(id -g)" = 1234:1234 && touch mine && echo "$HOME" >home && test -c /dev/null && ls /proc/self >/dev/null
USER root
RUN stat -c "%u:%g %a" /home/app/mine /srv/file /srv/l >/owners && mkdir -p /root && ls -d /root >>/owners
FROM base
COPY --from=made /srv /srv
COPY --from=made /owners /caps /out /
RUN test -f /out && cat /owners /caps >/seen && grep -q 'renamed.*net_bind_service' /caps && grep -q 'able.*net_raw' /caps && ! grep lost /caps
DOCKERFILE
printf 'FROM scratch\nCOPY --chown=12:34 file busybox /\nLABEL a=b\n' >"$work/context/Dockerfile.files"

# Runs in each environment; prints `isolation`, `files DIGESTS`, `steps DIGESTS` or `refused`.
cat >"$work/inside" <<'INSIDE'
#!/bin/busybox sh
set -eu
export SOURCE_DATE_EPOCH=1700000000
/bin/busybox mkdir -p "$HOME"
cd "$HOME"
layers() { "$PROGRAM" inspect "$1" | /bin/busybox tr -d ' \n' | /bin/busybox sed 's/.*"diff_ids":\[\([^]]*\)\].*/\1/'; }
echo "isolation $("$PROGRAM" doctor --json | /bin/busybox sed -n 's/^  "isolation": "*\([a-z]*\).*/\1/p')"
"$PROGRAM" --progress=plain -t files -o type=image,rewrite-timestamp=true -f "$CONTEXT/Dockerfile.files" "$CONTEXT" 2>log ||
  { /bin/busybox cat log; exit 1; }
echo "files $(layers files)"
status=0
"$PROGRAM" --progress=plain -t steps -o type=image,rewrite-timestamp=true --secret id=token,src="$CONTEXT/token" "$CONTEXT" 2>log || status=$?
case $status in
  0) echo "steps $(layers steps)" ;;
  3) /bin/busybox grep -q '^hint: ' log && echo refused || { /bin/busybox cat log; exit 1; } ;;
  *) /bin/busybox cat log; exit 1 ;;
esac
INSIDE
chmod 755 "$work/inside"

# A bundle of runc: its name, what it differs in.
bundle() {
  local dir=$work/$1
  mkdir -p "$dir/rootfs"/{bin,etc,proc,sys,dev,tmp,data,var,context}
  cp /bin/busybox "$dir/rootfs/bin/"
  echo "root:x:0:0:root:/root:/bin/sh" >"$dir/rootfs/etc/passwd"
  chmod 1777 "$dir/rootfs/tmp"
  if [ "$1" = admin ]; then
    mkdir "$dir/over" "$dir/lower"
    mv "$dir/rootfs" "$dir/lower/rootfs"
    mkdir "$dir/rootfs" "$dir/over/upper" "$dir/over/work"
    mount -t overlay -o "lowerdir=$dir/lower/rootfs,upperdir=$dir/over/upper,workdir=$dir/over/work" overlay "$dir/rootfs"
  fi
  (cd "$dir" && runc spec)
  python3 - "$1" "$work" <<'PY'
import json, os, sys
name, work = sys.argv[1:]
path = f"{work}/{name}/config.json"
config = json.load(open(path))
caps = {f"CAP_{c}" for c in """CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
    NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE""".split()}
mapped, user = name.startswith("mapped"), name in ("stock-u", "restricted", "sealed", "pod")
admin = name.endswith("admin")
restricted = name in ("restricted", "sealed")
if admin: caps.add("CAP_SYS_ADMIN")
# A process that is not root has none of them after exec.
kept = [] if user else sorted(caps)
process = config["process"]
# Without a volume of its own, admin keeps its store on the overlay.
data = "/var/data" if name == "admin" else "/data"
process.update(terminal=False, args=["/bin/busybox", "sh", "/inside"], cwd="/", noNewPrivileges=restricted,
    env=["PATH=/bin", f"HOME={data}", f"TMPDIR={data}", f"RBUILD_ROOT={data}/store", "PROGRAM=/rbuild", "CONTEXT=/context"])
process["user"] = {"uid": 1000, "gid": 1000} if user else {"uid": 0, "gid": 0}
process["capabilities"] = {k: kept if k != "bounding" or restricted else sorted(caps)
                           for k in ("bounding", "effective", "permitted")}
config["root"]["readonly"] = restricted
linux = config["linux"]
bind = lambda source, target: {"destination": target, "type": "bind", "source": source, "options": ["rbind", "ro"]}
config["mounts"] += [bind(f"{work}/rbuild", "/rbuild"), bind(f"{work}/inside", "/inside"), bind(f"{work}/context", "/context")]
if name != "admin":
    volume = f"{work}/{name}/volume"
    os.mkdir(volume)
    owner = 500000 if mapped else process["user"]["uid"]
    os.chown(volume, owner, owner)
    config["mounts"].append({**bind(volume, "/data"), "options": ["rbind", "rw"]})
if mapped:
    ids = [{"containerID": 0, "hostID": 500000, "size": 65536}]
    linux.update(uidMappings=ids, gidMappings=ids)
    linux["namespaces"].append({"type": "user"})
    for top, dirs, files in os.walk(f"{work}/{name}/rootfs"):
        for entry in [top, *(os.path.join(top, f) for f in files)]: os.lchown(entry, 500000, 500000)
if name != "pod" and not admin:
    refuse = lambda names, errno, **more: {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, **more}
    NEW_USER_AND_OTHERS = 0x7e020000
    linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"] if os.uname().machine == "x86_64" else
        ["SCMP_ARCH_AARCH64"], "syscalls": [
        refuse(["unshare", "setns", "mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount",
                "open_tree", "mount_setattr", "bpf", "perf_event_open", "keyctl", "add_key", "request_key"], 1),
        refuse(["clone3"], 38),
        *([refuse(["ptrace"], 1)] if name == "sealed" else []),
        *[refuse(["clone"], 1, args=[{"index": 0, "value": 1 << bit, "valueTwo": 1 << bit, "op": "SCMP_CMP_MASKED_EQ"}])
          for bit in range(32) if NEW_USER_AND_OTHERS >> bit & 1]]}
json.dump(config, open(path, "w"))
PY
}

# In a mount namespace of its own, so that nothing stays mounted.
in_environment() {
  case $1 in
    host | user)
      local become=()
      mkdir "$work/$1"
      [ "$1" = host ] || { chown 54321:54321 "$work/$1"; become=(setpriv --reuid=54321 --regid=54321 --clear-groups); }
      "${become[@]}" env -i PATH=/usr/bin:/bin HOME="$work/$1" TMPDIR="$work/$1" RBUILD_ROOT="$work/$1/store" \
        PROGRAM="$work/rbuild" CONTEXT="$work/context" /bin/busybox sh "$work/inside"
      ;;
    *)
      bundle "$1"
      (cd "$work/$1" && runc --root "$work/runc" run "rbuild-$1-$$")
      ;;
  esac
}

# Registers are known of one machine.
emulate=null
[ "$(uname -m)" != x86_64 ] || emulate=emulate

failed=0
files='' steps=''
while read -r name expected; do
  if ! said=$(in_environment "$name" 2>&1 </dev/null); then
    # A machine whose own kernel or container refuses the environment itself tells nothing about rbuild.
    if grep -q '^isolation ' <<<"$said"; then
      echo "FAIL: $name: $said"
      failed=1
    else
      echo "SKIP: $name: $(tail -n 1 <<<"$said")"
    fi
    continue
  fi
  field() { sed -n "s/^$1 *//p" <<<"$said"; }
  [ "$(field isolation)" = "$expected" ] || { echo "FAIL: $name: doctor says $(field isolation), not $expected"; failed=1; }
  : "${files:=$(field files)}"
  [ "$(field files)" = "$files" ] || { echo "FAIL: $name: other files: $(field files), not $files"; failed=1; }
  if [ "$expected" = null ]; then
    grep -q '^refused' <<<"$said" || { echo "FAIL: $name: steps were run"; failed=1; }
  else
    : "${steps:=$(field steps)}"
    [ -n "$steps" ] && [ "$(field steps)" = "$steps" ] || { echo "FAIL: $name: other layers: $said, not $steps"; failed=1; }
  fi
  echo "ok: $name: $(field isolation)"
done <<ENVIRONMENTS
host native
user userns
stock chroot
stock-u $emulate
restricted $emulate
sealed null
pod userns
admin native
mapped chroot
mapped-admin userns
ENVIRONMENTS
[ "$failed" = 0 ] || exit 1
echo "the same layers everywhere: $(tr ',' '\n' <<<"$steps" | wc -l) of them"
