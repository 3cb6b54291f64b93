# Named contexts in place of stages and images.
#! context stage=directory
#! context tools=image
#! context golang:1.22::linux/amd64=directory
#! context nothing=scratch
#! context late=directory
FROM no/such/image AS stage
RUN never
FROM stage AS child
RUN echo child
COPY --from=late / /
FROM docker.io/library/tools:latest AS image
COPY --from=stage /a /
COPY --from=golang:1.22 /b /
COPY --from=nothing /c /
FROM no/such/image AS late
FROM golang:1.22
COPY --from=child / /
COPY --from=image / /
RUN --mount=from=tools,target=/t true
