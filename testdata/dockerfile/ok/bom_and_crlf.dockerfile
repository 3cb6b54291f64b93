# escape=`
FROM scratch
RUN a `
  b \

COPY <<EOF /x
body
EOF
