# Images are asked for only if the target needs them; each once.
FROM unused AS unused
FROM quay.io/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 AS one
FROM --platform=linux/arm64 two:tag AS two
FROM alpine:3.20
COPY --from=one / /
COPY --from=two / /
COPY --from=three / /
RUN --mount=from=three,target=/t true
