# Only what the target needs is planned; names have no case; a later stage of a name hides the earlier one.
#! target Final
FROM alpine:3.20 AS Base
RUN echo base
FROM base AS unused
RUN echo unused
FROM no/such/image AS unused-too
FROM base AS tool
ENV ADDED=1
FROM alpine:3.20 AS tool
COPY --from=0 /a /b
FROM scratch AS final
COPY --from=TOOL /b /c
COPY --from=golang:1.22 /usr/local/go /go
COPY --from=scratch . /nothing/
FROM final AS after
RUN never
