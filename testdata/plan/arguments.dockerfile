# Scopes and precedence of arguments.
#! arg GIVEN=from the command line
#! arg http_proxy=http://proxy:3128
#! arg NO_PROXY=localhost
#! arg UNKNWON=1
ARG GLOBAL=global
ARG DERIVED=${GLOBAL}-derived
ARG EMPTY
ARG GIVEN=default
ARG UNKNOWN
FROM alpine:3.20 AS parent
RUN echo "$GLOBAL is not visible here"
ARG GLOBAL
ARG DERIVED=own EMPTY GIVEN
ARG ONE=1 TWO=${ONE}2 THREE="${TWO}3"
ENV ONE=env
RUN echo $ONE
ARG ONE=arg
RUN echo $ONE
ENV TWO=$THREE
FROM parent
RUN echo $ONE $TWO
ARG TARGETPLATFORM
ARG TARGETSTAGE BUILDARCH TARGETVARIANT
RUN echo $TARGETPLATFORM
