# just a comment
# escape=`
# syntax=some/thing:1
FROM scratch
RUN a \
 b
