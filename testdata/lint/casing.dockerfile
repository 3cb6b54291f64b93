ARG x
from scratch as A
FROM scratch As b
RUN x
Run y
run z
RUN w
onbuild run a
