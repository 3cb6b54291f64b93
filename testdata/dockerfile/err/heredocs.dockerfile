FROM scratch
COPY a <<EOF
EOF
ADD <<A <<B
A
B
COPY ["a", "<<EOF"]
RUN a <<EOF
FROM never
EOF_
