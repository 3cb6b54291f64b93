# Every kind of mount, with defaults and without.
#! arg BUILDKIT_CACHE_MOUNT_NS=team
FROM alpine:3.20 AS seed
FROM alpine:3.20
WORKDIR /w
ENV dir=sub id=named
RUN --mount=target=/ctx --mount=type=bind,from=seed,source=/etc,target=etc,rw true
RUN --mount=type=cache,target=/own,uid=7,gid=8,mode=0750 --mount=type=cache,target=/root/.cache/../.go --mount=type=cache,id=$id,target=$dir,sharing=locked,from=seed,source=/var,uid=1000,gid=100,mode=0700,ro true
RUN --mount=type=tmpfs,target=/tmp,size=64m --mount=type=tmpfs,target=/run true
RUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B --mount=type=secret,id=c,env=C,target=/c,required,mode=0440,uid=5,gid=6 --mount=type=secret,target=d/e echo $B
RUN --mount=type=ssh --mount=type=ssh,id=other,target=/agent,required=true true
RUN --mount=from=golang:1.22,target=/go,source=usr/local/go --network=none --security=insecure true
RUN --network=host ["exec", "form $id"]
