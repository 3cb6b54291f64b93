FROM scratch
ENV A
ENV =b
ENV A=b C D=e
ENV ""
LABEL A
LABEL a=b =c
ARG =x
