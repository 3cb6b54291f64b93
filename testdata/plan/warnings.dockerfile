# What planning warns about.
#! arg VERSON=1
#! all-stages
ARG VERSION=1
ARG BASE
FROM --platform=$TARGETPLATFORM alpine:3.20 AS a
FROM --platform=linux/amd64 alpine:3.20$VERSOIN AS b
FROM ${BASE:-alpine:3.20} AS c
ENV TOKEN=x legacy=1
ENV legacy value
COPY $nowhere /x
WORKDIR rel
CMD one
CMD two
EXPOSE 80/TCP 127.0.0.1:80:81
FROM scratch
# check=skip=UndefinedVar
COPY $nowhere /x
