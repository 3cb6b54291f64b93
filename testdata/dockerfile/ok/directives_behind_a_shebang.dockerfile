#!/usr/bin/env rbuild
# syntax=docker/dockerfile:1
# check=skip=all
# escape=`
FROM scratch
RUN a \
b
