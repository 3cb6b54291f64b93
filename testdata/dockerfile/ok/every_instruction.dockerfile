ARG BASE=alpine:3.20 EMPTY= NAMED
FROM --platform=$BUILDPLATFORM ${BASE} AS Build
ADD --chown=1:2 --chmod=0644 --link --keep-git-dir=false --checksum=sha256:$SUM --unpack --exclude=*.md --exclude=!a.md https://example.org/a.tgz ["b c"] /src/
ARG A B=1 C="x y"
CMD ["run", "--fast"]
COPY --from=build --chown=$U:$G --chmod=u=rwX --link=true --parents --exclude=**/*.o ["a b", "c", "/d e/"]
ENTRYPOINT exec top -b
ENV K=v K2="v 2" K3=a\ b K4='$x' K5=
EXPOSE 80 443/TCP $PORTS
HEALTHCHECK --interval=1m30s --timeout=3s --start-period=500ms --start-interval=0 --retries=3 CMD curl -f http://localhost/
HEALTHCHECK CMD ["true"]
HEALTHCHECK none
LABEL "a b"="c d" e.f=g\
h
MAINTAINER Somebody <some@body.example>
ONBUILD COPY . /app
ONBUILD RUN --mount=type=cache,target=/c make
RUN --mount=type=secret,id=x --mount=target=.,rw --network=none --security=insecure --device=vendor.com/class=dev,required --device=required=true,name=y make  all
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
STOPSIGNAL $SIG
USER me:you
VOLUME ["/data one", "/data two"]
VOLUME /a   /b
WORKDIR "/a b/c"
