# Flags and sources of COPY and ADD.
FROM alpine:3.20
ARG owner=app mode=u=rwX,go=rX sum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
COPY --chown=$owner:$owner --chmod=0644 --link --exclude=*.md --exclude=!a.md . /app
COPY --chown=$owner --link a /b/
COPY --parents --chmod=$mode a/./b c/**/d /p/
ADD --checksum=$sum https://example.com/a.tar.gz /
ADD --keep-git-dir=true git@example.com:a/b.git#v1:dir /git
ADD --unpack=true --chown= https://example.com/b.tar x.tar /dest/
COPY "quoted" $undefined${owner}s /q
