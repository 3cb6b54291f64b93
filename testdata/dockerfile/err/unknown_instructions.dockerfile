FROM scratch
RUM a
rum b
Rum c
XYZZY
\
FROMM x
