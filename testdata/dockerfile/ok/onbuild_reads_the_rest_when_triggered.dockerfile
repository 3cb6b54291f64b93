FROM scratch
ONBUILD FOO bar
ONBUILD RUN --nope x
ONBUILD   copy a
onbuild ENV a=b
ONBUILD SHELL sh
