# foo=bar
# escape=`
FROM scratch
RUN a `
