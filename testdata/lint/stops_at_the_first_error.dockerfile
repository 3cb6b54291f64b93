FROM scratch as a
MAINTAINER one
RUN a \

 b
Run c
BOGUS
MAINTAINER two
