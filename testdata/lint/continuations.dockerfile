FROM scratch
RUN a \

 b \

 c
RUN <<EOF \

 cat
body
EOF
RUN d \

