FROM scratch as a
MAINTAINER one
ENV A
