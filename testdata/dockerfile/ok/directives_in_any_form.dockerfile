#  SYNTAX = docker/dockerfile:1 extra words
#escape=\
# check = skip=JSONArgsRecommended;error=true
FROM scratch
CMD a \
 b
