FROM scratch
COPY "a b" c\ d /x
ENV A="b c" 'D E'=f G=h"i j"k L=\"m
ENV O P Q
ENV R  "S"
LABEL a b=c
LABEL "a=b" c=d
ARG "A=b c" D='e f'
EXPOSE "80 81"
USER "a b"
