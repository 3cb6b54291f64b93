# The forms of heredocs.
FROM alpine:3.20
ARG WHO=world
RUN <<EOF
echo "hello $WHO"
echo again
EOF
RUN <<-EOF
	#!/usr/bin/env python3
	print("hello")
	EOF
RUN python3 <<EOF > /out
print("$WHO")
EOF
RUN cat <<A >a && cat <<B >b
1
A
2
B
COPY <<a.txt <<"b.txt" config/* /dest/
hello $WHO 'quoted' \$WHO
a.txt
raw $WHO
b.txt
SHELL ["/bin/bash", "-c"]
RUN <<EOF
echo bash
EOF
