# Everything that changes the config of an image.
FROM golang:1.22
LABEL a=1 "b c"="d e" f=$GOPATH
ENV A=1 B="two words" A2=$A
ENV A=3 B=$A
ENV legacy value with  blanks
EXPOSE 8080 53/UDP 7000-7002
VOLUME /data "/quoted"
VOLUME ["/json", "$GOPATH/x"]
USER $A:staff
STOPSIGNAL SIGTERM
MAINTAINER somebody <s@example.com>
HEALTHCHECK --interval=90s --timeout=1.5s --retries=2 CMD curl "localhost" || exit 1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
CMD echo "$A"
ENTRYPOINT exec "$0"
ONBUILD RUN echo $later
WORKDIR /
