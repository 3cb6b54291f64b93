# check=experimental=all
# nothing
FROM scratch AS a
# a is right
FROM scratch AS A
# fine

ARG x
# y is wrong
ARG x z
#
ARG w
# other comments
RUN x
