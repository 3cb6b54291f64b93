# syntax=docker/dockerfile:1
# check=skip=all
# Syntax = docker/dockerfile:2
FROM scratch
