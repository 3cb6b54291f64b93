# A file comment.

# build compiles
# and this, too
FROM scratch AS build
# forgotten
#
# VERSION is the version
  # indented comments keep their sign
ARG VERSION
RUN a # no comment
# trailing
