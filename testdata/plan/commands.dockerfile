# What CMD and ENTRYPOINT do to each other and to those of the base.
FROM golang:1.22 AS drops-the-command-of-the-base
ENTRYPOINT ["a", "b \"quoted\""]
FROM golang:1.22 AS keeps-its-own
CMD ["mine"]
ENTRYPOINT ["a"]
FROM keeps-its-own AS drops-that-of-the-stage
ENTRYPOINT ["b"]
FROM golang:1.22 AS clears
ENTRYPOINT []
CMD []
HEALTHCHECK NONE
FROM scratch
COPY --from=drops-the-command-of-the-base / /1
COPY --from=keeps-its-own / /2
COPY --from=drops-that-of-the-stage / /3
COPY --from=clears / /4
