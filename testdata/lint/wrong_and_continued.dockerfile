FROM scratch [ x
SHELL /bin/sh \

SHELL x\

