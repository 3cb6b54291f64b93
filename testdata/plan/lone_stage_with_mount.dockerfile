# A lone stage has no name in progress, unless a step has a mount.
FROM alpine:3.20
RUN --mount=type=tmpfs,target=/t true
WORKDIR /a
WORKDIR /b
COPY 1 1
COPY 2 2
COPY 3 3
COPY 4 4
COPY 5 5
COPY 6 6
