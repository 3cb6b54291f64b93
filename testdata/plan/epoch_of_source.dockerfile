# A stage that stands for the time of what it adds. The time has to be asked for.
ARG TAG=v1
ARG SOURCE_DATE_EPOCH=source
FROM scratch AS source
ARG TAG
ADD --checksum=abc https://example.com/a.git#$TAG /
FROM alpine:3.20
