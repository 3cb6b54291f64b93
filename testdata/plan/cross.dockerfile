# A cross build for several platforms.
#! platform linux/arm64
#! multi
FROM --platform=$BUILDPLATFORM golang:1.22 AS build
RUN before the argument
ARG TARGETARCH TARGETVARIANT
RUN GOARCH=$TARGETARCH go build
FROM --platform=linux/arm/v7 arm-only AS constant
RUN no
FROM arm-only
COPY --from=build /app /app
COPY --from=constant / /
